// Tiles of F16 in shared memory, as DeltaNet's kernels for prompts lay them out.
#pragma once

#include "device/cuda/ptx/mma_f16.cuh"
#include "ops/cuda/recurrent.cuh"

namespace moe4::cuda {

inline constexpr int kWide = 128;  ///< columns of tiles of keys and values

/// Bytes of a row of `columns` F16: 16 more than its own, so that the 8 rows that ldmatrix reads at
/// a time lie in different banks.
constexpr int row_bytes(int columns) { return columns * 2 + 16; }
constexpr int tile_bytes(int columns) { return kChunkTokens * row_bytes(columns); }

}  // namespace moe4::cuda
