// Speeds of a generation, computed once for every subcommand that prints them.
#pragma once

#include <optional>
#include <string>

#include "engine/generator.h"

namespace moe4::cli {

/// What this machine's memory gives, and what need not come from it.
struct MemoryReads {
  double gbs = 0;           ///< read bandwidth, GB/s; 0: not measured
  int64_t cache_bytes = 0;  ///< of the largest caches; 0: not known
};

/// Weights that a token reads against the memory's read bandwidth.
struct MemoryShare {
  /// gb_per_second over the bandwidth; none where nothing was measured, and where the weights of a
  /// token fit in the caches: the next token then finds them there, and nothing is a share of
  /// what memory gives. Above 1 when memory was slower while it was measured than before.
  std::optional<double> share;
  bool in_caches = false;
};
MemoryShare memory_share(double gb_per_token, double gb_per_second, const MemoryReads& memory);

/// "97%", "over 100%", "in caches" or "-".
std::string share_cell(const MemoryShare& share);

struct Speed {
  double prompt_tokens_per_second = 0;      ///< of those that were computed
  double generation_tokens_per_second = 0;  ///< 0 when nothing was generated after the first token
  double gb_per_token = 0;                  ///< weight bytes a generated token reads, 10^9 bytes
  double gb_per_second = 0;                 ///< of weights, while generating
  MemoryReads memory;
  MemoryShare memory_share;
};

/// `memory`: of measure_memory(), or nothing.
Speed measure_speed(const GenerateResult& result, int64_t bytes_per_token,
                    const MemoryReads& memory);

/// A quick look (0.1 s) at this machine's memory; a bandwidth of 0 when memory is too short to
/// tell.
MemoryReads measure_memory(ThreadPool& threads);

/// "prompt: 12 tokens at 812.3 tok/s; generation: 64 tokens at 120.1 tok/s, 0.0120 GB per token,
/// ..."; says at its end when there was no room for more.
std::string speed_line(const GenerateResult& result, const Speed& speed);

}  // namespace moe4::cli
