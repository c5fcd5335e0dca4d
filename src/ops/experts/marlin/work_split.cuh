// Which warp of a grid multiplies what.
#pragma once

#include <cstdint>

#include "ops/experts/gpu/block_routing.cuh"
#include "ops/experts/marlin/marlin_params.h"

namespace moe4::cuda {

/// A warp's place in its block, and its group's range of items (token tile, m32 step).
struct GroupWork {
  int split, group, warp;  ///< `warp` of the group
  int first, count;        ///< none for warps left over
};

/// Groups of `split` warps are numbered across blocks first: those with one item more spread over
/// the SMs. `all` divides by their number.
template <int kWarps>
__device__ __forceinline__ GroupWork divide_items(Divisor all, int split, int items) {
  const int warp = static_cast<int>(threadIdx.x) / 32, group = warp / split;
  GroupWork work{split, group, warp - group * split, 0, 0};
  if (group >= kWarps / split) return work;
  const int me = static_cast<int>(group * gridDim.x + blockIdx.x);
  const int share = static_cast<int>(all.divide(items));
  const int more = items - share * static_cast<int>(gridDim.x * (kWarps / split));
  work.first = me * share + min(me, more);
  work.count = share + (me < more ? 1 : 0);
  return work;
}

/// One m16 unit of FC2.
template <WeightFormat Format>
__device__ __forceinline__ const uint8_t* fc2_unit(const PackedLayerView& layer, int expert,
                                                   int row_tile, int k_unit) {
  const int64_t pairs_of_tiles =
      static_cast<int64_t>(expert) * (layer.fc2_tiles / 2) + row_tile / 2;
  using Unit = UnitLayout<Format>;
  return layer.fc2 + (pairs_of_tiles * layer.fc2_k_units + k_unit) * Unit::kStepBytes +
         (row_tile & 1) * Unit::kBytes;
}

}  // namespace moe4::cuda
