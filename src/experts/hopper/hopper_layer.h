// One packed layer on Hopper: marlin's kernels for small calls, wgmma above a threshold.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "experts/device/packed_layer.h"
#include "experts/hopper/hopper_kernels.h"
#include "experts/marlin/marlin_layer.h"
#include "moe/experts.h"

namespace moe4::cuda {

/// Does not own the weights. The device of the layer must be current in every call.
///
/// Both paths add the same exact products in float32, in different orders: a token's bits are the
/// same in every call that takes the same path, and may differ in the last place of BF16 between
/// the two. A "hopper.min_tokens" of at most 1 (always wgmma) makes them independent of the batch
/// altogether, at the price of the slower kernels for few tokens.
class HopperLayer {
 public:
  /// Throws Error(kUsage) for a value of "hopper.*" that it does not know.
  explicit HopperLayer(const PackedLayer& layer, const Tuning& tuning = {});

  size_t workspace_size(int64_t max_tokens) const;
  void apply(const ExpertsArgs& args) const;

  /// Calls of at least this many tokens take wgmma. Measured default: a mean of 3 tokens an
  /// expert; "hopper.min_tokens" overrides it.
  int64_t min_tokens() const { return min_tokens_; }
  hopper::TileConfig tile_config(int64_t num_tokens) const;
  /// Every call takes the same path only where the threshold leaves marlin none.
  BatchInvariance batch_invariant() const {
    return min_tokens_ <= 1 ? BatchInvariance::kFull : BatchInvariance::kNone;
  }
  /// "wgmma from 96 tokens a call, marlin below".
  std::string describe() const;

 private:
  int64_t slice_tokens() const;
  void apply_slice(const ExpertsArgs& args, int64_t begin, int64_t num_tokens) const;

  const PackedLayer& layer_;
  MarlinLayer small_;
  int sm_count_;
  int64_t min_tokens_;
  std::optional<hopper::TileConfig> forced_config_;  // "hopper.tiles"
};

}  // namespace moe4::cuda
