// FC1 and FC2 for tiles of 64 tokens.
//
// A block serves one token tile of one expert; each of its eight warps owns an m32 weight tile (256
// weight rows a block). The tile's token rows, which lie apart in FC1, are gathered into shared
// memory by cp.async, 256 columns a stage, 4 stages of 9 KB (BF16: 2 of 32 KB), and serve all eight
// warps. Weights do not pass through shared memory, for no two warps want the same: they run
// through a ring of fragment registers that are refilled right after their use.
//
// Why 64 tokens: weights are read once for each 64 tokens of an expert, and the token tiles of an
// expert run side by side, so that the second reading comes from L2. Devices of this kind have 0.3
// to 1.8 TB/s for 0.5 to 1.7 PFLOP/s of FP4: with 8 of 256 experts a token, memory is the bound up
// to several thousand tokens, and a larger tile would not fit the registers: 64 accumulators, 64
// totals (a slice is summed apart, see operands.cuh), ring 36 (BF16: 24, and 32 decoded).
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "device/cuda/ptx/barrier.cuh"
#include "device/cuda/ptx/copy.cuh"
#include "device/cuda/ptx/launch.cuh"
#include "ops/experts/b12x/epilogue.cuh"
#include "ops/experts/b12x/operands.cuh"
#include "ops/experts/b12x/top_k.cuh"

namespace moe4::b12x {

inline constexpr int kPrefillTokens = tile_tokens(Path::kPrefill);

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

/// Copies one slice of the tile's token rows; rows[r] < 0 and columns past K become zeros.
template <bool kFp4>
__device__ __forceinline__ void stage_slice(const GemmArgs& args, const int64_t* rows, int slice,
                                            uint8_t* stage) {
  constexpr int kPieces = Stages<kFp4>::kRowBytes / 16;
  const int chunks = min(kSliceChunks, args.chunks - slice * kSliceChunks);
  for (int variant = 0; variant < (kFp4 ? args.variants : 1); ++variant) {
    const uint32_t to = cuda::shared_address(stage) + variant * Stages<kFp4>::kVariantBytes;
#pragma unroll
    for (int i = threadIdx.x; i < kPrefillTokens * kPieces; i += kThreads) {
      const int r = i / kPieces, piece = i % kPieces;
      const bool live = rows[r] >= 0;
      const int64_t row = live ? rows[r] + variant : 0;
      if constexpr (kFp4) {
        const bool inside = live && piece / 2 < chunks;
        const uint8_t* from = args.tokens.codes + row * args.tokens.code_stride +
                              slice * kSliceChunks * kTokenChunkBytes + piece * 16;
        cuda::copy16(to + Stages<kFp4>::offset(r, piece), inside ? from : args.tokens.codes,
                     inside ? 16 : 0);
      } else {
        const int k = slice * kSliceChunks * kChunkK + piece * 8;
        const bool inside = live && k < args.k;
        const uint16_t* from = args.tokens.values + row * args.tokens.value_stride + k;
        cuda::copy16(to + Stages<kFp4>::offset(r, piece), inside ? from : args.tokens.values,
                     inside ? 16 : 0);
      }
    }
    if constexpr (kFp4) {
      // A chunk's four scales at a time: a row ends after its last chunk.
      for (int i = threadIdx.x; i < kPrefillTokens * kSliceChunks; i += kThreads) {
        const int r = i / kSliceChunks, chunk = i % kSliceChunks;
        const bool inside = rows[r] >= 0 && chunk < chunks;
        const uint8_t* from = args.tokens.scales + (rows[r] + variant) * args.tokens.scale_stride +
                              (slice * kSliceChunks + chunk) * kBlocksPerChunk;
        cuda::copy4(to + Stages<kFp4>::kScaleOffset + i * kBlocksPerChunk,
                    inside ? from : args.tokens.scales, inside);
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
    cuda::copy_commit();
  }

  Accumulators total[kColumns] = {};
  for (int slice = 0; slice < slices; ++slice) {
    cuda::copy_wait<Stage::kCount - 2>();
    __syncthreads();  // the slice is there, and everybody is done with the stage refilled next
    const int ahead = slice + Stage::kCount - 1;
    if (ahead < slices) {
      stage_slice<kFp4>(args, rows, ahead, stages + ahead % Stage::kCount * stage_bytes);
    }
    cuda::copy_commit();
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
    // One copy of the epilogue's code: the accumulators of column tile n are picked out by selects,
    // for registers have no run-time index.
#pragma unroll 1
  for (int n = 0; n * 8 < tile.count; ++n) {
    Accumulators sums = {};
#pragma unroll
    for (int m = 0; m < kColumns; ++m) {
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        if (m == n) sums[i / 4][i % 4] = total[m][i / 4][i % 4];
      }
    }
    epilogue<kFp4, kGemm>(args, tile, m_tile, n * 8, lane, sums);
  }
}

}  // namespace moe4::b12x
