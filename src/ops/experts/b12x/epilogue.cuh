// From accumulators to what the next kernel reads: activation and FC2-input quantisation after FC1,
// float32 partial outputs after FC2.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "moe/activation.h"
#include "numerics/bf16.h"
#include "ops/experts/b12x/fragment_layout.h"
#include "ops/experts/b12x/kernels.h"
#include "ops/experts/b12x/quantize.cuh"
#include "ops/experts/b12x/top_k.cuh"

namespace moe4::b12x {

/// alpha * sum (+ bias) of a row of one half. Spelled out so that every kernel rounds alike.
__device__ __forceinline__ float scale_and_bias(const GemmArgs& args, int expert, int half, int row,
                                                float sum) {
  const float alpha = args.alpha[2 * expert + half];
  if (args.bias == nullptr || row >= args.rows) return __fmul_rn(alpha, sum);
  const int64_t rows = args.gated ? 2 * args.rows : args.rows;
  const float* bias = args.bias + expert * rows + (args.gated && half == 1 ? args.rows : 0);
  return __fmaf_rn(alpha, sum, bias[row]);
}

/// The next term of a token's weighted sum over its slots.
__device__ __forceinline__ float add_slot(const TopK& top_k, int64_t pair, float y, float sum) {
  return __fmaf_rn(top_k.weight_on_input ? 1.0f : top_k.weights[pair], y, sum);
}

/// Writes 16 consecutive intermediate values (block `block` of the row) of eight tokens. The lane
/// has values[i]: row g (i < 2) or g + 8 of the block, token 2t + (i & 1); a token's 16 values are
/// spread over the eight lanes of equal t.
template <bool kFp4>
__device__ __forceinline__ void store_intermediate_block(const GemmArgs& args,
                                                         const TokenTile& tile, int block,
                                                         int column, int lane,
                                                         const float (&values)[4]) {
  const int g = lane >> 2, t = lane & 3;
#pragma unroll
  for (int j = 0; j < 2; ++j) {
    const int token = column + 2 * t + j;
    const int64_t position = tile.first + token;
    const bool valid = token < tile.count;
    const Bf16 low = to_bf16(values[j]), high = to_bf16(values[2 + j]);
    if constexpr (!kFp4) {
      if (valid) {
        uint16_t* row = args.out_values + position * args.out.value_stride + block * kBlock;
        row[g] = low.bits;
        row[g + 8] = high.bits;
      }
    } else {
      const float x0 = to_float(low), x1 = to_float(high);
      uint32_t amax = max(magnitude_bits(x0), magnitude_bits(x1));
#pragma unroll
      for (int offset = 4; offset < 32; offset *= 2) {
        amax = max(amax, __shfl_xor_sync(~0u, amax, offset));
      }
      const BlockScale scale = block_scale(amax, args.fc2_input_scale[tile.expert]);
      uint32_t word0 = quantize(x0, scale.step) << element_shift(g);
      uint32_t word1 = quantize(x1, scale.step) << element_shift(g);
#pragma unroll
      for (int offset = 4; offset < 32; offset *= 2) {
        word0 |= __shfl_xor_sync(~0u, word0, offset);
        word1 |= __shfl_xor_sync(~0u, word1, offset);
      }
      if (valid && g < 3) {
        const int chunk = block / kBlocksPerChunk, b = block % kBlocksPerChunk;
        uint8_t* codes = args.out.codes + position * args.out.code_stride;
        if (g < 2) {
          *reinterpret_cast<uint32_t*>(codes + token_word_offset(chunk, 2 * b + g)) =
              g == 0 ? word0 : word1;
        } else {
          args.out.scales[position * args.out.scale_stride + block] = scale.byte;
        }
      }
    }
  }
}

/// `sums`: the lane's accumulators of one m32 tile and the eight tokens from `column` of the tile
/// on.
template <bool kFp4, Gemm kGemm>
__device__ __forceinline__ void epilogue(const GemmArgs& args, const TokenTile& tile, int m_tile,
                                         int column, int lane, const float (&sums)[2][4]) {
  const int g = lane >> 2, t = lane & 3;
  float values[2][4];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int row = (args.gated ? m_tile * kHalfRows : m_tile * kTileRows + half * kHalfRows) +
                      g + 8 * (i >> 1);
      values[half][i] = scale_and_bias(args, tile.expert, half, row, sums[half][i]);
    }
  }

  if constexpr (kGemm == Gemm::kFc1) {
    if (args.gated) {
      float result[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        result[i] = apply_activation(args.activation, values[0][i], values[1][i]);
      }
      store_intermediate_block<kFp4>(args, tile, m_tile, column, lane, result);
    } else {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float result[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          result[i] = apply_activation(args.activation, 0.0f, values[half][i]);
        }
        store_intermediate_block<kFp4>(args, tile, 2 * m_tile + half, column, lane, result);
      }
    }
  } else {
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const int token = column + 2 * t + j;
      if (token >= tile.count) continue;
      const int64_t pair = __ldcg(args.tables.sorted_pairs + tile.first + token);
      float* out = args.partial + pair * args.partial_stride;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
#pragma unroll
        for (int r = 0; r < 2; ++r) {
          const int row = m_tile * kTileRows + half * kHalfRows + g + 8 * r;
          if (row < args.rows) out[row - args.first_tile * kTileRows] = values[half][2 * r + j];
        }
      }
    }
  }
}

}  // namespace moe4::b12x
