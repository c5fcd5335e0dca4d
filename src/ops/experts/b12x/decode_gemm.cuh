// FC1 and FC2 for tiles of eight tokens: bound by memory, so all that matters is that every
// multiprocessor has enough weight loads under way.
//
// A block of eight warps serves one token tile of one expert and one or more m32 weight tiles. The
// slices of K are spread over the warps (decode_warps_k of them share a tile, the others take the
// next tiles); a warp issues all loads of a slice, 4.6 KB, before its first mma. Partial sums meet
// in shared memory and are added in slice order by the warp that runs the epilogue. Tokens come
// straight from L2: as K is spread over the warps, a block reads no token byte twice.
//   Shared memory: 1 KB a slice and m32 tile. Registers: 36 for a slice, 8 accumulators (BF16: 48,
//   and 32 for decoded weights).
//
// A few tokens (Path::kFewTokens: at most 8, and 64 pairs) are all latency, so two launches go:
// - Routing. Every block sorts the ids itself and has its first 37 KB of weights under way before
// it
//   waits for the kernel before.
// - The weighted sum. FC2 is turned round: a block owns 32 output rows and takes the pairs of all
//   experts, its warps sharing the units (token tile, slice).
//
// Measured with the BF16 mode on one H200 (132 multiprocessors, 64 tiles): one token gains 4.5 of
// 23 us, but at 8 tokens 64 blocks cannot pull the full bandwidth and lose 26 of 83 us. Hence
// PreparedLayer takes more than one token this way only where FC2 has a block for every
// multiprocessor.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <type_traits>

#include "device/cuda/ptx/launch.cuh"
#include "ops/experts/b12x/epilogue.cuh"
#include "ops/experts/b12x/operands.cuh"
#include "ops/experts/b12x/top_k.cuh"

namespace moe4::b12x {

/// Warps of a block that share K; the largest power of two that has a slice for every warp.
__host__ __device__ constexpr int decode_warps_k(int slices) {
  int warps = 1;
  while (warps < kWarps && 2 * warps <= slices) warps *= 2;
  return warps;
}
__host__ __device__ constexpr int decode_warps_m(int slices) {
  return kWarps / decode_warps_k(slices);
}
/// Two float4 a lane for each slice and m32 tile.
__host__ __device__ constexpr int decode_shared_bytes(int slices) {
  return slices * decode_warps_m(slices) * 32 * 32;
}

template <bool kFp4>
__device__ __forceinline__ TokenFragments<kFp4> load_tokens_l2(const GemmArgs& args, int64_t row,
                                                               bool valid, int slice, int c,
                                                               int t) {
  TokenFragments<kFp4> b = {};
  if (!valid) return b;
  const int chunk = slice * kSliceChunks + c;
  if constexpr (kFp4) {
    b.codes = __ldcg(reinterpret_cast<const uint2*>(
        args.tokens.codes + row * args.tokens.code_stride + token_codes_offset(chunk, t)));
    if (slice * kSliceChunks + t < args.chunks) {
      b.scales = __ldcg(
          reinterpret_cast<const uint32_t*>(args.tokens.scales + row * args.tokens.scale_stride +
                                            (slice * kSliceChunks + t) * kBlocksPerChunk));
    }
  } else {
    const uint16_t* values = args.tokens.values + row * args.tokens.value_stride;
#pragma unroll
    for (int second = 0; second < 2; ++second) {
      const int k = chunk * kChunkK + 32 * second + 8 * t;
      if (k < args.k) b.values[second] = __ldcg(reinterpret_cast<const uint4*>(values + k));
    }
  }
  return b;
}

/// A warp's registers for one slice of an m32 tile.
template <bool kFp4>
struct SliceFragments {
  WeightFragments<kFp4> chunk[kSliceChunks];

  __device__ __forceinline__ void load(const uint8_t* tile, int slice, int chunks, int lane) {
#pragma unroll
    for (int c = 0; c < kSliceChunks; ++c) {
      const int index = slice * kSliceChunks + c;
      if (index < chunks) chunk[c] = load_weights<kFp4>(tile + index * kChunkBytes, lane);
    }
  }
};

/// One slice of an m32 tile times eight tokens that lie in L2; `row` is the lane's token row.
template <bool kFp4, Gemm kGemm>
__device__ __forceinline__ void multiply_slice(const GemmArgs& args,
                                               const SliceFragments<kFp4>& weights, int slice,
                                               int64_t row, bool valid, int t, Accumulators& acc) {
  unroll<kSliceChunks>([&](auto c) {
    if (slice * kSliceChunks + c < args.chunks) {
      const auto tokens = load_tokens_l2<kFp4>(args, row, valid, slice, c, t);
      auto up_tokens = tokens;
      if (kFp4 && kGemm == Gemm::kFc1 && args.variants == 2) {
        up_tokens = load_tokens_l2<kFp4>(args, row + 1, valid, slice, c, t);
      }
      const PreparedWeights<kFp4> prepared(weights.chunk[c], t);
      prepared.template multiply<c>(acc, tokens, up_tokens);
    }
  });
}

template <bool kFp4, Gemm kGemm, Path kPath>
__global__ __launch_bounds__(kThreads) void decode_kernel(const __grid_constant__ GemmArgs args) {
  static_assert(kPath == Path::kDecode || kGemm == Gemm::kFc1);
  constexpr bool kFew = kPath == Path::kFewTokens;
  extern __shared__ float4 partials[];  // [slice][m32 tile of the block][half][lane]
  __shared__ TokenTile tile;
  __shared__ std::conditional_t<kFew, FewPairs, int> few;
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, g = lane >> 2, t = lane & 3;
  const int slices = (args.chunks + kSliceChunks - 1) / kSliceChunks;
  const int warps_k = decode_warps_k(slices), warps_m = kWarps / warps_k;
  const int groups = (args.end_tile - args.first_tile + warps_m - 1) / warps_m;
  const int warp_k = warp % warps_k, warp_m = warp / warps_k;
  const int m_tile = args.first_tile + static_cast<int>(blockIdx.x) % groups * warps_m + warp_m;
  const int tile_index = blockIdx.x / groups;
  const bool active = m_tile < args.end_tile;
  if constexpr (kFew) {
    // FP4: the kernel before, the quantisation, let this one start after the routing was final. So
    // the ids can be sorted and the first weights be under way before waiting for it.
    if (!kFp4) cuda::wait_for_previous_kernel();
    sort_few_pairs(args.top_k, few);
    cuda::launch_dependents();
    if (tile_index >= few.num_tiles) {
      if (kFp4) cuda::wait_for_previous_kernel();
      return;
    }
    if (threadIdx.x == 0) tile = few.tiles[tile_index];
    __syncthreads();
  } else {
    cuda::launch_dependents();
    cuda::wait_for_previous_kernel();
    if (!find_tile(args, tile_index, tile_tokens(kPath), tile)) return;
  }

  const uint8_t* weights = args.weights + chunk_offset(args.tiles, args.chunks, tile.expert,
                                                       active ? m_tile : args.first_tile, 0);
  SliceFragments<kFp4> fragments;
  if (active) fragments.load(weights, warp_k, args.chunks, lane);
  if (kFew && kFp4) cuda::wait_for_previous_kernel();
  if (active) {
    const bool valid = g < tile.count;
    int pair = 0;
    if constexpr (kFew) {
      if (valid) pair = few.pairs[tile.first + g];
    } else {
      if (valid) pair = __ldcg(args.tables.sorted_pairs + tile.first + g);
    }
    const int64_t row = token_row<kGemm>(args, pair, tile.first + g);
    for (int slice = warp_k; slice < slices; slice += warps_k) {
      Accumulators acc = {};
      multiply_slice<kFp4, kGemm>(args, fragments, slice, row, valid, t, acc);
      if (slice + warps_k < slices) fragments.load(weights, slice + warps_k, args.chunks, lane);
      float4* out = partials + (slice * warps_m + warp_m) * 64 + lane;
      out[0] = make_float4(acc[0][0], acc[0][1], acc[0][2], acc[0][3]);
      out[32] = make_float4(acc[1][0], acc[1][1], acc[1][2], acc[1][3]);
    }
  }
  __syncthreads();
  if (warp_k != 0 || !active) return;

  Accumulators total = {};
  for (int slice = 0; slice < slices; ++slice) {
    const float4* in = partials + (slice * warps_m + warp_m) * 64 + lane;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float4 sum = in[32 * half];
      total[half][0] += sum.x, total[half][1] += sum.y;
      total[half][2] += sum.z, total[half][3] += sum.w;
    }
  }
  epilogue<kFp4, kGemm>(args, tile, m_tile, 0, lane, total);
}

/// FC2 of a few tokens with the weighted sum: a block owns 32 output rows and takes all pairs. Its
/// warps share the units (token tile, slice); the partial sums of a pair meet in shared memory.
template <bool kFp4>
__global__ __launch_bounds__(kThreads) void few_tokens_fc2_kernel(
    const __grid_constant__ GemmArgs args) {
  extern __shared__ float sums[];  // [position][slice][row of the tile]
  __shared__ FewPairs few;
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, g = lane >> 2, t = lane & 3;
  const int slices = (args.chunks + kSliceChunks - 1) / kSliceChunks;
  const int m_tile = blockIdx.x;
  // FC1 let this kernel start after it had read the routing itself.
  sort_few_pairs(args.top_k, few);
  cuda::launch_dependents();
  const int units = few.num_tiles * slices;
  SliceFragments<kFp4> fragments;
  const auto load = [&](int unit) {
    const uint8_t* weights =
        args.weights +
        chunk_offset(args.tiles, args.chunks, few.tiles[unit / slices].expert, m_tile, 0);
    fragments.load(weights, unit % slices, args.chunks, lane);
  };
  if (warp < units) load(warp);
  cuda::wait_for_previous_kernel();
  for (int unit = warp; unit < units; unit += kWarps) {
    const TokenTile tile = few.tiles[unit / slices];
    const int slice = unit % slices;
    Accumulators acc = {};
    multiply_slice<kFp4, Gemm::kFc2>(args, fragments, slice, tile.first + g, g < tile.count, t,
                                     acc);
    if (unit + kWarps < units) load(unit + kWarps);
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      if (2 * t + j >= tile.count) continue;
      float* out = sums + ((tile.first + 2 * t + j) * slices + slice) * kTileRows + g;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        out[kHalfRows * half] = acc[half][j];
        out[kHalfRows * half + 8] = acc[half][2 + j];
      }
    }
  }
  __syncthreads();

  const int row = m_tile * kTileRows + lane;
  if (row >= args.rows) return;
  for (int token = warp; token < args.top_k.num_tokens; token += kWarps) {
    float sum = 0.0f;
    for (int slot = 0; slot < args.top_k.slots; ++slot) {
      const int pair = token * args.top_k.slots + slot, position = few.positions[pair];
      if (position < 0) continue;
      const int expert = few.experts[pair];
      float total = 0.0f;
      for (int slice = 0; slice < slices; ++slice) {
        total += sums[(position * slices + slice) * kTileRows + lane];
      }
      const float y = scale_and_bias(args, expert, 0, row, total);
      sum = add_slot(args.top_k, pair, y, sum);
    }
    args.output[static_cast<int64_t>(token) * args.rows + row] = to_bf16(sum).bits;
  }
}

}  // namespace moe4::b12x
