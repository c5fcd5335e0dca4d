// Some tokens of one expert, the unit in which every GPU backend cuts a batch.
#pragma once

#include <cstdint>

#include "numerics/host_device.h"

namespace moe4::cuda {

/// Pairs (token, slot) of one expert: what a kernel multiplies with one pass over its weights.
/// 8 bytes, which wgmma's producers load as such.
struct TokenTile {
  int32_t first;    ///< place of its first pair in the list of pairs
  uint16_t expert;  ///< local index
  uint16_t count;   ///< of pairs
};
static_assert(sizeof(TokenTile) == 8);

MOE4_HOST_DEVICE constexpr TokenTile make_token_tile(int expert, int first, int count) {
  return {first, static_cast<uint16_t>(expert), static_cast<uint16_t>(count)};
}

}  // namespace moe4::cuda
