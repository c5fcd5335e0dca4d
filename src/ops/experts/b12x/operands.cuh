// What all of b12x's matrix products share: the registers of weights and tokens and their product.
//
// Weights are the A operand (m32 tiles, two m16 halves), the activations of an expert's tokens the
// B operand, eight columns an mma. Weights go from global memory to registers in 16-byte loads,
// 1152 contiguous bytes for a warp and 64 columns (fragment_layout.h). In the FP4 mode nothing is
// decoded: two mma follow for every eight tokens. In the BF16 mode a chunk is decoded once for all
// token columns.
//
// K is summed in slices of 256: from zero, the slice's four chunks in order, then slice after slice
// onto the total. Every kernel does exactly that, whatever it spreads over warps, so a token's bits
// do not depend on its batch.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <type_traits>
#include <utility>

#include "device/cuda/ptx/memory.cuh"
#include "ops/experts/b12x/block_scaled_mma.cuh"
#include "ops/experts/b12x/decode_bf16.cuh"
#include "ops/experts/b12x/fragment_layout.h"
#include "ops/experts/b12x/kernels.h"

namespace moe4::b12x {

template <int... kIndex, typename Body>
__device__ __forceinline__ void unroll_impl(std::integer_sequence<int, kIndex...>, Body&& body) {
  (body(std::integral_constant<int, kIndex>{}), ...);
}
/// body(integral_constant<int, 0>) ... body(integral_constant<int, kCount - 1>).
template <int kCount, typename Body>
__device__ __forceinline__ void unroll(Body&& body) {
  unroll_impl(std::make_integer_sequence<int, kCount>{}, body);
}

/// A lane's registers of one chunk of an m32 tile.
template <bool kFp4>
struct WeightFragments {
  uint4 codes[2];  // a0 .. a3 of each half
  // FP4: the lane's scale register. BF16: those of its quad, words 2h + r = row g + 8r of half h.
  std::conditional_t<kFp4, uint32_t, uint4> scales;
};

template <bool kFp4>
__device__ __forceinline__ WeightFragments<kFp4> load_weights(const uint8_t* chunk, int lane) {
  WeightFragments<kFp4> w;
  w.codes[0] = cuda::load_streaming16(chunk + weight_codes_offset(0, lane));
  w.codes[1] = cuda::load_streaming16(chunk + weight_codes_offset(1, lane));
  if constexpr (kFp4) {
    w.scales = __ldg(reinterpret_cast<const uint32_t*>(chunk + weight_scales_offset(lane)));
  } else {
    w.scales = __ldg(reinterpret_cast<const uint4*>(chunk + weight_scales_offset(lane & ~3)));
  }
  return w;
}

/// A lane's registers of one chunk of eight tokens.
template <bool kFp4>
struct TokenFragments;
template <>
struct TokenFragments<true> {
  uint2 codes;      // b0, b1
  uint32_t scales;  // of chunk t of the slice
};
template <>
struct TokenFragments<false> {
  uint4 values[2];  // elements 8t .. 8t + 7, 8t + 32 .. 8t + 39
};

using Accumulators = float[2][4];

/// The A operands of a chunk, decoded once for all token columns in the BF16 mode.
template <bool kFp4>
struct PreparedWeights;
template <>
struct PreparedWeights<true> {
  const WeightFragments<true>& w;
  __device__ __forceinline__ PreparedWeights(const WeightFragments<true>& fragments, int)
      : w(fragments) {}

  /// `for_gate`, `for_up`: the same tokens; two only where the halves' inputs differ.
  template <int kChunk>
  __device__ __forceinline__ void multiply(Accumulators& acc, const TokenFragments<true>& for_gate,
                                           const TokenFragments<true>& for_up) const {
    block_scaled_mma<0, kChunk>(acc[0], w.codes[0], for_gate.codes, w.scales, for_gate.scales);
    block_scaled_mma<1, kChunk>(acc[1], w.codes[1], for_up.codes, w.scales, for_up.scales);
  }
};
template <>
struct PreparedWeights<false> {
  Bf16Fragments half[2];
  __device__ __forceinline__ PreparedWeights(const WeightFragments<false>& w, int t) {
    decode_half(w.codes[0], w.scales.x, w.scales.y, t, half[0]);
    decode_half(w.codes[1], w.scales.z, w.scales.w, t, half[1]);
  }

  template <int kChunk>
  __device__ __forceinline__ void multiply(Accumulators& acc, const TokenFragments<false>& tokens,
                                           const TokenFragments<false>&) const {
    const uint32_t b[8] = {tokens.values[0].x, tokens.values[0].y, tokens.values[0].z,
                           tokens.values[0].w, tokens.values[1].x, tokens.values[1].y,
                           tokens.values[1].z, tokens.values[1].w};
#pragma unroll
    for (int m = 0; m < 4; ++m) {
      cuda::mma_m16n8k16(acc[0], half[0].a[m], b[2 * m], b[2 * m + 1]);
      cuda::mma_m16n8k16(acc[1], half[1].a[m], b[2 * m], b[2 * m + 1]);
    }
  }
};

/// The row of `tokens` that a sorted pair reads.
template <Gemm kGemm>
__device__ __forceinline__ int64_t token_row(const GemmArgs& args, int pair, int position) {
  if constexpr (kGemm == Gemm::kFc1) {
    return static_cast<int64_t>(pair / args.pairs_per_row) * args.variants;
  } else {
    return position;
  }
}

}  // namespace moe4::b12x
