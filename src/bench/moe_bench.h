// Times one MoE layer of a real model's shape on random weights: what `moe4 bench-moe` prints.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/thread_pool.h"
#include "bench/ceilings.h"
#include "moe/experts.h"
#include "moe/layer_presets.h"

namespace moe4 {

struct MoeBenchOptions {
  std::vector<int64_t> tokens = {1, 4, 16, 64, 256, 1024};
  /// CPU backends to run, in order. "cpu" and "reference" are known to the registry.
  std::vector<const ExpertsBackend*> backends;
  std::vector<ActivationPrecision> precisions = {ActivationPrecision::kBf16,
                                                 ActivationPrecision::kFp4};
  double seconds_per_row = 1.0;  ///< repeats until this is used up, at least five times
  bool cold = true;              ///< read 96 MiB between runs, so that weights come from memory
  uint64_t seed = 1;
};

/// One line of the table.
struct MoeBenchRow {
  std::string backend;
  ActivationPrecision precision = ActivationPrecision::kBf16;
  int64_t tokens = 0;
  std::string rejection;  ///< why nothing was measured; the rest is zero then
  int runs = 0;
  double experts_hit = 0;  ///< mean over the runs
  double median_ms = 0, min_ms = 0;
  double weight_gbs = 0;     ///< bytes of the hit experts / median time
  double gops = 0;           ///< 2 * (3, without a gate 2) * T * k * H * I / median time
  double dram_read_gbs = 0;  ///< just before and after the row's runs, the mean of both
  double roof1_ms = 0;  ///< max(weight bytes / DRAM read, operations / peak of the instruction)
  double roof2_ms = 0;  ///< the same with the block-16 tile's rate instead of the peak
  double relative_error = 0;  ///< Frobenius, against the float64 reference, on a few tokens
};

struct MoeBenchResult {
  MoePreset preset;
  Ceilings ceilings;
  int64_t weight_bytes = 0;  ///< of the layer in the checkpoint's form
  std::vector<MoeBenchRow> rows;
};

/// Random sane weights of the preset's scheme, uniform routing without repetition within a token.
/// Rows of one run share the machine's ceilings, measured before and after (the better of both).
MoeBenchResult run_moe_bench(const MoePreset& preset, const MoeBenchOptions& options,
                             ThreadPool& threads);

/// A JSON object with everything in the result.
std::string to_json(const MoeBenchResult& result);
/// A Markdown table.
std::string to_markdown(const MoeBenchResult& result);

}  // namespace moe4
