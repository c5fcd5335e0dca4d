// Products of many tokens on SM90: y[t] = x[t] W^T with wgmma, weights decoded into its register
// operand.
//
// Two warpgroups, each with 64 or 128 rows (one or two blocks of m64) x 32 to 128 tokens; a stage
// is 64 columns of both operands, brought with cp.async by all threads, kStages deep. While the
// tensor cores multiply one block of rows (or one chunk), the warpgroup decodes the next one. A
// warp decodes 16 rows of a block (TileChunk), so its thread 4g + t holds columns 16t + 4m .. 16t +
// 4m + 3 in the m-th k16 of a chunk; tokens therefore come with the columns of each chunk in that
// order (order_tokens()), in the 128-byte swizzle of wgmma's descriptors.
//
// Sums of prompts are one chain over K (E4M3 with block scales: chains of 128 columns), those of
// generated tokens in the order of decode_shares(), so bits depend neither on the tile nor on what
// else is in the call. A chain of wgmma rounds as one of mma.sync does.
#include <algorithm>

#include "device/cuda/launch.h"
#include "device/cuda/ptx/barrier.cuh"
#include "device/cuda/ptx/copy.cuh"
#include "device/cuda/ptx/launch.cuh"
#include "device/cuda/ptx/wgmma_sm90.cuh"
#include "ops/linear/cuda/fragments.cuh"
#include "ops/linear/cuda/products.cuh"

namespace moe4::cuda {

// Not anonymous: nvcc takes what only sm_90a uses for forgotten otherwise.
namespace linear_sm90 {

constexpr int kThreads = 256;  // two warpgroups
constexpr int kWarps = kThreads / 32;
constexpr int kTokenBytes = kPanelChunk * 2;  // of a chunk
constexpr int kResultStride = 20;             // floats between tokens of a warp's 16 rows

enum class Sums { kPrompt, kPromptScaled, kDecode, kDecodeScaled };  // scaled: kFp8Block

/// A block's tile: blocks of 64 rows of a warpgroup, tokens, stages, the order of sums, and how
/// many blocks an SM has at least.
template <int kBlocks_, int kTokens_, int kStages_, Sums kOrder_, int kLeastBlocks_ = 1>
struct TileConfig {
  static constexpr int kBlocks = kBlocks_, kTokens = kTokens_, kStages = kStages_;
  static constexpr int kLeastBlocks = kLeastBlocks_;
  static constexpr Sums kOrder = kOrder_;
  static constexpr bool kDecode = kOrder == Sums::kDecode || kOrder == Sums::kDecodeScaled;
  static constexpr bool kBlockScales =
      kOrder == Sums::kPromptScaled || kOrder == Sums::kDecodeScaled;
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

/// Brings the chunks of a tile's weights and tokens, one after the other. A thread's copies of a
/// chunk lie a constant distance apart.
template <PanelKind kKind, class Config>
class StageCopies {
 public:
  __device__ StageCopies(const Products& p, const Panel& panel, int row, int first_token)
      : x_row_step_(p.x_stride * kTokenStep), x_chunks_(panel.x_chunks) {
    const int thread = static_cast<int>(threadIdx.x);
    const int n = thread / 8, x_piece = thread % 8;
    x_ = static_cast<const __nv_bfloat16*>(p.x) + (first_token + n) * p.x_stride + x_piece * 8;
    x_to_ = n * kTokenBytes + (x_piece ^ (n & 7)) * 16;
    tokens_left_ = p.tokens - first_token - n;
    if constexpr (is_tiled(kKind)) {
      from_ = panel.chunk(row, 0);
      to_ = Config::kTokens * kTokenBytes + thread * 16;
#pragma unroll
      for (int i = 0; i < kCopies; ++i) {
        const int index = i * kThreads + thread, tile = index / kTilePieces;
        from_of_[i] = tile * panel.chunks * kTileBytes + index % kTilePieces * 16;
        if (tile >= Config::kRows / kPanelTileRows || row + tile * kPanelTileRows >= panel.rows) {
          from_of_[i] = -1;
        }
      }
    } else {
      const int r = thread / kRowPieces, piece = thread % kRowPieces;
      from_ = panel.chunk(row + r, 0) + piece * 16;
      to_ = Config::kTokens * kTokenBytes + r / kPanelTileRows * kTileBytes +
            TileChunk<kKind>::piece_at(r % kPanelTileRows, piece);
      row_step_ = panel.chunks * (kTileBytes / kPanelTileRows) * kRowStep;
      rows_left_ = panel.rows - row - r;
    }
  }

  __device__ void copy(uint32_t stage) {
#pragma unroll
    for (int i = 0; i < Config::kTokens / kTokenStep; ++i) {
      copy16_if(i * kTokenStep < tokens_left_, stage + x_to_ + i * kTokenStep * kTokenBytes,
                x_ + i * x_row_step_);
    }
    x_ += kPanelChunk;
    if (++x_chunk_ == x_chunks_) {
      x_ -= x_chunks_ * kPanelChunk;
      x_chunk_ = 0;
    }
    if constexpr (is_tiled(kKind)) {
#pragma unroll
      for (int i = 0; i < kCopies; ++i) {
        copy16_if(from_of_[i] >= 0, stage + to_ + i * kThreads * 16, from_ + from_of_[i]);
      }
      from_ += kTileBytes;
    } else {
#pragma unroll
      for (int i = 0; i < Config::kRows / kRowStep; ++i) {
        copy16_if(i * kRowStep < rows_left_,
                  stage + to_ + i * (kRowStep / kPanelTileRows) * kTileBytes,
                  from_ + static_cast<int64_t>(i) * row_step_);
      }
      from_ += kRowPieces * 16;
    }
  }

 private:
  static constexpr int kTokenStep = kThreads / 8;
  static constexpr int kTileBytes = tile_chunk_bytes(kKind);
  static constexpr int kTilePieces = kTileBytes / 16;
  static constexpr int kRowPieces = is_tiled(kKind) ? 1 : kTilePieces / kPanelTileRows;
  static constexpr int kRowStep = kThreads / kRowPieces;
  static constexpr int kCopies =
      (Config::kRows / kPanelTileRows * kTilePieces + kThreads - 1) / kThreads;

  const __nv_bfloat16* x_;
  int64_t x_row_step_;  // elements
  int x_to_, tokens_left_, x_chunks_, x_chunk_ = 0;
  const uint8_t* from_;
  int to_, row_step_ = 0, rows_left_ = 0;
  int from_of_[kCopies] = {};  // tiled: of each copy, -1: none
};

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

template <int kCount>
__device__ __forceinline__ void clear(float (&sums)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) sums[i] = 0.0f;
}

/// part += 64 columns of this warp's 16 rows times the tokens; asynchronous.
template <PanelKind kKind, int kSums>
__device__ __forceinline__ void multiply_halves(const uint8_t* tile, int lane, uint32_t tokens,
                                                float (&part)[2][kSums]) {
  uint32_t a[2][8];
  TileChunk<kKind>::template load<0>(tile, lane, a[0]);
  TileChunk<kKind>::template load<1>(tile, lane, a[1]);
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    asm volatile("" : "+r"(a[0][i]), "+r"(a[1][i]));  // all are decoded before any product
  }
  multiply_32_columns(part[0], a[0], tokens);
  multiply_32_columns(part[1], a[1], tokens + 4);
}

/// Sums in the order of decode_shares(). `begin_chunks()` waits for chunks c and c + 1,
/// `end_chunk(c)` asks for another; `tile_of(c)` is this warp's 16 rows of it, `descriptor_of(c)`
/// that of its tokens. Two chunks of a share at a time, so that warps wait for each other and for
/// their products half as often.
template <PanelKind kKind, bool kTogether, int kSums, class BeginChunks, class EndChunk,
          class TileOf, class DescriptorOf>
__device__ __forceinline__ void sum_shares(const Panel& panel, const float* block_scales, int lane,
                                           const BeginChunks& begin_chunks,
                                           const EndChunk& end_chunk, const TileOf& tile_of,
                                           const DescriptorOf& descriptor_of,
                                           float (&total)[kSums]) {
  constexpr bool kScaled = kKind == PanelKind::kFp8Block;
  constexpr int kUnit = unit_chunks(kKind);
  const int units = (panel.chunks + kUnit - 1) / kUnit, shares = decode_shares(units);
  float part[2][kSums], scaled[kScaled ? 2 : 1][kSums];
  const auto clear_share = [&] {
    clear(part[0]);
    clear(part[1]);
    if constexpr (kScaled) {
      clear(scaled[0]);
      clear(scaled[1]);
    }
  };
  clear_share();
  int share = 0, share_end = min(units / shares * kUnit, panel.chunks);
  for (int c = 0; c < panel.chunks;) {
    begin_chunks();
    // With products pending over the barrier ptxas would serialise them all; the other warpgroups
    // of the SM multiply meanwhile.
    if (c + 1 < share_end) {
      multiply_halves<kKind>(tile_of(c), lane, descriptor_of(c), part);
      if constexpr (!kTogether) wgmma_wait<0>();
      multiply_halves<kKind>(tile_of(c + 1), lane, descriptor_of(c + 1), part);
      end_chunk(c);
      end_chunk(c + 1);
      c += 2;
    } else {
      multiply_halves<kKind>(tile_of(c), lane, descriptor_of(c), part);
      end_chunk(c);
      ++c;
    }
    wgmma_wait<0>();
    if constexpr (kScaled) {  // shares are whole units of two chunks, but for the last
      const float scale = __ldg(block_scales + (c - 1) / kUnit);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
#pragma unroll
        for (int i = 0; i < kSums; ++i) {
          scaled[half][i] = fmaf(part[half][i], scale, scaled[half][i]);
        }
        clear(part[half]);
      }
    }
    if (c < share_end) continue;
#pragma unroll
    for (int i = 0; i < kSums; ++i) {
      float sum = 0;
      if constexpr (kScaled) {
        sum = scaled[0][i] + scaled[1][i];
      } else {
        sum = part[0][i] + part[1][i];
      }
      total[i] = share == 0 ? sum : total[i] + sum;
    }
    clear_share();
    ++share;
    share_end = min(units * (share + 1) / shares * kUnit, panel.chunks);
  }
}

template <PanelKind kKind, class Config>
__device__ void multiply_panel(const Products& p, int index, uint8_t* shared) {
  const Panel panel = p.panels[index];
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int group = warp / 4;
  const int token_tiles = (p.tokens + Config::kTokens - 1) / Config::kTokens;
  const int tile = static_cast<int>(blockIdx.x) - p.first_block[index];
  const int first_row = tile / token_tiles * Config::kRows;
  const int first_token = tile % token_tiles * Config::kTokens;

  constexpr int kStages = Config::kStages, kStageBytes = Config::stage_bytes(kKind);
  const uint32_t stages = shared_address(shared);
  StageCopies<kKind, Config> copies(p, panel, first_row, first_token);
  const auto fetch = [&](int c) {
    if (c < panel.chunks) copies.copy(stages + c % kStages * kStageBytes);
    copy_commit();
  };
  // Products of chunk c - 1 may still read their tokens when chunk c begins, so a stage is filled
  // two chunks after its products.
  for (int c = 0; c < kStages - 2; ++c) fetch(c);
  const auto begin_chunk = [&](int c) {
    copy_wait<kStages - 3>();
    fence_async_proxy();
    __syncthreads();
    return c % kStages * kStageBytes;
  };
  // Behind the products of chunk c, which run meanwhile.
  const auto end_chunk = [&](int c) { fetch(c + kStages - 2); };
  const auto tile_of = [&](int stage, int block) {
    return shared + stage + Config::kTokens * kTokenBytes +
           ((group * Config::kBlocks + block) * 4 + warp % 4) * tile_chunk_bytes(kKind);
  };

  float acc[Config::kBlocks][Config::kSums];
  static_assert(Config::kBlocks == 1 || Config::kOrder == Sums::kPrompt);
  const int scale_row = first_row + group * Config::kGroupRows + warp % 4 * 16;
  const float* scales =
      panel.block_scale +
      int64_t{min(scale_row, panel.rows - 1) / kPanelTileRows} * ((panel.chunks + 1) / 2);
  uint32_t a[2][16];
  if constexpr (Config::kDecode) {
    const auto begin_chunks = [&] {
      copy_wait<kStages - 4>();
      fence_async_proxy();
      __syncthreads();
    };
    const auto stage_of = [](int c) { return c % kStages * kStageBytes; };
    // Two blocks on an SM have no registers for two chunks, but wait for different things.
    sum_shares<kKind, Config::kLeastBlocks == 1>(
        panel, scales, lane, begin_chunks, end_chunk,
        [&](int c) { return tile_of(stage_of(c), 0); },
        [&](int c) { return b_descriptor(stages + stage_of(c)); }, acc[0]);
  } else if constexpr (Config::kBlockScales) {
    clear(acc[0]);
    float part[Config::kSums];
    for (int c = 0; c < panel.chunks; c += 2) {
      const float scale = __ldg(scales + c / 2);
      int stage = begin_chunk(c);
      decode_rows<kKind>(tile_of(stage, 0), lane, a[0]);
      multiply_64_columns(part, a[0], b_descriptor(stages + stage), false);
      end_chunk(c);
      if (c + 1 < panel.chunks) {
        stage = begin_chunk(c + 1);
        decode_rows<kKind>(tile_of(stage, 0), lane, a[1]);
        multiply_64_columns(part, a[1], b_descriptor(stages + stage), true);
        end_chunk(c + 1);
      }
      wgmma_wait<0>();
#pragma unroll
      for (int i = 0; i < Config::kSums; ++i) acc[0][i] = fmaf(part[i], scale, acc[0][i]);
    }
  } else {
    for (int c = 0; c < panel.chunks; ++c) {
      const int stage = begin_chunk(c);
      const uint32_t b = b_descriptor(stages + stage);
#pragma unroll
      for (int block = 0; block < Config::kBlocks; ++block) {
        // The products that read these registers were of the chunk before.
        wgmma_wait<Config::kBlocks - 1>();
        decode_rows<kKind>(tile_of(stage, block), lane, a[block]);
        multiply_64_columns(acc[block], a[block], b, c > 0);
      }
      end_chunk(c);
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
__global__ void __launch_bounds__(kThreads, Config::kLeastBlocks)
    product_kernel(const __grid_constant__ Products p) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  extern __shared__ uint8_t memory[];
  uint8_t* shared = memory + (1024 - shared_address(memory) % 1024) % 1024;
  wait_for_previous_kernel();
  launch_dependents();
  const int panel = panel_of_block(p);
  if constexpr (Config::kBlockScales) {
    return multiply_panel<PanelKind::kFp8Block, Config>(p, panel, shared);
  } else {
    switch (p.panels[panel].kind) {
      case PanelKind::kBf16:
        return multiply_panel<PanelKind::kBf16, Config>(p, panel, shared);
      case PanelKind::kFp8:
        return multiply_panel<PanelKind::kFp8, Config>(p, panel, shared);
      case PanelKind::kNvfp4:
        return multiply_panel<PanelKind::kNvfp4, Config>(p, panel, shared);
      case PanelKind::kMxfp4:
        return multiply_panel<PanelKind::kMxfp4, Config>(p, panel, shared);
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

inline bool has_block_scales(const Panel& panel) { return panel.kind == PanelKind::kFp8Block; }

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
void launch_products(const LinearCall& call) {
  Products p = products_of(call);
  const int blocks = divide_blocks<Config>(call, p);
  int bytes = 0;
  for (const Panel& panel : call.panels) {
    if (has_block_scales(panel) != Config::kBlockScales) continue;
    bytes = std::max(bytes, Config::shared_bytes(panel.kind));
  }
  launch(product_kernel<Config>,
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
    launch_products<First>(call);
  } else {
    Products p = products_of(call);
    if (divide_blocks<First>(call, p) >= call.sm_count) return launch_products<First>(call);
    launch_largest<Others...>(call);
  }
}

template <Sums kOrder>
using Wide = TileConfig<kOrder == Sums::kPrompt ? 2 : 1, 128, 4, kOrder>;
template <Sums kOrder>
using Middle = TileConfig<1, 64, 6, kOrder>;
template <Sums kOrder>
using Narrow = TileConfig<1, 32, 8, kOrder>;

/// Of so many tiles that SMs have two blocks (lm_head).
using NarrowMany = TileConfig<1, 32, 8, Sums::kDecode, 2>;

template <class... Configs>
void allow(int bytes) {
  const auto one = [&](auto* kernel) {
    MOE4_CUDA_CHECK(
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
  };
  (one(product_kernel<Configs>), ...);
}

// Panels with block scales and the others have kernels of their own.
template <Sums kPlain, Sums kScaled, template <Sums> class... Tiles>
void multiply(const LinearCall& call) {
  const auto scaled = std::count_if(call.panels.begin(), call.panels.end(), has_block_scales);
  if (scaled > 0) launch_largest<Tiles<kScaled>...>(call);
  if (scaled < static_cast<int64_t>(call.panels.size())) launch_largest<Tiles<kPlain>...>(call);
}

}  // namespace linear_sm90

using namespace linear_sm90;

bool has_wgmma_linears() { return true; }

void allow_wgmma_kernels(int bytes) {
  allow<Wide<Sums::kPrompt>, Middle<Sums::kPrompt>, Narrow<Sums::kPrompt>,
        Wide<Sums::kPromptScaled>, Middle<Sums::kPromptScaled>, Narrow<Sums::kPromptScaled>,
        Middle<Sums::kDecode>, Narrow<Sums::kDecode>, NarrowMany, Narrow<Sums::kDecodeScaled>>(
      bytes);
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

void wgmma_linears(const LinearCall& call, bool decode) {
  if (call.x.rows == 0) return;
  if (!decode) return multiply<Sums::kPrompt, Sums::kPromptScaled, Wide, Middle, Narrow>(call);
  // Weights are read again for each tile of tokens, so tiles are as wide as the call.
  const auto scaled = std::count_if(call.panels.begin(), call.panels.end(), has_block_scales);
  if (scaled > 0) launch_products<Narrow<Sums::kDecodeScaled>>(call);
  if (scaled == static_cast<int64_t>(call.panels.size())) return;
  if (call.x.rows > Narrow<Sums::kDecode>::kTokens) {
    return launch_products<Middle<Sums::kDecode>>(call);
  }
  Products p = products_of(call);
  if (divide_blocks<NarrowMany>(call, p) > call.sm_count) return launch_products<NarrowMany>(call);
  launch_products<Narrow<Sums::kDecode>>(call);
}

}  // namespace moe4::cuda
