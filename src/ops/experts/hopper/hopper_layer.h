// One packed layer on Hopper: marlin's kernels for small calls, wgmma above a threshold.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "moe/experts.h"
#include "ops/experts/gpu/packed_layer.h"
#include "ops/experts/hopper/hopper_kernels.h"
#include "ops/experts/marlin/marlin_layer.h"

namespace moe4::cuda {

/// Does not own the weights. The device of the layer must be current in every call.
///
/// Generated tokens are added up in runs of K (gpu/sum_order.h), by marlin's kernels or by wgmma
/// with narrow tiles, prompts in single chains by wgmma: a token's bits depend on its phase alone
/// (ExpertsArgs::num_decode_tokens). Where decode_order() is single chains, wgmma takes both phases
/// at any number of tokens but one, which has kernels of its own to the same bits. Where the phase
/// is unknown, calls below min_tokens() take marlin's order, others single chains.
class HopperLayer {
 public:
  /// Throws Error(kUsage) for a value of "hopper.*" that it does not know.
  explicit HopperLayer(const PackedLayer& layer, const Tuning& tuning = {});

  size_t workspace_size(int64_t max_tokens) const;
  void apply(const ExpertsArgs& args) const;

  /// Calls of at least this many tokens take wgmma, as far as marlin has their order. Measured
  /// default: a mean of 3 tokens an expert, 1 where decode_order() is single chains (large layers);
  /// "hopper.min_tokens" overrides it.
  int64_t min_tokens() const { return min_tokens_; }
  hopper::TileConfig tile_config(int64_t num_tokens) const;
  /// For callers that may not say the phase: every call takes the same path only where the
  /// threshold leaves marlin none.
  BatchInvariance batch_invariant() const {
    if (min_tokens_ > 1) return BatchInvariance::kNone;
    return order_.single_chains() ? BatchInvariance::kFull : BatchInvariance::kByPhase;
  }
  /// "wgmma from 96 tokens a call, marlin below".
  std::string describe() const;

 private:
  /// How a slice of tokens is added up by wgmma.
  enum class Sums { kChains, kRuns };

  int64_t slice_tokens(Sums sums) const;
  hopper::TileConfig decode_config(int64_t num_tokens) const;
  void apply_wgmma(const ExpertsArgs& args, Sums sums, int64_t begin, int64_t end) const;

  const PackedLayer& layer_;
  SumOrder order_;  // of generated tokens; marlin's, unless it is single chains
  MarlinLayer few_;
  int sm_count_;
  int64_t min_tokens_;
  std::optional<hopper::TileConfig> forced_config_;  // "hopper.tiles"
  bool one_token_ = false;                           // has kernels of its own, of single chains
};

}  // namespace moe4::cuda
