// Device, scheme, precision and shape checks of hopper.
#include "ops/experts/hopper/hopper_supports.h"

#include <fmt/format.h>

#include "moe/support_checks.h"

namespace moe4 {

Support hopper_supports(const ExpertsQuery& query) {
  if (Support no = require_fp4_weights(query)) return no;
  if (Support no = require_activation(query)) return no;
  if (Support no = require_cuda(query, /*min_sm=*/0)) return no;
  if (query.device.sm != 90) {
    return Rejection{Rejection::Kind::kDevice,
                     fmt::format("wgmma exists on sm_90 only, not on {}", to_string(query.device))};
  }
  if (query.precision != ActivationPrecision::kBf16) {
    return Rejection{
        Rejection::Kind::kPrecision,
        fmt::format("it computes with BF16 activations, not {}; b12x (SM12x) and cpu quantise them",
                    to_string(query.precision))};
  }
  return require_whole_blocks(query);
}

BatchBehavior hopper_batch_behavior(const ExpertsQuery& query) {
  if (query.says_phase) {
    return {
        .invariance = BatchInvariance::kByPhase,
        .why =
            "prompts are added up in one chain and generated tokens in runs of columns, each in "
            "one order for calls of any size",
        // docs/benchmarks-gpu.md, "What phases cost"
        .cost =
            "at most 1.6 % of a layer of Qwen3.6-35B-A3B's or Qwen3-30B-A3B's shape at any number "
            "of generated tokens; of DeepSeek-V3's 4 % at one token, 3 % at two, nothing from "
            "four on (H200); prompts that share a step with generated tokens are a call of their "
            "own"};
  }
  return {
      .invariance = BatchInvariance::kNone,
      .why =
          "calls below a mean of 3 tokens an expert (large layers: 1) take marlin's kernels and "
          "larger ones "
          "wgmma, which add in another order, unless the caller says which tokens are generated",
      .cost =
          "marlin instead: 171 us a layer where hopper takes 123 (256 tokens of "
          "Qwen3.6-35B-A3B, H200)"};
}

}  // namespace moe4
