// Times one MoE layer on a GPU the way its users run it: CUDA-graph replay, weights from memory.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "moe/experts.h"
#include "moe/layer_presets.h"

namespace moe4 {

/// Whose tokens a call has (ExpertsArgs::num_decode_tokens).
enum class TokenPhase { kUnknown, kDecode, kPrompt };

struct GpuMoeBenchOptions {
  std::string name;  ///< of the shape, for reports
  MoePreset layer;   ///< its scheme: kW4A16 or kMxfp4W4A16
  std::vector<int64_t> tokens;
  std::vector<TokenPhase> phases;  ///< of `tokens`; empty: all unknown
  std::vector<const ExpertsBackend*> backends;
  ActivationPrecision precision = ActivationPrecision::kBf16;
  Device device;
  ThreadPool* threads = nullptr;
  Tuning tuning;  ///< for every prepare()
  /// Weight copies rotate so that their sum passes this; the L2 then never holds the next call's.
  int64_t rotation_bytes = int64_t{2600} << 20;
  int routings = 24;             ///< uniform without replacement, rotate too
  int replays = 9;               ///< the median is reported
  double bf16_tflops = 0;        ///< dense ceiling of the device; 0: measure it in the run
  int64_t reference_tokens = 4;  ///< tokens of a batch compared with the float64 reference
};

struct GpuMoeBenchRow {
  std::string shape, backend, activations;
  TokenPhase phase = TokenPhase::kUnknown;
  int64_t tokens = 0;
  double experts_hit = 0;   ///< mean distinct experts of a call
  double bytes = 0;         ///< codes and scales of those experts, unpadded
  double microseconds = 0;  ///< median over replays of graph time / calls
  double spread = 0;        ///< (slowest - fastest replay) / median
  double sm_mhz = 0;        ///< SM clock during the replays, which a power limit lowers
  double floor = 0;         ///< max(cold read of the bytes, FLOPs / ceiling), same run
  double sustained = 0;     ///< microseconds once the power limit has been reached for long
  double sustained_sm_mhz = 0;
  double sustained_floor = 0;  ///< `floor` with the sustained ceiling; 0: that is unknown
  int calls = 0;               ///< in the graph
  double gigabytes_per_second = 0;
  double tflops = 0;
  double share_of_bandwidth = 0;  ///< of the cold read of the same bytes
  double share_of_tflops = 0;     ///< of the dense ceiling
  double error = 0;               ///< relative Frobenius error of the sampled tokens
};

/// What was measured under a name.
struct GpuMoeBenchShape {
  std::string name;
  MoePreset layer;
};

/// Microseconds of one kernel that reads `bytes` from memory, in a graph over rotating places.
struct ColdRead {
  double bytes = 0;
  double microseconds = 0;
};

struct GpuMoeBenchReport {
  std::string device;
  double bf16_tflops = 0;
  /// The ceiling once the power limit has been reached for long; 0: unknown, the other was given.
  double bf16_sustained_tflops = 0;
  std::string bf16_tflops_from;  ///< how the ceiling was measured, or "given"
  std::vector<GpuMoeBenchShape> shapes = {};
  std::vector<ColdRead> cold_reads;
  std::vector<GpuMoeBenchRow> rows;

  /// Appends shapes, reads and rows of another run on this device, whose ceiling it takes.
  void add(const GpuMoeBenchReport& other);
};

/// Prepares every backend in turn (one at a time holds memory). Throws Error(kUnavailable) without
/// CUDA or when memory is short.
GpuMoeBenchReport run_gpu_moe_bench(const GpuMoeBenchOptions& options);

/// "decode", "prompt" or "".
std::string_view to_string(TokenPhase phase);

/// A Markdown table, and the same as JSON.
std::string to_markdown(const GpuMoeBenchReport& report);
std::string to_json(const GpuMoeBenchReport& report);

}  // namespace moe4
