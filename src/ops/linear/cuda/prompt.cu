// Products for prompts: y[t] = x[t] W^T for many tokens, bound by the tensor cores.
//
// A block makes a tile of rows x tokens; its eight warps stand 4 (rows) x 2 (tokens) and multiply
// with mma.m16n8k16, weights as the m16 operand, decoded from shared memory into fragments. Stages
// of 64 columns of both operands come through cp.async. Every sum is one chain over K in ascending
// order (E4M3 with block scales: chains of 128 columns, scaled and added in that order), so bits
// depend neither on the tile nor on what else is in the call, and the tile may follow the number of
// tokens.
//
// Shared memory of a stage: tokens [n][128 bytes], pieces of 16 bytes swapped in odd rows; weights
// in tiles of 16 rows (TileChunk). Results cross shared memory once more to leave in whole lines.
#include <algorithm>
#include <type_traits>

#include "device/cuda/launch.h"
#include "device/cuda/ptx/barrier.cuh"
#include "device/cuda/ptx/copy.cuh"
#include "device/cuda/ptx/launch.cuh"
#include "ops/linear/cuda/fragments.cuh"
#include "ops/linear/cuda/products.cuh"

namespace moe4::cuda {
namespace {

constexpr int kRowWarps = 4, kTokenWarps = 2;
constexpr int kThreads = 32 * kRowWarps * kTokenWarps;
constexpr int kTokenBytes = kPanelChunk * 2;  // of a chunk

/// A block's tile: m16 and n8 tiles of a warp, and whether sums are scaled in blocks.
template <int kRowTiles_, int kTokenTiles_, int kStages_, bool kBlockScales_>
struct TileConfig {
  static constexpr int kRowTiles = kRowTiles_, kTokenTiles = kTokenTiles_, kStages = kStages_;
  static constexpr bool kBlockScales = kBlockScales_;
  static constexpr int kWarpRows = 16 * kRowTiles, kWarpTokens = 8 * kTokenTiles;
  static constexpr int kRows = kRowWarps * kWarpRows, kTokens = kTokenWarps * kWarpTokens;
  static constexpr int kResultBytes = kRows * kTokens * 4;

  static constexpr int stage_bytes(PanelKind kind) {
    return kTokens * kTokenBytes + kRows / kPanelTileRows * tile_chunk_bytes(kind);
  }
  static int shared_bytes(PanelKind kind) {
    return std::max(kStages * stage_bytes(kind), kResultBytes);
  }
};
using LargeTile = TileConfig<4, 8, 3, false>;  // 256 rows x 128 tokens
using SmallTile = TileConfig<1, 4, 4, false>;  // 64 x 64
using LargeScaledTile = TileConfig<2, 8, 3, true>;
using SmallScaledTile = TileConfig<1, 4, 4, true>;

/// Brings chunk `c` of a tile's weights and tokens into a stage.
template <PanelKind kKind, class Config>
__device__ __forceinline__ void copy_stage(const Products& p, const Panel& panel, int row,
                                           int64_t token, int c, uint32_t stage) {
  const int thread = static_cast<int>(threadIdx.x);
  const int x_chunk = c % panel.x_chunks;
#pragma unroll
  for (int i = 0; i < Config::kTokens * 8 / kThreads; ++i) {
    const int index = i * kThreads + thread, n = index / 8, piece = index % 8;
    const int k = x_chunk * kPanelChunk + piece * 8;
    const bool valid = token + n < p.tokens;
    const auto* from =
        static_cast<const __nv_bfloat16*>(p.x) + (valid ? token + n : token) * p.x_stride + k;
    const int bytes = valid ? max(0, min(16, (p.in_features - k) * 2)) : 0;
    // A copy of nothing still needs an address that exists.
    copy16(stage + n * kTokenBytes + (piece ^ (n & 1)) * 16, bytes > 0 ? from : p.x, bytes);
  }
  const uint32_t weights = stage + Config::kTokens * kTokenBytes;
  constexpr int kTileBytes = tile_chunk_bytes(kKind);
  if constexpr (is_tiled(kKind)) {
    constexpr int kPieces = kTileBytes / 16;
#pragma unroll
    for (int i = 0; i < (Config::kRows / 16 * kPieces + kThreads - 1) / kThreads; ++i) {
      const int index = i * kThreads + thread, tile = index / kPieces, piece = index % kPieces;
      copy16_if(tile < Config::kRows / 16 && row + tile * 16 < panel.rows,
                weights + tile * kTileBytes + piece * 16,
                panel.chunk(row + tile * 16, c) + piece * 16);
    }
  } else {
    constexpr int kPieces = kTileBytes / 16 / 16;  // of a row
#pragma unroll
    for (int i = 0; i < Config::kRows * kPieces / kThreads; ++i) {
      const int index = i * kThreads + thread, r = index / kPieces, piece = index % kPieces;
      copy16_if(row + r < panel.rows,
                weights + r / 16 * kTileBytes + TileChunk<kKind>::piece_at(r % 16, piece),
                panel.chunk(row + r, c) + piece * 16);
    }
  }
}

/// acc += one stage, the four mma of the chunk in ascending order for every sum.
template <PanelKind kKind, class Config>
__device__ __forceinline__ void multiply_stage(
    const uint8_t* stage, int lane, int row_warp, int token_warp,
    float (&acc)[Config::kRowTiles][Config::kTokenTiles][4]) {
  const int g = lane / 4, t = lane % 4;
  const uint8_t* tokens = stage + (token_warp * Config::kWarpTokens + g) * kTokenBytes;
  const uint8_t* weights = stage + Config::kTokens * kTokenBytes +
                           row_warp * Config::kRowTiles * tile_chunk_bytes(kKind);
  const auto half = [&]<int kHalf>(std::integral_constant<int, kHalf>) {
    uint4 b[Config::kTokenTiles];
#pragma unroll
    for (int n = 0; n < Config::kTokenTiles; ++n) {
      b[n] = *reinterpret_cast<const uint4*>(tokens + n * 8 * kTokenBytes +
                                             ((2 * t + kHalf) ^ (g & 1)) * 16);
    }
#pragma unroll
    for (int m = 0; m < Config::kRowTiles; ++m) {
      uint32_t a[8];
      TileChunk<kKind>::template load<kHalf>(weights + m * tile_chunk_bytes(kKind), lane, a);
#pragma unroll
      for (int n = 0; n < Config::kTokenTiles; ++n) mma_m16n8k16(acc[m][n], a, b[n].x, b[n].y);
#pragma unroll
      for (int n = 0; n < Config::kTokenTiles; ++n) mma_m16n8k16(acc[m][n], a + 4, b[n].z, b[n].w);
    }
  };
  half(std::integral_constant<int, 0>{});
  half(std::integral_constant<int, 1>{});
}

template <PanelKind kKind, class Config>
__device__ void prompt_panel(const Products& p, int index, uint8_t* shared) {
  const Panel panel = p.panels[index];
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int row_warp = warp % kRowWarps, token_warp = warp / kRowWarps;
  const int token_tiles = (p.tokens + Config::kTokens - 1) / Config::kTokens;
  const int tile = static_cast<int>(blockIdx.x) - p.first_block[index];
  const int first_row = tile / token_tiles * Config::kRows;
  const int first_token = tile % token_tiles * Config::kTokens;

  constexpr int kStages = Config::kStages, kStageBytes = Config::stage_bytes(kKind);
  const uint32_t stages = shared_address(shared);
  const auto fetch = [&](int c) {
    if (c < panel.chunks) {
      copy_stage<kKind, Config>(p, panel, first_row, first_token, c,
                                stages + c % kStages * kStageBytes);
    }
    copy_commit();
  };
  for (int c = 0; c < kStages - 1; ++c) fetch(c);

  float acc[Config::kRowTiles][Config::kTokenTiles][4] = {};
  const auto multiply = [&](int c, auto& sums) {
    copy_wait<kStages - 2>();
    __syncthreads();  // chunk c is there for all, and everybody is done with chunk c - 1
    fetch(c + kStages - 1);
    multiply_stage<kKind, Config>(shared + c % kStages * kStageBytes, lane, row_warp, token_warp,
                                  sums);
  };
  if constexpr (Config::kBlockScales) {
    const int64_t scale_stride = (panel.chunks + 1) / 2;
    for (int c = 0; c < panel.chunks; c += 2) {
      float part[Config::kRowTiles][Config::kTokenTiles][4] = {};
      multiply(c, part);
      if (c + 1 < panel.chunks) multiply(c + 1, part);
#pragma unroll
      for (int m = 0; m < Config::kRowTiles; ++m) {
        // Members begin at multiples of 16 rows, so that a tile has one scale.
        const int row = first_row + row_warp * Config::kWarpRows + m * 16;
        const float scale = __ldg(panel.block_scale +
                                  min(row, panel.rows - 1) / kPanelTileRows * scale_stride + c / 2);
#pragma unroll
        for (int n = 0; n < Config::kTokenTiles; ++n) {
#pragma unroll
          for (int i = 0; i < 4; ++i) acc[m][n][i] += part[m][n][i] * scale;
        }
      }
    }
  } else {
    for (int c = 0; c < panel.chunks; ++c) multiply(c, acc);
  }

  // [tokens][rows] of each warp; columns are moved by 8 for every 2 tokens, so that the four
  // threads of a quad write to other banks.
  copy_wait<0>();
  __syncthreads();
  float* result = reinterpret_cast<float*>(shared) + warp * Config::kWarpRows * Config::kWarpTokens;
  const auto at = [](int token, int row) {
    return token * Config::kWarpRows + ((row + token / 2 * 8) % Config::kWarpRows);
  };
#pragma unroll
  for (int m = 0; m < Config::kRowTiles; ++m) {
#pragma unroll
    for (int n = 0; n < Config::kTokenTiles; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        result[at(8 * n + lane % 4 * 2 + i % 2, 16 * m + lane / 4 + i / 2 * 8)] = acc[m][n][i];
      }
    }
  }
  __syncwarp();
  constexpr int kLanes = Config::kWarpRows < 32 ? Config::kWarpRows : 32;
  for (int r = lane % kLanes; r < Config::kWarpRows; r += kLanes) {
    const int row = first_row + row_warp * Config::kWarpRows + r;
    if (row >= panel.rows) break;
    const OutputRow output(p, index, row);
    if (!output.is_stored()) continue;
    for (int n = lane / kLanes; n < Config::kWarpTokens; n += 32 / kLanes) {
      const int token = first_token + token_warp * Config::kWarpTokens + n;
      if (token >= p.tokens) break;
      output.store(token, result[at(n, r)]);
    }
  }
}

template <class Config>
__global__ void __launch_bounds__(kThreads) prompt_kernel(const __grid_constant__ Products p) {
  extern __shared__ __align__(128) uint8_t shared[];
  wait_for_previous_kernel();
  launch_dependents();
  const int panel = panel_of_block(p);
  if constexpr (Config::kBlockScales) {
    return prompt_panel<PanelKind::kFp8Block, Config>(p, panel, shared);
  } else {
    switch (p.panels[panel].kind) {
      case PanelKind::kBf16:
        return prompt_panel<PanelKind::kBf16, Config>(p, panel, shared);
      case PanelKind::kFp8:
        return prompt_panel<PanelKind::kFp8, Config>(p, panel, shared);
      case PanelKind::kNvfp4:
        return prompt_panel<PanelKind::kNvfp4, Config>(p, panel, shared);
      case PanelKind::kMxfp4:
        return prompt_panel<PanelKind::kMxfp4, Config>(p, panel, shared);
      case PanelKind::kFp8Block:
        return;
    }
  }
}

__global__ void round_kernel(const Products p, __nv_bfloat16* out, int64_t out_stride) {
  wait_for_previous_kernel();
  launch_dependents();
  const int pieces = (p.in_features + 7) / 8;
  const int piece = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (piece >= pieces) return;
  *reinterpret_cast<uint4*>(out + blockIdx.y * out_stride + piece * 8) =
      load_token_piece(p, blockIdx.y, piece * 8);
}

bool has_block_scales(const Panel& panel) { return panel.kind == PanelKind::kFp8Block; }

/// Blocks of the panels that a kernel with these tiles takes; the others have none.
template <class Config>
int divide_blocks(const LinearCall& call, Products& p) {
  const int64_t token_tiles = ceil_div(call.x.rows, int64_t{Config::kTokens});
  for (size_t i = 0; i < call.panels.size(); ++i) {
    const Panel& panel = call.panels[i];
    const bool taken = has_block_scales(panel) == Config::kBlockScales;
    const int64_t tiles = ceil_div(int64_t{panel.rows}, int64_t{Config::kRows}) * token_tiles;
    p.first_block[i + 1] = p.first_block[i] + static_cast<int32_t>(taken ? tiles : 0);
  }
  return p.first_block[call.panels.size()];
}

template <class Config>
int shared_bytes(const LinearCall& call) {
  int bytes = 0;
  for (const Panel& panel : call.panels) {
    if (has_block_scales(panel) != Config::kBlockScales) continue;
    bytes = std::max(bytes, Config::shared_bytes(panel.kind));
  }
  return bytes;
}

template <class Config>
void launch_prompt(const LinearCall& call) {
  Products p = products_of(call);
  const int blocks = divide_blocks<Config>(call, p);
  launch(prompt_kernel<Config>,
         {.grid = dim3(static_cast<unsigned>(blocks)),
          .block = dim3(kThreads),
          .shared_bytes = static_cast<size_t>(shared_bytes<Config>(call)),
          .stream = call.stream,
          .dependent = call.dependent},
         p);
}

/// Large tiles where they keep the SMs busy and fit.
template <class Large, class Small>
void launch_either(const LinearCall& call) {
  Products p = products_of(call);
  if (divide_blocks<Large>(call, p) >= call.sm_count &&
      shared_bytes<Large>(call) <= call.shared_bytes) {
    return launch_prompt<Large>(call);
  }
  launch_prompt<Small>(call);
}

}  // namespace

void allow_prompt_kernels(int bytes) {
  const auto allow = [&](auto* kernel) {
    MOE4_CUDA_CHECK(
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
  };
  allow(prompt_kernel<LargeTile>);
  allow(prompt_kernel<SmallTile>);
  allow(prompt_kernel<LargeScaledTile>);
  allow(prompt_kernel<SmallScaledTile>);
}

void prompt_linears(const LinearCall& call) {
  if (call.x.rows == 0) return;
  MOE4_CHECK(call.x.format == RowFormat::kBf16 && call.x.stride % 8 == 0 &&
             reinterpret_cast<uintptr_t>(call.x.data) % 16 == 0);
  const auto scaled = std::count_if(call.panels.begin(), call.panels.end(), has_block_scales);
  if (scaled > 0) launch_either<LargeScaledTile, SmallScaledTile>(call);
  if (scaled < static_cast<int64_t>(call.panels.size())) launch_either<LargeTile, SmallTile>(call);
}

void round_rows(const Rows& x, const Rows& rounded, bool dependent, cudaStream_t stream) {
  constexpr int kThreadsOfRow = 128;
  Products p = products_of({.x = x});
  launch(round_kernel,
         {.grid = dim3(static_cast<unsigned>(
                           ceil_div(ceil_div(x.width, int64_t{8}), int64_t{kThreadsOfRow})),
                       static_cast<unsigned>(x.rows)),
          .block = dim3(kThreadsOfRow),
          .stream = stream,
          .dependent = dependent},
         p, reinterpret_cast<__nv_bfloat16*>(rounded.data), rounded.stride);
}

}  // namespace moe4::cuda
