// In which order products along K are added: the same for every batch, whichever kernel multiplies.
//
// K is cut into units of 256 columns and these into runs of consecutive units. A run is one float32
// chain; the runs' sums are added in their order. Both follow from the shape alone.
#pragma once

#include "base/checked_math.h"
#include "ops/experts/gpu/packed_layout.h"

namespace moe4::cuda {

/// Units of a run, for `runs` runs of `k_units`; the last may have fewer, none has none.
MOE4_HOST_DEVICE constexpr int run_units(int k_units, int runs) {
  return (k_units + runs - 1) / runs;
}

/// Runs of FC1's and FC2's K.
struct SumOrder {
  int fc1_runs = 1, fc2_runs = 1;
  /// As prompts are added.
  constexpr bool single_chains() const { return fc1_runs == 1 && fc2_runs == 1; }
};

/// The most runs that keep their warps busy most of the time: with many, the first products of one
/// token are done soon.
constexpr int choose_runs(int k_units) {
  for (const int runs : {8, 4, 2}) {
    if (k_units >= runs && 10 * k_units >= 9 * runs * run_units(k_units, runs)) return runs;
  }
  return 1;
}

/// marlin's order, the quickest for few tokens. FC2's units are apart up to 8, which is how the
/// row-stationary kernel adds.
inline SumOrder quick_order(const MoeProblem& problem) {
  const auto fc1_units = static_cast<int>(ceil_div(problem.hidden_size, int64_t{kUnitK}));
  const auto fc2_units = static_cast<int>(ceil_div(problem.intermediate_size, int64_t{kUnitK}));
  return {choose_runs(fc1_units), fc2_units <= 8 ? fc2_units : choose_runs(fc2_units)};
}

/// One order for any number of generated tokens: the quick one where narrow tiles of wgmma can take
/// hundreds of them; single chains, which all tiles have, where one token alone has m32 steps for
/// nearly all warps of a large GPU (DeepSeek-V3), so that few tokens lose little by them (2.5 % at
/// one on an H200, hopper/one_token_sm90.cu).
inline SumOrder decode_order(const MoeProblem& problem) {
  constexpr int64_t kManySteps = 900;
  const auto steps = [&](const PackedShape& shape) { return shape.tiles / 2 * problem.top_k; };
  const bool many = steps(fc1_shape(WeightFormat::kNvfp4, problem)) >= kManySteps &&
                    steps(fc2_shape(WeightFormat::kNvfp4, problem)) >= kManySteps;
  return many ? SumOrder{} : quick_order(problem);
}

}  // namespace moe4::cuda
