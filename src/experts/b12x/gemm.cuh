// The grouped product of b12x: weights (A, m32 tiles) times the activations of an expert's tokens
// (B, eight columns an mma), for FC1 and FC2, FP4 and BF16 activations, two launch shapes.
//
// Common to both. A block serves one token tile of one expert (`tile_offsets`) and a group of m32
// weight tiles. Weights go from global memory to registers in 16-byte loads, 1152 contiguous bytes
// a warp and 64 columns (fragment_layout.h); nothing is decoded in the FP4 mode, two mma follow for
// every eight tokens. K is summed in slices of 256: zero, then the slice's four chunks in order,
// then slice after slice onto the total. Both shapes do exactly that, so they give the same bits.
//
// Decode (8 tokens a tile, 256 threads). Bound by memory: 1.25 tokens an expert at most in a single
// stream. The slices of K are spread over the warps of a block (warps_k of them; the others take
// neighbouring m32 tiles), a warp issues all loads of a slice, 4.6 KB, before its first mma.
// Partial sums meet in shared memory and are added in slice order by the warp that runs the
// epilogue. Tokens come straight from L2: with K spread over the warps no token byte is read twice
// in a block.
//   Shared memory: slices * warps_m KB. Registers: one slice in flight, 36 + 8 accumulators.
//
// Prefill (64 tokens a tile, 256 threads). Each of the eight warps owns an m32 tile (256 weight
// rows a block); a tile's tokens are staged by cp.async, 256 columns a stage, 4 stages of 9 KB
// (BF16: 2 of 32 KB). Weights run through a ring of fragment registers, refilled right after their
// use. Weights are read once for each 64 tokens of an expert; on devices with 0.3 to 1.8 TB/s and
// 0.5 to 1.7 PFLOP/s of FP4 that leaves memory the bound up to several thousand tokens.
//   Registers: 64 accumulators, 64 totals, ring 36 (BF16: 24 + 32 decoded). Shared memory: 36 KB
//   (BF16: 64 KB), swizzled so that neither the copies nor the fragment reads conflict.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <type_traits>
#include <utility>

#include "experts/b12x/block_scaled_mma.cuh"
#include "experts/b12x/decode_bf16.cuh"
#include "experts/b12x/epilogue.cuh"
#include "experts/b12x/fragment_layout.h"
#include "experts/b12x/kernels.h"
#include "experts/device/memory.cuh"

namespace moe4::b12x {

inline constexpr int kThreads = 256;
inline constexpr int kWarps = kThreads / 32;

template <int... kIndex, typename Body>
__device__ __forceinline__ void unroll_impl(std::integer_sequence<int, kIndex...>, Body&& body) {
  (body(std::integral_constant<int, kIndex>{}), ...);
}
/// body(integral_constant<int, 0>) ... body(integral_constant<int, kCount - 1>).
template <int kCount, typename Body>
__device__ __forceinline__ void unroll(Body&& body) {
  unroll_impl(std::make_integer_sequence<int, kCount>{}, body);
}

// ---- Operands ----------------------------------------------------------------------------------

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

/// Finds the block's token tile; false for a surplus block. All threads call it.
__device__ __forceinline__ bool find_tile(const GemmArgs& args, int index, int tokens_per_tile,
                                          TokenTile& tile) {
  const int32_t* offsets = args.tables.tile_offsets;
  if (index >= __ldcg(offsets + args.num_local_experts)) return false;
  for (int e = threadIdx.x; e < args.num_local_experts; e += kThreads) {
    const int begin = __ldcg(offsets + e), end = __ldcg(offsets + e + 1);
    if (begin <= index && index < end) {
      const int first = __ldcg(args.tables.expert_offsets + e) + (index - begin) * tokens_per_tile;
      tile.expert = e;
      tile.first = first;
      tile.count = min(tokens_per_tile, __ldcg(args.tables.expert_offsets + e + 1) - first);
    }
  }
  __syncthreads();
  return true;
}

// ---- Decode ------------------------------------------------------------------------------------

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

template <bool kFp4, Gemm kGemm>
__global__ __launch_bounds__(kThreads) void decode_kernel(const __grid_constant__ GemmArgs args) {
  constexpr int kTokens = tile_tokens(GemmPath::kDecode);
  extern __shared__ float4 partials[];  // [slice][m32 tile of the block][half][lane]
  __shared__ TokenTile tile;
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, g = lane >> 2, t = lane & 3;
  const int slices = (args.chunks + kSliceChunks - 1) / kSliceChunks;
  const int warps_k = decode_warps_k(slices), warps_m = kWarps / warps_k;
  const int groups = (args.end_tile - args.first_tile + warps_m - 1) / warps_m;
  const int warp_k = warp % warps_k, warp_m = warp / warps_k;
  const int m_tile = args.first_tile + static_cast<int>(blockIdx.x) % groups * warps_m + warp_m;
  cuda::launch_dependents();
  cuda::wait_for_previous_kernel();
  if (!find_tile(args, blockIdx.x / groups, kTokens, tile)) return;

  if (m_tile < args.end_tile) {
    const bool valid = g < tile.count;
    const int pair = valid ? __ldcg(args.tables.sorted_pairs + tile.first + g) : 0;
    const int64_t row = token_row<kGemm>(args, pair, tile.first + g);
    const uint8_t* weights =
        args.weights + chunk_offset(args.tiles, args.chunks, tile.expert, m_tile, 0);
    for (int slice = warp_k; slice < slices; slice += warps_k) {
      const int chunks = min(kSliceChunks, args.chunks - slice * kSliceChunks);
      WeightFragments<kFp4> w[kSliceChunks];
#pragma unroll
      for (int c = 0; c < kSliceChunks; ++c) {
        if (c < chunks) {
          w[c] = load_weights<kFp4>(weights + (slice * kSliceChunks + c) * kChunkBytes, lane);
        }
      }
      Accumulators acc = {};
      unroll<kSliceChunks>([&](auto c) {
        if (c < chunks) {
          const auto tokens = load_tokens_l2<kFp4>(args, row, valid, slice, c, t);
          auto up_tokens = tokens;
          if (kFp4 && kGemm == Gemm::kFc1 && args.variants == 2) {
            up_tokens = load_tokens_l2<kFp4>(args, row + 1, valid, slice, c, t);
          }
          const PreparedWeights<kFp4> prepared(w[c], t);
          prepared.template multiply<c>(acc, tokens, up_tokens);
        }
      });
      float4* out = partials + (slice * warps_m + warp_m) * 64 + lane;
      out[0] = make_float4(acc[0][0], acc[0][1], acc[0][2], acc[0][3]);
      out[32] = make_float4(acc[1][0], acc[1][1], acc[1][2], acc[1][3]);
    }
  }
  __syncthreads();
  if (warp_k != 0 || m_tile >= args.end_tile) return;

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

// ---- Prefill -----------------------------------------------------------------------------------

inline constexpr int kPrefillTokens = tile_tokens(GemmPath::kPrefill);

/// Token stages in shared memory.
template <bool kFp4>
struct Stages {
  static constexpr int kCount = kFp4 ? 4 : 2;
  static constexpr int kRowBytes = kSliceChunks * kChunkK * (kFp4 ? 4 : 16) / 8;
  static constexpr int kScaleRowBytes = kFp4 ? kSliceChunks * kBlocksPerChunk : 0;
  static constexpr int kScaleOffset = kPrefillTokens * kRowBytes;
  static constexpr int kVariantBytes = kPrefillTokens * (kRowBytes + kScaleRowBytes);
  static constexpr int bytes(int variants) { return kCount * variants * kVariantBytes; }

  /// 16-byte piece `piece` of a row. FP4: a chunk's 32 bytes move with the row's last two bits, so
  /// that four rows times 32 bytes of a half-warp's 8-byte reads fill all banks; BF16: 64-byte
  /// halves move with the row's last bit, for 16-byte reads of a quarter-warp.
  __device__ static int offset(int row, int piece) {
    const int swizzled = kFp4 ? piece ^ ((row & 3) << 1) : piece ^ ((row & 1) << 2);
    return row * kRowBytes + swizzled * 16;
  }
};

/// 16-byte asynchronous copy of which only the first `valid` bytes are read; the rest become zero.
__device__ __forceinline__ void copy_async16(void* shared, const void* global, int valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(
                   static_cast<uint32_t>(__cvta_generic_to_shared(shared))),
               "l"(global), "r"(valid)
               : "memory");
}
__device__ __forceinline__ void commit_copies() { asm volatile("cp.async.commit_group;"); }
template <int kPending>
__device__ __forceinline__ void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

/// Copies one slice of the tile's token rows; rows[r] < 0 and columns past K become zeros.
template <bool kFp4>
__device__ __forceinline__ void stage_slice(const GemmArgs& args, const int64_t* rows, int slice,
                                            uint8_t* stage) {
  constexpr int kPieces = Stages<kFp4>::kRowBytes / 16;
  const int chunks = min(kSliceChunks, args.chunks - slice * kSliceChunks);
  for (int variant = 0; variant < (kFp4 ? args.variants : 1); ++variant) {
    uint8_t* to = stage + variant * Stages<kFp4>::kVariantBytes;
#pragma unroll
    for (int i = threadIdx.x; i < kPrefillTokens * kPieces; i += kThreads) {
      const int r = i / kPieces, piece = i % kPieces;
      const bool live = rows[r] >= 0;
      const int64_t row = live ? rows[r] + variant : 0;
      if constexpr (kFp4) {
        const bool inside = live && piece / 2 < chunks;
        const uint8_t* from = args.tokens.codes + row * args.tokens.code_stride +
                              slice * kSliceChunks * kTokenChunkBytes + piece * 16;
        copy_async16(to + Stages<kFp4>::offset(r, piece), inside ? from : args.tokens.codes,
                     inside ? 16 : 0);
      } else {
        const int k = slice * kSliceChunks * kChunkK + piece * 8;
        const bool inside = live && k < args.k;
        const uint16_t* from = args.tokens.values + row * args.tokens.value_stride + k;
        copy_async16(to + Stages<kFp4>::offset(r, piece), inside ? from : args.tokens.values,
                     inside ? 16 : 0);
      }
    }
    if constexpr (kFp4) {
      for (int r = threadIdx.x; r < kPrefillTokens; r += kThreads) {
        const bool live = rows[r] >= 0;
        const uint8_t* from = args.tokens.scales +
                              (live ? rows[r] + variant : 0) * args.tokens.scale_stride +
                              slice * 16;
        copy_async16(to + Stages<kFp4>::kScaleOffset + r * 16, live ? from : args.tokens.scales,
                     live ? chunks * kBlocksPerChunk : 0);
      }
    }
  }
}

template <bool kFp4>
__device__ __forceinline__ TokenFragments<kFp4> load_tokens_shared(const uint8_t* stage, int row,
                                                                   int c, int t) {
  TokenFragments<kFp4> b;
  if constexpr (kFp4) {
    const int at = Stages<kFp4>::offset(row, 2 * c) + t * 8;
    b.codes = *reinterpret_cast<const uint2*>(stage + at);
    b.scales =
        *reinterpret_cast<const uint32_t*>(stage + Stages<kFp4>::kScaleOffset + row * 16 + t * 4);
  } else {
#pragma unroll
    for (int second = 0; second < 2; ++second) {
      b.values[second] = *reinterpret_cast<const uint4*>(
          stage + Stages<kFp4>::offset(row, c * 8 + second * 4 + t));
    }
  }
  return b;
}

template <bool kFp4, Gemm kGemm>
__global__ __launch_bounds__(kThreads,
                             1) void prefill_kernel(const __grid_constant__ GemmArgs args) {
  using Stage = Stages<kFp4>;
  constexpr int kColumns = kPrefillTokens / 8;    // n8 tiles
  constexpr int kRing = kFp4 ? kSliceChunks : 2;  // chunks of weights in flight
  extern __shared__ uint4 shared[];
  __shared__ TokenTile tile;
  __shared__ int64_t rows[kPrefillTokens];
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, g = lane >> 2, t = lane & 3;
  const int slices = (args.chunks + kSliceChunks - 1) / kSliceChunks;
  const int groups = (args.end_tile - args.first_tile + kWarps - 1) / kWarps;
  const int m_tile = args.first_tile + static_cast<int>(blockIdx.x) % groups * kWarps + warp;
  const bool active = m_tile < args.end_tile;
  cuda::launch_dependents();
  cuda::wait_for_previous_kernel();
  if (!find_tile(args, blockIdx.x / groups, kPrefillTokens, tile)) return;

  const uint8_t* weights = args.weights + chunk_offset(args.tiles, args.chunks, tile.expert,
                                                       active ? m_tile : args.first_tile, 0);
  WeightFragments<kFp4> ring[kRing];
#pragma unroll
  for (int c = 0; c < kRing; ++c) {
    if (c < args.chunks) ring[c] = load_weights<kFp4>(weights + c * kChunkBytes, lane);
  }
  for (int r = threadIdx.x; r < kPrefillTokens; r += kThreads) {
    rows[r] = -1;
    if (r < tile.count) {
      const int pair = __ldcg(args.tables.sorted_pairs + tile.first + r);
      rows[r] = token_row<kGemm>(args, pair, tile.first + r);
    }
  }
  __syncthreads();

  auto* stages = reinterpret_cast<uint8_t*>(shared);
  const int stage_bytes = (kFp4 ? args.variants : 1) * Stage::kVariantBytes;
  const bool two_inputs = kFp4 && kGemm == Gemm::kFc1 && args.variants == 2;
  for (int slice = 0; slice < Stage::kCount - 1; ++slice) {
    if (slice < slices) stage_slice<kFp4>(args, rows, slice, stages + slice * stage_bytes);
    commit_copies();
  }

  Accumulators total[kColumns] = {};
  for (int slice = 0; slice < slices; ++slice) {
    wait_for_copies<Stage::kCount - 2>();
    __syncthreads();  // the slice is there, and everybody is done with the stage refilled next
    const int ahead = slice + Stage::kCount - 1;
    if (ahead < slices) {
      stage_slice<kFp4>(args, rows, ahead, stages + ahead % Stage::kCount * stage_bytes);
    }
    commit_copies();
    if (!active) continue;
    const uint8_t* stage = stages + slice % Stage::kCount * stage_bytes;
    const int chunks = min(kSliceChunks, args.chunks - slice * kSliceChunks);
    Accumulators acc[kColumns] = {};
    unroll<kSliceChunks>([&](auto c) {
      if (c < chunks) {
        auto& w = ring[c % kRing];
        const PreparedWeights<kFp4> prepared(w, t);
#pragma unroll
        for (int n = 0; n < kColumns; ++n) {
          if (n * 8 < tile.count) {
            const auto tokens = load_tokens_shared<kFp4>(stage, n * 8 + g, c, t);
            auto up_tokens = tokens;
            if (two_inputs) {
              up_tokens = load_tokens_shared<kFp4>(stage + Stage::kVariantBytes, n * 8 + g, c, t);
            }
            prepared.template multiply<c>(acc[n], tokens, up_tokens);
          }
        }
        const int next = slice * kSliceChunks + c + kRing;
        if (next < args.chunks) w = load_weights<kFp4>(weights + next * kChunkBytes, lane);
      }
    });
#pragma unroll
    for (int n = 0; n < kColumns; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        total[n][0][i] += acc[n][0][i];
        total[n][1][i] += acc[n][1][i];
      }
    }
  }
  if (!active) return;
#pragma unroll
  for (int n = 0; n < kColumns; ++n) {
    if (n * 8 < tile.count) epilogue<kFp4, kGemm>(args, tile, m_tile, n * 8, lane, total[n]);
  }
}

}  // namespace moe4::b12x
