// What this machine can do at best: memory reads and integer and float arithmetic, measured in the
// process that measures the layers, so that their ratio means something on a noisy machine.
#pragma once

#include <string>
#include <vector>

#include "base/aligned_buffer.h"
#include "base/thread_pool.h"

namespace moe4 {

/// One multiply and one addition count as two operations. Zero: not measured for this instruction
/// set.
struct Ceilings {
  std::string isa;
  int threads = 0;
  double dram_read_gbs = 0;  ///< GB/s; sequential reads of 512 MiB in 2 MiB pages, a part a thread
  double int8_gops = 0;      ///< vpdpbusd, 512 bits
  double int16_gops = 0;     ///< vpdpwssd, 512 bits; two int8 products of halves cost the same
  double bf16_gops = 0;      ///< vdpbf16ps, 512 bits
  double fma_gops = 0;       ///< float32 fused multiply-add, 512 bits
  /// The cpu backend's own kernels on a panel in L1: NVFP4 unpacking and block scales included.
  struct Tile {
    int tokens;
    double fp4_gops;
    double int16_gops;
  };
  std::vector<Tile> tiles;

  /// Rate of the tile with at most `tokens` tokens, interpolated.
  double tile_gops(double tokens, bool fp4) const;
};

/// Reads 512 MiB again and again. The speed of a shared machine's memory wanders by half within
/// seconds, so a time is worth comparing only with a read just before and after it.
class DramProbe {
 public:
  explicit DramProbe(ThreadPool& threads);
  /// GB/s, the best of a few passes (50 ms in all).
  double measure();

 private:
  ThreadPool& threads_;
  AlignedBuffer buffer_;
};

/// Takes about two seconds.
Ceilings measure_ceilings(ThreadPool& threads);

/// A JSON object in one line.
std::string to_json(const Ceilings& ceilings);

}  // namespace moe4
