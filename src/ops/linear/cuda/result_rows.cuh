// Where sums go that lie in the registers of wgmma, rows of weights being its rows.
#pragma once

#include "ops/linear/cuda/products.cuh"

namespace moe4::cuda {

/// Results of 8 rows by a warp's registers 4b + 2 upper + {0, 1}; lanes 4g .. 4g + 3 have row g.
template <int kWidth>
__device__ __forceinline__ void store_rows(const Products& p, int panel, int row, int lane,
                                           int first_token, int upper,
                                           const float (&sums)[kWidth / 2]) {
  OutputRow output;
  if (row < p.panels[panel].rows) output = OutputRow(p, panel, row);
  if (__all_sync(~0u, output.is_half_of_pair(row))) {
    // Lanes of rows 2i and 2i + 1 exchange: one has both results of a token, the other of the next.
    const bool odd = lane / 4 % 2 != 0;
#pragma unroll
    for (int b = 0; b < kWidth / 8; ++b) {
      const float v0 = output.value(sums[4 * b + 2 * upper]);
      const float v1 = output.value(sums[4 * b + 2 * upper + 1]);
      const float other = __shfl_xor_sync(~0u, odd ? v0 : v1, 4);
      const int token = first_token + 8 * b + lane % 4 * 2 + (odd ? 1 : 0);
      if (token < p.tokens) output.store_pair(token, odd ? other : v0, odd ? v1 : other);
    }
    return;
  }
  if (!output.is_stored()) return;
#pragma unroll
  for (int i = 0; i < kWidth / 4; ++i) {
    const int token = first_token + i / 2 * 8 + lane % 4 * 2 + i % 2;
    if (token < p.tokens) output.store(token, sums[i / 2 * 4 + upper * 2 + i % 2]);
  }
}

}  // namespace moe4::cuda
