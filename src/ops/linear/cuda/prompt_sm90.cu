// Products for prompts on SM90: y[t] = x[t] W^T with wgmma, weights decoded into its register
// operand.
//
// Two warpgroups, each with 64 or 128 rows (one or two blocks of m64) x 32 to 128 tokens; a stage
// is 64 columns of both operands, brought with cp.async by all threads, kStages deep. While the
// tensor cores multiply one block of rows, the warpgroup decodes the next one. A warp decodes 16
// rows of a block (TileChunk), so its thread 4g + t holds columns 16t + 4m .. 16t + 4m + 3 in the
// m-th k16 of a chunk; tokens therefore come with the columns of each chunk in that order
// (order_tokens()), in the 128-byte swizzle of wgmma's descriptors.
//
// Every sum is one chain over K (E4M3 with block scales: chains of 128 columns), so bits depend
// neither on the tile nor on what else is in the call.
#include <algorithm>

#include "device/cuda/launch.h"
#include "device/cuda/ptx/barrier.cuh"
#include "device/cuda/ptx/copy.cuh"
#include "device/cuda/ptx/launch.cuh"
#include "device/cuda/ptx/wgmma_sm90.cuh"
#include "ops/linear/cuda/fragments.cuh"
#include "ops/linear/cuda/products.cuh"

namespace moe4::cuda {
namespace {

constexpr int kThreads = 256;  // two warpgroups
constexpr int kWarps = kThreads / 32;
constexpr int kStages = 4;
constexpr int kTokenBytes = kPanelChunk * 2;  // of a chunk
constexpr int kResultStride = 20;             // floats between tokens of a warp's 16 rows

/// A block's tile: blocks of 64 rows of a warpgroup, tokens, and whether sums are scaled in blocks.
template <int kBlocks_, int kTokens_, bool kBlockScales_>
struct TileConfig {
  static constexpr int kBlocks = kBlocks_, kTokens = kTokens_;
  static constexpr bool kBlockScales = kBlockScales_;
  static constexpr int kGroupRows = 64 * kBlocks, kRows = 2 * kGroupRows;
  static constexpr int kSums = kTokens / 2;  // of a thread and block

  static constexpr int stage_bytes(PanelKind kind) {
    // Tokens begin at multiples of 1024 bytes, as the swizzle wants it.
    const int weights = kRows / kPanelTileRows * tile_chunk_bytes(kind);
    return kTokens * kTokenBytes + (weights + 1023) / 1024 * 1024;
  }
  static int shared_bytes(PanelKind kind) {
    return 1024 + std::max(kStages * stage_bytes(kind), kWarps * kTokens * kResultStride * 4);
  }
};

/// Brings chunk `c` of a tile's weights and tokens into a stage.
template <PanelKind kKind, class Config>
__device__ __forceinline__ void copy_stage(const Products& p, const Panel& panel, int row,
                                           int first_token, int c, uint32_t stage) {
  const int thread = static_cast<int>(threadIdx.x);
  const int x_chunk = c % panel.x_chunks;
#pragma unroll
  for (int i = 0; i < Config::kTokens * 8 / kThreads; ++i) {
    const int index = i * kThreads + thread, n = index / 8, piece = index % 8;
    const auto* from = static_cast<const __nv_bfloat16*>(p.x) + (first_token + n) * p.x_stride +
                       x_chunk * kPanelChunk + piece * 8;
    copy16_if(first_token + n < p.tokens, stage + n * kTokenBytes + (piece ^ (n & 7)) * 16, from);
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

template <PanelKind kKind>
__device__ __forceinline__ void decode_rows(const uint8_t* chunk, int lane, uint32_t (&a)[16]) {
  uint32_t half[8];
  TileChunk<kKind>::template load<0>(chunk, lane, half);
#pragma unroll
  for (int i = 0; i < 8; ++i) a[i] = half[i];
  TileChunk<kKind>::template load<1>(chunk, lane, half);
#pragma unroll
  for (int i = 0; i < 8; ++i) a[8 + i] = half[i];
}

template <PanelKind kKind, class Config>
__device__ void prompt_panel(const Products& p, int index, uint8_t* shared) {
  const Panel panel = p.panels[index];
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int group = warp / 4;
  const int token_tiles = (p.tokens + Config::kTokens - 1) / Config::kTokens;
  const int tile = static_cast<int>(blockIdx.x) - p.first_block[index];
  const int first_row = tile / token_tiles * Config::kRows;
  const int first_token = tile % token_tiles * Config::kTokens;

  constexpr int kStageBytes = Config::stage_bytes(kKind);
  const uint32_t stages = shared_address(shared);
  const auto fetch = [&](int c) {
    if (c < panel.chunks) {
      copy_stage<kKind, Config>(p, panel, first_row, first_token, c,
                                stages + c % kStages * kStageBytes);
    }
    copy_commit();
  };
  // Products of chunk c - 1 may still read their tokens when chunk c begins, so a stage is filled
  // two chunks after its products.
  for (int c = 0; c < kStages - 2; ++c) fetch(c);
  const auto next_stage = [&](int c) {
    copy_wait<kStages - 3>();
    fence_async_proxy();
    __syncthreads();
    fetch(c + kStages - 2);
    return c % kStages * kStageBytes;
  };
  const auto tile_of = [&](int stage, int block) {
    return shared + stage + Config::kTokens * kTokenBytes +
           ((group * Config::kBlocks + block) * 4 + warp % 4) * tile_chunk_bytes(kKind);
  };

  float acc[Config::kBlocks][Config::kSums];
  uint32_t a[2][16];
  if constexpr (Config::kBlockScales) {
    static_assert(Config::kBlocks == 1);
    const int row = first_row + group * Config::kGroupRows + warp % 4 * 16;
    const float* scales = panel.block_scale + int64_t{min(row, panel.rows - 1) / kPanelTileRows} *
                                                  ((panel.chunks + 1) / 2);
#pragma unroll
    for (int i = 0; i < Config::kSums; ++i) acc[0][i] = 0.0f;
    float part[Config::kSums];
    for (int c = 0; c < panel.chunks; c += 2) {
      const float scale = __ldg(scales + c / 2);
      int stage = next_stage(c);
      decode_rows<kKind>(tile_of(stage, 0), lane, a[0]);
      multiply_64_columns(part, a[0], b_descriptor(stages + stage), false);
      if (c + 1 < panel.chunks) {
        stage = next_stage(c + 1);
        decode_rows<kKind>(tile_of(stage, 0), lane, a[1]);
        multiply_64_columns(part, a[1], b_descriptor(stages + stage), true);
      }
      wgmma_wait<0>();
#pragma unroll
      for (int i = 0; i < Config::kSums; ++i) acc[0][i] = fmaf(part[i], scale, acc[0][i]);
    }
  } else {
    for (int c = 0; c < panel.chunks; ++c) {
      const int stage = next_stage(c);
      const uint32_t b = b_descriptor(stages + stage);
#pragma unroll
      for (int block = 0; block < Config::kBlocks; ++block) {
        // The products that read these registers were of the chunk before.
        wgmma_wait<Config::kBlocks - 1>();
        decode_rows<kKind>(tile_of(stage, block), lane, a[block]);
        multiply_64_columns(acc[block], a[block], b, c > 0);
      }
    }
    wgmma_wait<0>();
  }

  copy_wait<0>();
  __syncthreads();
  float* result = reinterpret_cast<float*>(shared) + warp * Config::kTokens * kResultStride;
#pragma unroll
  for (int block = 0; block < Config::kBlocks; ++block) {
#pragma unroll
    for (int i = 0; i < Config::kSums; ++i) {
      const int token = i / 4 * 8 + lane % 4 * 2 + i % 2, row = lane / 4 + i % 4 / 2 * 8;
      result[token * kResultStride + row] = acc[block][i];
    }
    __syncwarp();
    const int row = first_row + group * Config::kGroupRows + block * 64 + warp % 4 * 16 + lane % 16;
    if (row < panel.rows) {
      const OutputRow output(p, index, row);
      for (int n = lane / 16; n < Config::kTokens; n += 2) {
        if (first_token + n >= p.tokens || !output.is_stored()) break;
        output.store(first_token + n, result[n * kResultStride + lane % 16]);
      }
    }
    __syncwarp();
  }
}

template <class Config>
__global__ void __launch_bounds__(kThreads) prompt_kernel(const __grid_constant__ Products p) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  extern __shared__ uint8_t memory[];
  uint8_t* shared = memory + (1024 - shared_address(memory) % 1024) % 1024;
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
#endif
}

// A thread makes 8 columns: slots 8 half .. 8 half + 7 of the m-th k16 of a chunk are columns
// 16t + 4m + 2 half + {0, 1} for t = 0 .. 3.
__global__ void order_kernel(const __grid_constant__ Products p, __nv_bfloat16* out,
                             int64_t out_stride) {
  wait_for_previous_kernel();
  launch_dependents();
  const int piece = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (piece * 8 >= out_stride) return;
  const int64_t token = blockIdx.y;
  const int chunk = piece / 8, m = piece % 8 / 2, half = piece % 2;
  uint32_t pairs[4];
#pragma unroll
  for (int t = 0; t < 4; ++t) {
    pairs[t] = load_token_pair(p, token, chunk * kPanelChunk + 16 * t + 4 * m + 2 * half);
  }
  *reinterpret_cast<uint4*>(out + token * out_stride + piece * 8) =
      make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]);
}

bool has_block_scales(const Panel& panel) { return panel.kind == PanelKind::kFp8Block; }

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
void launch_prompt(const LinearCall& call) {
  Products p = products_of(call);
  const int blocks = divide_blocks<Config>(call, p);
  int bytes = 0;
  for (const Panel& panel : call.panels) {
    if (has_block_scales(panel) != Config::kBlockScales) continue;
    bytes = std::max(bytes, Config::shared_bytes(panel.kind));
  }
  launch(prompt_kernel<Config>,
         {.grid = dim3(static_cast<unsigned>(blocks)),
          .block = dim3(kThreads),
          .shared_bytes = static_cast<size_t>(bytes),
          .stream = call.stream,
          .dependent = call.dependent},
         p);
}

/// The largest tile of which there is at least one for every SM.
template <class First, class... Others>
void launch_largest(const LinearCall& call) {
  if constexpr (sizeof...(Others) == 0) {
    launch_prompt<First>(call);
  } else {
    Products p = products_of(call);
    if (divide_blocks<First>(call, p) >= call.sm_count) return launch_prompt<First>(call);
    launch_largest<Others...>(call);
  }
}

template <bool kScaled>
using Wide = TileConfig<kScaled ? 1 : 2, 128, kScaled>;
template <bool kScaled>
using Middle = TileConfig<1, 64, kScaled>;
template <bool kScaled>
using Narrow = TileConfig<1, 32, kScaled>;

template <bool kScaled>
void allow(int bytes) {
  const auto one = [&](auto* kernel) {
    MOE4_CUDA_CHECK(
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
  };
  one(prompt_kernel<Wide<kScaled>>);
  one(prompt_kernel<Middle<kScaled>>);
  one(prompt_kernel<Narrow<kScaled>>);
}

template <bool kScaled>
void multiply(const LinearCall& call) {
  launch_largest<Wide<kScaled>, Middle<kScaled>, Narrow<kScaled>>(call);
}

}  // namespace

bool has_sm90_prompts() { return true; }

void allow_sm90_prompt_kernels(int bytes) {
  allow<false>(bytes);
  allow<true>(bytes);
}

void order_tokens(const Rows& x, const Rows& ordered, bool dependent, cudaStream_t stream) {
  constexpr int kThreadsOfRow = 128;
  launch(order_kernel,
         {.grid = dim3(static_cast<unsigned>(ceil_div(ordered.stride / 8, int64_t{kThreadsOfRow})),
                       static_cast<unsigned>(x.rows)),
          .block = dim3(kThreadsOfRow),
          .stream = stream,
          .dependent = dependent},
         products_of({.x = x}), reinterpret_cast<__nv_bfloat16*>(ordered.data), ordered.stride);
}

void sm90_prompt_linears(const LinearCall& call) {
  if (call.x.rows == 0) return;
  const auto scaled = std::count_if(call.panels.begin(), call.panels.end(), has_block_scales);
  if (scaled > 0) multiply<true>(call);
  if (scaled < static_cast<int64_t>(call.panels.size())) multiply<false>(call);
}

}  // namespace moe4::cuda
