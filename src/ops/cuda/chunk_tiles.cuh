// Chunks of 64 tokens of prompts as tiles of F16 in shared memory: the convolution that writes
// them, copies, and the state's walk over its 32 columns of a block.
#pragma once

#include "device/cuda/ptx/barrier.cuh"
#include "device/cuda/ptx/copy.cuh"
#include "device/cuda/ptx/mma_f16.cuh"
#include "ops/cuda/recurrent.cuh"

namespace moe4::cuda {

inline constexpr int kChunkThreads = 256;  ///< of a block of these kernels
inline constexpr int kChunkWarps = kChunkThreads / 32;
inline constexpr int kChunkBlocks = kChunkTokens / 16;  ///< of 16 x 16 along a side
inline constexpr int kWide = 128;        ///< columns of tiles of keys and values, rows of states
inline constexpr int kScanColumns = 32;  ///< of a state that a block walks with

/// Bytes of a row of `columns` F16: 16 more than its own, so that the 8 rows that ldmatrix reads at
/// a time lie in different banks.
constexpr int row_bytes(int columns) { return columns * 2 + 16; }
constexpr int tile_bytes(int columns) { return kChunkTokens * row_bytes(columns); }

inline constexpr int kWideRow = row_bytes(kWide);
inline constexpr int kSquareRow = row_bytes(kChunkTokens);
inline constexpr int kNarrowRow = row_bytes(kScanColumns);

/// SiLU with the fast exponential, for what is rounded to F16.
__device__ __forceinline__ float fast_silu(float x) { return __fdividef(x, 1.0f + __expf(-x)); }

/// Rows [first, first + kRows) of a chunk after the convolution, and of every lane the four
/// channels from `channel` + 4 lane on: calls store(row, values) in order. Zeros past the chunk's
/// tokens and, in lanes that want nothing, everywhere.
template <int kRows, typename In, typename Store>
__device__ __forceinline__ void convolve_rows(const DeviceConv& conv, const RowsOf<In>& input,
                                              const Chunk& chunk, int channel, bool wanted,
                                              int first, const Store& store) {
  constexpr int kTaps = DeviceConv::kMaxTaps;
  const int c = channel + static_cast<int>(threadIdx.x) % 32 * 4;
  Stored4<In> stored[kRows + kTaps - 1];
#pragma unroll
  for (int i = 0; i < kRows + kTaps - 1; ++i) {
    const int t = first + i - (kTaps - 1);  // of the chunk
    const bool is_here = wanted && t < chunk.tokens && chunk.begin + t >= 0;
    stored[i].fetch_if(is_here,
                       input.row(chunk.sequence.first + (is_here ? chunk.begin + t : 0)) + c);
  }
  float4 weight[kTaps], bias{};
  if (wanted && conv.bias != nullptr) bias = load4(conv.bias + c);
#pragma unroll
  for (int j = 0; j < kTaps; ++j) {
    weight[j] = {};
    if (wanted && j < conv.taps) weight[j] = load4(conv.weight + j * conv.channels + c);
  }
  float4 x[kRows + kTaps - 1];
#pragma unroll
  for (int i = 0; i < kRows + kTaps - 1; ++i) x[i] = stored[i].values();
  if (wanted && chunk.begin + first == 0 && !chunk.sequence.fresh) {
#pragma unroll
    for (int i = 0; i < kTaps - 1; ++i) {
      const int t = i - (kTaps - 1);
      if (t > -conv.taps) x[i] = load4(conv.past(chunk.sequence, t, c));
    }
  }
#pragma unroll
  for (int i = 0; i < kRows; ++i) {
    float4 y{};
    if (first + i < chunk.tokens) {
      y = bias;
#pragma unroll
      for (int j = kTaps - 1; j >= 0; --j) {
        const float4 w = weight[j], in = x[i + kTaps - 1 - j];
        y.x += w.x * in.x, y.y += w.y * in.y, y.z += w.z * in.z, y.w += w.w * in.w;
      }
      y = {fast_silu(y.x), fast_silu(y.y), fast_silu(y.z), fast_silu(y.w)};
    }
    store(first + i, y);
  }
}

__device__ __forceinline__ uint2 pack_f16(float4 v) {
  return {pack_f16(v.x, v.y), pack_f16(v.z, v.w)};
}

/// Sums of pairs of numbers along a chunk, lane i holding those of tokens 2 i and 2 i + 1: all
/// before and with each.
__device__ __forceinline__ float2 sums_along_chunk(float2 x) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  float sum = x.x + x.y;
#pragma unroll
  for (int offset = 1; offset < 32; offset *= 2) {
    const float before = __shfl_up_sync(0xffffffff, sum, offset);
    if (lane >= offset) sum += before;
  }
  float before = __shfl_up_sync(0xffffffff, sum, 1);
  if (lane == 0) before = 0;
  return {before + x.x, sum};
}

/// A wide tile to rows of 128 in global memory.
__device__ __forceinline__ void store_wide(const std::byte* tile, uint16_t* rows, int tokens) {
  for (int i = static_cast<int>(threadIdx.x); i < tokens * 16; i += kChunkThreads) {
    *reinterpret_cast<uint4*>(rows + i * 8) =
        *reinterpret_cast<const uint4*>(tile + i / 16 * kWideRow + i % 16 * 16);
  }
}

/// Asynchronously: 64 rows of `kColumns` F16, `stride` apart, into a tile; zeros past `tokens` and
/// past `columns`, a multiple of 8.
template <int kColumns>
__device__ __forceinline__ void fetch_tile(std::byte* tile, const uint16_t* rows, int64_t stride,
                                           int tokens, int columns = kColumns) {
  constexpr int kPieces = kColumns / 8;  // of 16 bytes, in a row
  static_assert(kChunkTokens * kPieces % kChunkThreads == 0);
  const uint32_t to = shared_address(tile);
#pragma unroll
  for (int i = 0; i < kChunkTokens * kPieces / kChunkThreads; ++i) {
    const int n = i * kChunkThreads + static_cast<int>(threadIdx.x);
    const int row = n / kPieces, piece = n % kPieces;
    const bool wanted = row < tokens && piece * 8 < columns;
    copy16(to + static_cast<uint32_t>(row * row_bytes(kColumns) + piece * 16),
           wanted ? rows + row * stride + piece * 8 : rows, wanted ? 16 : 0);
  }
}

/// Asynchronously: a chunk's numbers, zeros past `tokens`.
__device__ __forceinline__ void fetch_numbers(float* to, const float* from, int tokens) {
  const int i = static_cast<int>(threadIdx.x);
  if (i >= kChunkTokens) return;
  copy4(shared_address(to + i), from + (i < tokens ? i : 0), i < tokens);
}

/// The state [rows, columns] that a block of 8 warps walks with, at most 128 x 32 of it: warp w has
/// rows 16 w .. 16 w + 15 in float32, as sums of mma.
struct WalkingState {
  float s[kScanColumns / 8][4] = {};

  /// Calls visit(row, column, x, y) for this thread's pairs of neighbouring columns.
  template <typename Visit>
  __device__ __forceinline__ void each_pair(const Visit& visit) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const int row = static_cast<int>(threadIdx.x) / 32 * 16 + lane / 4, column = lane % 4 * 2;
#pragma unroll
    for (int n = 0; n < kScanColumns / 8; ++n) {
#pragma unroll
      for (int down = 0; down < 2; ++down) {
        visit(row + 8 * down, column + 8 * n, s[n][2 * down], s[n][2 * down + 1]);
      }
    }
  }
  /// `memory`: rows `stride` apart.
  __device__ __forceinline__ void load(const float* memory, int rows, int columns, int stride) {
    each_pair([&](int row, int column, float& x, float& y) {
      if (row >= rows || column >= columns) return;
      const float2 pair =
          *reinterpret_cast<const float2*>(memory + static_cast<int64_t>(row) * stride + column);
      x = pair.x;
      y = pair.y;
    });
  }
  __device__ __forceinline__ void store(float* memory, int rows, int columns, int stride) {
    each_pair([&](int row, int column, float x, float y) {
      if (row >= rows || column >= columns) return;
      *reinterpret_cast<float2*>(memory + static_cast<int64_t>(row) * stride + column) = {x, y};
    });
  }
  /// As an operand: a tile [128, 32] of F16, times `factor`.
  __device__ __forceinline__ void store_tile(std::byte* tile, float factor = 1.0f) {
    each_pair([&](int row, int column, float x, float y) {
      *reinterpret_cast<uint32_t*>(tile + row * kNarrowRow + column * 2) =
          pack_f16(x * factor, y * factor);
    });
  }
  /// s <- decay s + a^T b over a chunk's tokens: a a wide tile, b a narrow one.
  __device__ __forceinline__ void step(float decay, const std::byte* a, const std::byte* b) {
    const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
    const uint32_t a_tile = shared_address(a) + 32 * warp + tile_by_columns(lane, kWideRow);
    const uint32_t b_tile = shared_address(b) + tile_by_rows(lane, kNarrowRow);
#pragma unroll
    for (int n = 0; n < kScanColumns / 8; ++n) {
#pragma unroll
      for (float& x : s[n]) x *= decay;
    }
#pragma unroll
    for (int k = 0; k < kChunkBlocks; ++k) {
      uint32_t left[4], right[2][4];
      load_tile_transposed(left, a_tile + 16 * k * kWideRow);
      load_tile_transposed(right[0], b_tile + 16 * k * kNarrowRow);
      load_tile_transposed(right[1], b_tile + 16 * k * kNarrowRow + 32);
      multiply_f16(s[0], s[1], left, right[0]);
      multiply_f16(s[2], s[3], left, right[1]);
    }
  }
};

}  // namespace moe4::cuda
