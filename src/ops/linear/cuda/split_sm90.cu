// Products of 9 to 64 generated tokens on SM90 where rows are few: wgmma over shares of K.
//
//   y[t] = x[t] W^T: P_s = sum over share s of K (decode_shares()), y = P_0 + P_1 + ...
//
// A block has 64 rows x 32 or 64 tokens and two warpgroups. Rows alone would leave most
// multiprocessors idle (2,048 rows are 32 blocks), and a warpgroup that walks over all of K waits
// for its own products at every step. So shares of K are dealt over the warpgroups of a cluster of
// 1, 2 or 4 blocks: as many as fill the multiprocessors. The sums of a share are those of
// wgmma_sm90.cu, its partial results go to the block that has their rows, which adds shares in
// order: bits depend neither on the cluster nor on the tile.
//
// Each warpgroup brings chunks of 64 columns of weights and tokens through a ring of its own
// (cp.async, kStages deep); the first weights are on their way before the kernel in front has
// ended. Weights are decoded into wgmma's register operand as in wgmma_sm90.cu, where the order of
// columns within a chunk is explained; tokens are put into it while they are copied, four bytes at
// a time, where a tile has few and their rows allow it, and come from order_tokens() otherwise.
#include <algorithm>

#include "device/cuda/launch.h"
#include "device/cuda/ptx/barrier.cuh"
#include "device/cuda/ptx/cluster.cuh"
#include "device/cuda/ptx/copy.cuh"
#include "device/cuda/ptx/launch.cuh"
#include "device/cuda/ptx/warp.cuh"
#include "device/cuda/ptx/wgmma_sm90.cuh"
#include "ops/linear/cuda/fragments.cuh"
#include "ops/linear/cuda/products.cuh"

namespace moe4::cuda {

// Not anonymous: nvcc takes what only sm_90a uses for forgotten otherwise.
namespace linear_split_sm90 {

constexpr int kGroups = 2;  // warpgroups
constexpr int kGroupThreads = 128;
constexpr int kThreads = kGroups * kGroupThreads;
constexpr int kRows = 64;
constexpr int kMostCluster = 4;
constexpr int kMostShares = 8;
constexpr int kMostBlocks = 3;                // an SM
constexpr int kTokenBytes = kPanelChunk * 2;  // of a chunk

template <int kTokens_, int kStages_, bool kScaled_, bool kOrdered_>
struct SplitConfig {
  static constexpr int kTokens = kTokens_, kStages = kStages_;
  static constexpr bool kScaled = kScaled_;                   ///< kFp8Block
  static constexpr bool kOrdered = kOrdered_;                 ///< x comes from order_tokens()
  static constexpr int kSums = kTokens / 2;                   // of a thread
  static constexpr int kLeastCluster = kTokens > 32 ? 2 : 1;  ///< results of all shares must fit
  static constexpr int kResultStride = kTokens + 2;           // floats between rows

  static constexpr int stage_bytes(PanelKind kind) {
    // Tokens begin at multiples of 1024 bytes, as the swizzle wants it.
    const int weights = kRows / kPanelTileRows * tile_chunk_bytes(kind);
    return kTokens * kTokenBytes + (weights + 1023) / 1024 * 1024;
  }
  static constexpr int result_bytes(int cluster) {
    return kMostShares * (kRows / cluster) * kResultStride * 4;
  }
  static int shared_bytes(PanelKind kind, int cluster) {
    return 1024 + kGroups * kStages * stage_bytes(kind) + result_bytes(cluster);
  }
};

/// The shares of this block and of a warpgroup of it: all counts are powers of two.
struct Shares {
  int all, ways;   // shares of a row; warpgroups of the cluster
  int begin, end;  // of the warpgroup
  int units;

  __device__ Shares(const Panel& panel, int unit, int cluster, int way) {
    units = (panel.chunks + unit - 1) / unit;
    all = decode_shares(units);
    ways = cluster * kGroups;
    begin = all * way / ways;
    end = all * (way + 1) / ways;
  }
  /// The first chunk of a share.
  __device__ int chunk(const Panel& panel, int unit, int share) const {
    return min(units * share / all * unit, panel.chunks);
  }
};

/// Brings chunks of a tile's weights and tokens; a thread's copies of a chunk lie a constant
/// distance apart.
template <PanelKind kKind, class Config>
class GroupCopies {
 public:
  __device__ GroupCopies(const Products& p, const Panel& panel, int row, int first_token, int chunk,
                         int thread)
      : x_chunks_(panel.x_chunks), x_chunk_(chunk % panel.x_chunks), x_stride_(p.x_stride) {
    const int n = Config::kOrdered ? thread / 8 : thread / 32;
    x_ = static_cast<const __nv_bfloat16*>(p.x) + (first_token + n) * p.x_stride +
         x_chunk_ * kPanelChunk;
    tokens_left_ = p.tokens - first_token - n;
    if constexpr (Config::kOrdered) {
      const int piece = thread % 8;
      x_ += piece * 8;
      x_to_ = n * kTokenBytes + (piece ^ (n & 7)) * 16;
    } else {
      // Pair `pair` of a chunk goes to slot 8m + 4 half + t, from column 16t + 4m + 2 half.
      const int slot = thread % 32;
      const int column = slot % 4 * 16 + slot / 8 * 4 + slot / 4 % 2 * 2;
      x_ += column;
      column_ = column;
      left_ = p.in_features - x_chunk_ * kPanelChunk;
      in_features_ = p.in_features;
      piece_ = slot / 4;
      x_to_ = n * kTokenBytes + slot % 4 * 4;
      token_ = n;
    }
    if constexpr (is_tiled(kKind)) {
      from_ = panel.chunk(row, chunk);
      to_ = Config::kTokens * kTokenBytes + thread * 16;
#pragma unroll
      for (int i = 0; i < kCopies; ++i) {
        const int index = i * kGroupThreads + thread, tile = index / kTilePieces;
        from_of_[i] = tile * panel.chunks * kTileBytes + index % kTilePieces * 16;
        if (tile >= kRows / kPanelTileRows || row + tile * kPanelTileRows >= panel.rows) {
          from_of_[i] = -1;
        }
      }
    } else {
      const int r = thread / kRowPieces, piece = thread % kRowPieces;
      from_ = panel.chunk(row + r, chunk) + piece * 16;
      to_ = Config::kTokens * kTokenBytes + r / kPanelTileRows * kTileBytes +
            TileChunk<kKind>::piece_at(r % kPanelTileRows, piece);
      row_step_ = panel.chunks * (kTileBytes / kPanelTileRows) * kRowStep;
      rows_left_ = panel.rows - row - r;
    }
  }

  /// The next chunk's weights.
  __device__ void copy_weights(uint32_t stage) {
    if constexpr (is_tiled(kKind)) {
#pragma unroll
      for (int i = 0; i < kCopies; ++i) {
        copy16_if(from_of_[i] >= 0, stage + to_ + i * kGroupThreads * 16, from_ + from_of_[i]);
      }
      from_ += kTileBytes;
    } else {
#pragma unroll
      for (int i = 0; i < kRows / kRowStep; ++i) {
        copy16_if(i * kRowStep < rows_left_,
                  stage + to_ + i * (kRowStep / kPanelTileRows) * kTileBytes,
                  from_ + static_cast<int64_t>(i) * row_step_);
      }
      from_ += kRowPieces * 16;
    }
  }

  /// The next chunk's tokens.
  __device__ void copy_tokens(uint32_t stage) {
    if constexpr (Config::kOrdered) {
#pragma unroll
      for (int i = 0; i < Config::kTokens / kTokenStep; ++i) {
        copy16_if(i * kTokenStep < tokens_left_, stage + x_to_ + i * kTokenStep * kTokenBytes,
                  x_ + i * kTokenStep * x_stride_);
      }
    } else {
      const bool whole = column_ < left_;  // in_features is even
#pragma unroll
      for (int i = 0; i < Config::kTokens / kTokenStep; ++i) {
        const int n = token_ + i * kTokenStep;
        const uint32_t to = stage + x_to_ + i * kTokenStep * kTokenBytes + (piece_ ^ (n & 7)) * 16;
        if (i * kTokenStep < tokens_left_) copy4(to, x_ + i * kTokenStep * x_stride_, whole);
      }
      left_ -= kPanelChunk;
    }
    x_ += kPanelChunk;
    if (++x_chunk_ == x_chunks_) {
      x_ -= x_chunks_ * kPanelChunk;
      x_chunk_ = 0;
      if constexpr (!Config::kOrdered) left_ = in_features_;
    }
  }

 private:
  static constexpr int kTokenStep = Config::kOrdered ? kGroupThreads / 8 : kGroupThreads / 32;
  static constexpr int kTileBytes = tile_chunk_bytes(kKind);
  static constexpr int kTilePieces = kTileBytes / 16;
  static constexpr int kRowPieces = is_tiled(kKind) ? 1 : kTilePieces / kPanelTileRows;
  static constexpr int kRowStep = kGroupThreads / kRowPieces;
  static constexpr int kCopies =
      (kRows / kPanelTileRows * kTilePieces + kGroupThreads - 1) / kGroupThreads;

  const __nv_bfloat16* x_;
  int x_to_, tokens_left_, x_chunks_, x_chunk_;
  int64_t x_stride_;                                                     // elements
  int column_ = 0, left_ = 0, in_features_ = 0, piece_ = 0, token_ = 0;  // of unordered tokens
  const uint8_t* from_;
  int to_, row_step_ = 0, rows_left_ = 0;
  int from_of_[kCopies] = {};  // tiled: of each copy, -1: none
};

template <int kCount>
__device__ __forceinline__ void clear(float (&sums)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) sums[i] = 0.0f;
}

template <PanelKind kKind, class Config>
__device__ void multiply_panel(const Products& p, int cluster, int index, uint8_t* shared) {
  constexpr int kStages = Config::kStages, kStageBytes = Config::stage_bytes(kKind);
  constexpr int kUnit = unit_chunks(kKind), kSums = Config::kSums;
  const Panel panel = p.panels[index];
  const int thread = static_cast<int>(threadIdx.x) % kGroupThreads;
  const int lane = thread % 32, warp = thread / 32;
  const int group = static_cast<int>(threadIdx.x) / kGroupThreads;
  const int rank = static_cast<int>(blockIdx.x) % cluster;
  const int token_tiles = (p.tokens + Config::kTokens - 1) / Config::kTokens;
  const int tile = static_cast<int>(blockIdx.x) / cluster - p.first_block[index];
  const int first_row = tile / token_tiles * kRows;
  const int first_token = tile % token_tiles * Config::kTokens;

  const Shares shares(panel, kUnit, cluster, rank * kGroups + group);
  const int begin = shares.chunk(panel, kUnit, shares.begin);
  const int end = shares.chunk(panel, kUnit, shares.end);
  const int stages = group * kStages * kStageBytes;  // of this warpgroup, in `shared`
  const uint32_t results = shared_address(shared) + kGroups * kStages * kStageBytes;
  const auto stage_of = [&](int c) { return stages + (c - begin) % kStages * kStageBytes; };

  GroupCopies<kKind, Config> copies(p, panel, first_row, first_token, begin, thread);
  for (int c = begin; c < min(end, begin + kStages - 1); ++c) {
    copies.copy_weights(shared_address(shared + stage_of(c)));
  }
  wait_for_previous_kernel();
  for (int c = begin; c < begin + kStages - 1; ++c) {
    if (c < end) copies.copy_tokens(shared_address(shared + stage_of(c)));
    copy_commit();
  }
  wait_for_cluster();  // its blocks have begun: their memory may be written

  // Rows of a block of the cluster, and which of them are this warp's.
  const int block_rows = kRows / cluster;
  const uint32_t to = address_in_block(results, static_cast<uint32_t>(warp * 16 / block_rows));
  const int result_row = warp * 16 % block_rows + lane / 4;
  const int scale_row = min(first_row + warp * 16, panel.rows - 1) / kPanelTileRows;
  const float* scales = panel.block_scale + int64_t{scale_row} * ((panel.chunks + 1) / 2);

  float part[2][kSums], scaled[Config::kScaled ? 2 : 1][kSums];
  const auto clear_share = [&] {
    clear(part[0]);
    clear(part[1]);
    if constexpr (Config::kScaled) {
      clear(scaled[0]);
      clear(scaled[1]);
    }
  };
  clear_share();
  int share = shares.begin, share_end = shares.chunk(panel, kUnit, share + 1);
  uint32_t a[2][8];
  for (int c = begin; c < end; ++c) {
    copy_wait<kStages - 2>();
    fence_async_proxy();
    named_barrier<kGroupThreads>(group + 1);
    const int stage = stage_of(c);
    const uint8_t* rows =
        shared + stage + Config::kTokens * kTokenBytes + warp * tile_chunk_bytes(kKind);
    TileChunk<kKind>::template load<0>(rows, lane, a[0]);
    TileChunk<kKind>::template load<1>(rows, lane, a[1]);
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      asm volatile("" : "+r"(a[0][i]), "+r"(a[1][i]));  // all are decoded before any product
    }
    const uint32_t b = b_descriptor(shared_address(shared + stage));
    multiply_32_columns(part[0], a[0], b);
    multiply_32_columns(part[1], a[1], b + 4);
    // The products of chunk c - 1 are done in all warps, so its stage is free.
    if (c + kStages - 1 < end) {
      const uint32_t next = shared_address(shared + stage_of(c + kStages - 1));
      copies.copy_weights(next);
      copies.copy_tokens(next);
    }
    copy_commit();
    wgmma_wait<0>();
    if constexpr (Config::kScaled) {
      if (c % kUnit == kUnit - 1 || c + 1 == panel.chunks) {
        const float scale = __ldg(scales + c / kUnit);
#pragma unroll
        for (int half = 0; half < 2; ++half) {
#pragma unroll
          for (int i = 0; i < kSums; ++i) {
            scaled[half][i] = fmaf(part[half][i], scale, scaled[half][i]);
          }
          clear(part[half]);
        }
      }
    }
    if (c + 1 < share_end) continue;
#pragma unroll
    for (int i = 0; i < kSums; i += 2) {
      const int row = share * block_rows + result_row + i % 4 / 2 * 8;
      const int token = i / 4 * 8 + lane % 4 * 2;
      const auto sum = [&](int j) {
        if constexpr (Config::kScaled) {
          return scaled[0][j] + scaled[1][j];
        } else {
          return part[0][j] + part[1][j];
        }
      };
      store_in_cluster8(to + (row * Config::kResultStride + token) * 4, sum(i), sum(i + 1));
    }
    clear_share();
    ++share;
    share_end = shares.chunk(panel, kUnit, share + 1);
  }

  arrive_in_cluster_releasing();
  // Of the rows of this block, a warp stores 16 for two of some tokens at a time.
  const int row_groups = block_rows / 16, all_warps = kThreads / 32;
  const int block_warp = static_cast<int>(threadIdx.x) / 32;
  const int result = block_warp % row_groups * 16 + lane % 16;
  const int row = first_row + rank * block_rows + result;
  OutputRow output;
  if (row < panel.rows) output = OutputRow(p, index, row);
  wait_for_cluster();
  if (!output.is_stored()) return;
  const auto* from = reinterpret_cast<const float*>(shared + kGroups * kStages * kStageBytes);
  for (int token = block_warp / row_groups * 2 + lane / 16;
       token < min(Config::kTokens, p.tokens - first_token); token += 2 * all_warps / row_groups) {
    float sum = from[result * Config::kResultStride + token];
    for (int s = 1; s < shares.all; ++s) {
      sum += from[(s * block_rows + result) * Config::kResultStride + token];
    }
    output.store(first_token + token, sum);
  }
}

template <class Config>
__global__ void __launch_bounds__(kThreads, Config::kTokens <= 32 && !Config::kScaled ? 2 : 1)
    split_kernel(const __grid_constant__ Products p, int cluster) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  extern __shared__ uint8_t memory[];
  uint8_t* shared = memory + (1024 - shared_address(memory) % 1024) % 1024;
  launch_dependents();
  arrive_in_cluster();
  int panel = 0;
  while (static_cast<int>(blockIdx.x) / cluster >= p.first_block[panel + 1]) ++panel;
  if constexpr (Config::kScaled) {
    return multiply_panel<PanelKind::kFp8Block, Config>(p, cluster, panel, shared);
  } else {
    switch (p.panels[panel].kind) {
      case PanelKind::kBf16:
        return multiply_panel<PanelKind::kBf16, Config>(p, cluster, panel, shared);
      case PanelKind::kFp8:
        return multiply_panel<PanelKind::kFp8, Config>(p, cluster, panel, shared);
      case PanelKind::kNvfp4:
        return multiply_panel<PanelKind::kNvfp4, Config>(p, cluster, panel, shared);
      case PanelKind::kMxfp4:
        return multiply_panel<PanelKind::kMxfp4, Config>(p, cluster, panel, shared);
      case PanelKind::kFp8Block:
        return;
    }
  }
#endif
}

inline bool has_block_scales(const Panel& panel) { return panel.kind == PanelKind::kFp8Block; }

template <class Config>
void launch_split(const LinearCall& call) {
  Products p = products_of(call);
  const int64_t token_tiles = ceil_div(call.x.rows, int64_t{Config::kTokens});
  for (size_t i = 0; i < call.panels.size(); ++i) {
    const Panel& panel = call.panels[i];
    const bool taken = has_block_scales(panel) == Config::kScaled;
    const int64_t tiles = ceil_div(int64_t{panel.rows}, int64_t{kRows}) * token_tiles;
    p.first_block[i + 1] = p.first_block[i] + static_cast<int32_t>(taken ? tiles : 0);
  }
  const int tiles = p.first_block[call.panels.size()];
  if (tiles == 0) return;
  int cluster = kMostCluster;
  while (cluster > Config::kLeastCluster && tiles * cluster > kMostBlocks * call.sm_count) {
    cluster /= 2;
  }
  int bytes = 0;
  for (const Panel& panel : call.panels) {
    if (has_block_scales(panel) != Config::kScaled) continue;
    bytes = std::max(bytes, Config::shared_bytes(panel.kind, cluster));
  }
  launch(split_kernel<Config>,
         {.grid = dim3(static_cast<unsigned>(tiles * cluster)),
          .block = dim3(kThreads),
          .shared_bytes = static_cast<size_t>(bytes),
          .stream = call.stream,
          .dependent = call.dependent,
          .cluster = static_cast<unsigned>(cluster)},
         p, cluster);
}

template <int kTokens, bool kScaled, bool kOrdered>
using Split = SplitConfig<kTokens, kTokens <= 32 ? 4 : 3, kScaled, kOrdered>;

}  // namespace linear_split_sm90

using namespace linear_split_sm90;

void allow_split_kernels(int bytes) {
  const auto allow = [&](auto* kernel) {
    MOE4_CUDA_CHECK(
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
  };
  allow(split_kernel<Split<32, false, false>>);
  allow(split_kernel<Split<32, true, false>>);
  allow(split_kernel<Split<32, false, true>>);
  allow(split_kernel<Split<32, true, true>>);
  allow(split_kernel<Split<64, false, true>>);
  allow(split_kernel<Split<64, true, true>>);
}

bool split_takes_unordered(const Rows& x) {
  return x.rows <= 32 && x.format == RowFormat::kBf16 && x.stride % 2 == 0 && x.width % 2 == 0 &&
         reinterpret_cast<uintptr_t>(x.data) % 4 == 0;
}

void split_linears(const LinearCall& call, bool ordered) {
  if (call.x.rows == 0) return;
  if (!ordered) {
    launch_split<Split<32, true, false>>(call);
    launch_split<Split<32, false, false>>(call);
  } else if (call.x.rows <= 32) {
    launch_split<Split<32, true, true>>(call);
    launch_split<Split<32, false, true>>(call);
  } else {
    launch_split<Split<64, true, true>>(call);
    launch_split<Split<64, false, true>>(call);
  }
}

}  // namespace moe4::cuda
