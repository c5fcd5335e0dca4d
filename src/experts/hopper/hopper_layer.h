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
/// the two. MOE4_HOPPER_MIN_TOKENS=1 (always wgmma) or a number above every batch (never) makes
/// them independent of the batch altogether, at the price of the slower kernels on one side.
class HopperLayer {
 public:
  explicit HopperLayer(const PackedLayer& layer);

  size_t workspace_size(int64_t max_tokens) const;
  void apply(const ExpertsArgs& args) const;

  /// Calls of at least this many tokens take wgmma. Measured default: a mean of 3 tokens an
  /// expert; MOE4_HOPPER_MIN_TOKENS overrides it.
  int64_t min_tokens() const { return min_tokens_; }
  hopper::TileConfig tile_config(int64_t num_tokens) const;
  /// "wgmma from 96 tokens a call, marlin below".
  std::string describe() const;

 private:
  int64_t slice_tokens() const;
  void apply_slice(const ExpertsArgs& args, int64_t begin, int64_t num_tokens) const;

  const PackedLayer& layer_;
  MarlinLayer small_;
  int sm_count_;
  int64_t min_tokens_;
  std::optional<hopper::TileConfig> forced_config_;  // MOE4_HOPPER_TILES
};

}  // namespace moe4::cuda
