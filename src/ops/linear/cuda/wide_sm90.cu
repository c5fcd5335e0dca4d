// Products of many generated tokens on SM90: y[t] = x[t] W^T with wgmma, all of K in a block.
//
// A warpgroup multiplies a tile of up to 64 rows with 32 to 128 tokens; its warps bring 16 rows
// each through rings of their own (UnitRing), begun before the kernel in front has ended, and
// decode them into wgmma's register operand: half a chunk while the products of the half before
// run. All tokens of the call pass by for every tile, and on their way from L2 they would cost more
// than weights: two blocks form a cluster, each fetches half of the tokens of a chunk for both
// (multicast), one warp of a block sees to that.
//
// An SM has two tiles or more at a time. Where that would leave many SMs idle, a cluster takes
// three tiles (kPaired): one for each block, and one of which each block has half of the tokens.
//
// Sums have the order of decode_shares(). Thread 4g + t of a warp holds columns 16t + 4m .. 16t +
// 4m + 3 in the m-th k16 of a chunk (TileChunk), so tokens come in that order, chunk after chunk,
// in the 128-byte swizzle of wgmma's descriptors (tile_kernel). A chain of wgmma rounds as one of
// mma.sync does: bits are those of decode_linears().
#include <algorithm>

#include "device/cuda/launch.h"
#include "device/cuda/ptx/barrier.cuh"
#include "device/cuda/ptx/cluster.cuh"
#include "device/cuda/ptx/copy.cuh"
#include "device/cuda/ptx/launch.cuh"
#include "device/cuda/ptx/memory.cuh"
#include "device/cuda/ptx/multicast.cuh"
#include "device/cuda/ptx/warp.cuh"
#include "device/cuda/ptx/wgmma_sm90.cuh"
#include "ops/linear/cuda/fragments.cuh"
#include "ops/linear/cuda/products.cuh"
#include "ops/linear/cuda/result_rows.cuh"
#include "ops/linear/cuda/unit_ring.cuh"

namespace moe4::cuda {

// Not anonymous: nvcc takes what only sm_90a uses for forgotten otherwise.
namespace linear_wide_sm90 {

constexpr int kGroupThreads = 128;
constexpr int kTileRows = 64;                 // at most
constexpr int kTokenBytes = kPanelChunk * 2;  // of a chunk

/// Tokens of a pass, warpgroups that multiply, stages of a warp's ring and of tokens; whether a
/// block takes x as it is, all for itself, or with another one what tile_kernel made of it.
template <int kTokens_, int kGroups_, int kStages_, int kTokenStages_, bool kDirect_>
struct WideConfig {
  static constexpr int kTokens = kTokens_, kGroups = kGroups_;
  static constexpr bool kDirect = kDirect_;
  static constexpr int kCluster = kDirect ? 1 : 2;  // blocks
  static constexpr int kStages = kStages_, kTokenStages = kTokenStages_;
  static constexpr bool kMayPair = !kDirect && kTokens == 128 && kGroups == 2;
  static constexpr int kWarps = kGroups * 4;
  // A warpgroup of which one warp fetches tokens; it gives its registers to the others.
  static constexpr int kThreads = (kGroups + 1) * kGroupThreads;
  static constexpr int kStageBytes = kTokens * kTokenBytes;  // of tokens
  static constexpr int kBarrierBytes = 2 * kTokenStages * 8;
  // kDirect: chunks on their way to a warp that fetches.
  static constexpr int kAhead = 2;
  // What warpgroups start with is 168 for three, 128 for four, 96 for five.
  static_assert(kGroups >= 2 && kGroups <= 4);
  static constexpr int kFetcherRegisters = kDirect ? 32 + 16 * kAhead : 24;
  static constexpr int kAllRegisters = kGroups == 2 ? 504 : kGroups == 3 ? 512 : 480;
  static constexpr int kRegisters = (kAllRegisters - kFetcherRegisters) / kGroups / 8 * 8;
  // kDirect: so many warps of those that fetch make a chunk.
  static constexpr int kChunkWarps = kTokens * 2 / 32;
  static_assert(!kDirect || kChunkWarps == 2 || kChunkWarps == 4);

  static constexpr int shared_bytes(int unit_bytes) {
    return 1024 + kTokenStages * kStageBytes + kWarps * kStages * unit_bytes + kBarrierBytes;
  }
};

/// How a launch divides rows.
struct Layout {
  struct OfPanel {
    int32_t block_rows = 0;  ///< of a block at a time, a multiple of 16; divided among warpgroups
    int32_t rounds = 1;      ///< so often
    int32_t paired = 0;
  };
  OfPanel panels[kMaxPanels];
  int32_t passes = 1;      ///< over tokens
  int32_t token_rows = 0;  ///< of a chunk, a multiple of 8
  int32_t unit_bytes = 0;  ///< the largest
};

/// The stages of tokens as a block's warps go through them, and the cluster is told.
template <class Config>
class TokenStages {
 public:
  /// `kept` chunks stay for good, if any.
  __device__ TokenStages(uint32_t memory, uint32_t barriers, int lane, int kept)
      : memory_(memory),
        full_(barriers),
        end_(kept > 0 ? kept : Config::kTokenStages),
        flip_(kept > 0 ? 0 : 1) {
    const uint32_t empty = barriers + Config::kTokenStages * 8;
    empty_ = Config::kDirect ? empty : told_barrier(empty, lane, Config::kCluster);
  }
  /// Where the next chunk lies.
  __device__ __forceinline__ uint32_t next() {
    barrier_wait(full_ + stage_ * 8, parity_);
    const uint32_t at = memory_ + stage_ * Config::kStageBytes;
    if (++stage_ == end_) {
      stage_ = 0;
      parity_ ^= flip_;
    }
    return at;
  }
  /// The warp is done with the oldest chunk that it has not released.
  __device__ __forceinline__ void release(int lane) {
    if constexpr (Config::kDirect) {
      if (flip_ == 0) return;
      warp_arrive(empty_ + released_ * 8, lane == 0);
    } else {
      warp_tell_blocks(empty_ + released_ * 8, lane, Config::kCluster);
    }
    released_ = released_ + 1 == Config::kTokenStages ? 0 : released_ + 1;
  }

 private:
  uint32_t memory_, full_, empty_, end_, flip_;
  uint32_t stage_ = 0, parity_ = 0, released_ = 0;
};

/// What one warp of a block does: half of the tokens of every chunk, to both blocks.
template <class Config>
__device__ __forceinline__ void fetch_tokens(const Products& p, const Layout& layout,
                                             const Panel& panel, int rounds, int rank,
                                             uint32_t memory, uint32_t barriers) {
  constexpr int kShare = Config::kTokens / Config::kCluster;
  const uint32_t empty = barriers + Config::kTokenStages * 8;
  uint32_t stage = 0, parity = 1;
  for (int round = 0; round < rounds; ++round) {
    for (int pass = 0; pass < layout.passes; ++pass) {
      const int first = pass * Config::kTokens, rows = layout.token_rows - first;
      const int mine = min(max(rows - rank * kShare, 0), kShare);
      const int all = min(rows, Config::kTokens);
      const uint8_t* from = static_cast<const uint8_t*>(p.x) +
                            static_cast<int64_t>(first + rank * kShare) * kTokenBytes;
      const int64_t step = static_cast<int64_t>(layout.token_rows) * kTokenBytes;
      int x_chunk = 0;
      for (int c = 0; c < panel.chunks; ++c) {
        barrier_wait(empty + stage * 8, parity);
        barrier_expect(barriers + stage * 8, all * kTokenBytes);
        if (mine > 0) {
          bulk_copy_to_blocks(memory + stage * Config::kStageBytes + rank * kShare * kTokenBytes,
                              from + x_chunk * step, mine * kTokenBytes, barriers + stage * 8,
                              (1 << Config::kCluster) - 1);
        }
        x_chunk = x_chunk + 1 == panel.x_chunks ? 0 : x_chunk + 1;
        if (++stage == Config::kTokenStages) {
          stage = 0;
          parity ^= 1;
        }
      }
    }
  }
  // The other block's warps tell this one as long as it is there.
  for (int i = 0; i < Config::kTokenStages; ++i) {
    barrier_wait(empty + stage * 8, parity);
    if (++stage == Config::kTokenStages) {
      stage = 0;
      parity ^= 1;
    }
  }
}

/// A thread's part of a chunk of tokens: every other 8 of the 64 columns of one token. Words w of
/// the pieces t are the columns of slots 4t .. 4t + 3 of one k16.
struct ChunkPart {
  uint4 pieces[4];

  __device__ __forceinline__ void load(const Products& p, int token, int k, bool in_pieces) {
    if (in_pieces) {
#pragma unroll
      for (int t = 0; t < 4; ++t) {
        pieces[t] = make_uint4(0, 0, 0, 0);
        load_l2_16_if(token < p.tokens,
                      static_cast<const __nv_bfloat16*>(p.x) + token * p.x_stride + k + 16 * t,
                      pieces[t]);
      }
    } else {
#pragma unroll
      for (int t = 0; t < 4; ++t) {
        pieces[t] =
            token < p.tokens ? load_token_piece(p, token, k + 16 * t) : make_uint4(0, 0, 0, 0);
      }
    }
  }
  /// put(i, piece) for the i-th 16 bytes of the token in the operand's order and swizzle.
  template <class Put>
  __device__ __forceinline__ void store(int token, int half, const Put& put) const {
    const uint4* v = pieces;
    const int swizzle = token & 7;
    put((4 * half + 0) ^ swizzle, make_uint4(v[0].x, v[1].x, v[2].x, v[3].x));
    put((4 * half + 1) ^ swizzle, make_uint4(v[0].y, v[1].y, v[2].y, v[3].y));
    put((4 * half + 2) ^ swizzle, make_uint4(v[0].z, v[1].z, v[2].z, v[3].z));
    put((4 * half + 3) ^ swizzle, make_uint4(v[0].w, v[1].w, v[2].w, v[3].w));
  }
};

/// kDirect: what the four warps do that do not multiply. Some chunks are on their way at a time.
template <class Config>
__device__ __forceinline__ void order_tokens_of_block(const Products& p, const Layout& layout,
                                                      const Panel& panel, int rounds, int kept,
                                                      uint32_t memory, uint32_t barriers) {
  constexpr int kAhead = Config::kAhead, kSide = 4 / Config::kChunkWarps;  // chunks side by side
  const uint32_t empty = barriers + Config::kTokenStages * 8;
  const int thread = static_cast<int>(threadIdx.x) % kGroupThreads;
  const int half = thread % 2, row = thread / 2 % Config::kTokens;
  const int side = thread / 32 / Config::kChunkWarps;
  const bool in_pieces = p.x_in_pieces != 0 && p.in_features % kPanelChunk == 0;
  // Chunks of all passes and rounds in one row.
  const int end = kept > 0 ? kept : rounds * layout.passes * panel.chunks;
  int next = side, x_chunk = side % panel.x_chunks, token = row, left = panel.chunks - side,
      pass = 0;
  const auto load = [&](ChunkPart& part) {
    while (left <= 0) {  // the next pass
      left += panel.chunks;
      x_chunk = (panel.chunks - left) % panel.x_chunks;
      pass = pass + 1 == layout.passes ? 0 : pass + 1;
      token = pass * Config::kTokens + row;
    }
    if (next < end) part.load(p, token, x_chunk * kPanelChunk + half * 8, in_pieces);
    next += kSide;
    left -= kSide;
    x_chunk += kSide;
    while (x_chunk >= panel.x_chunks) x_chunk -= panel.x_chunks;
  };
  ChunkPart parts[kAhead];
#pragma unroll
  for (int i = 0; i < kAhead; ++i) load(parts[i]);
  uint32_t stage = side, parity = 1;
  for (int c = side; c < end;) {
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      if (c >= end) break;
      barrier_wait(empty + stage * 8, parity);
      const uint32_t to = memory + stage * Config::kStageBytes + row * kTokenBytes;
      parts[i].store(row, half, [&](int piece, uint4 v) { store_shared16(to + piece * 16, v); });
      fence_async_proxy();
      __syncwarp();
      warp_arrive(barriers + stage * 8, thread % 32 == 0);
      load(parts[i]);
      c += kSide;
      stage += kSide;
      if (stage >= Config::kTokenStages) {
        stage -= Config::kTokenStages;
        parity ^= 1;
      }
    }
  }
}

/// All but the last `Pending` groups of products are done. What they had in registers alone may be
/// written then; loads of shared memory may move across.
template <int Pending>
__device__ __forceinline__ void wait_for_operands() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(Pending));
}

/// Half a chunk of this warp's 16 rows, decoded.
template <PanelKind kKind, int kHalf>
__device__ __forceinline__ void load_half(const uint8_t* chunk, int lane, uint32_t (&a)[8]) {
  TileChunk<kKind>::template load<kHalf>(chunk, lane, a);
#pragma unroll
  for (int i = 0; i < 8; ++i) asm volatile("" : "+r"(a[i]));  // decoded before any product
}

template <int kCount>
__device__ __forceinline__ void clear(float (&sums)[2][kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) sums[0][i] = sums[1][i] = 0.0f;
}

/// The sums of a tile over all chunks: total = x W^T in the order of decode_shares().
/// `token_offset` in bytes of a stage.
template <PanelKind kKind, class Config, int kWidth>
__device__ __forceinline__ void sum_shares(const Panel& panel,
                                           UnitRing<kKind, Config::kStages>& ring,
                                           TokenStages<Config>& tokens, uint32_t token_offset,
                                           int lane, float (&total)[kWidth / 2]) {
  constexpr int kSums = kWidth / 2, kUnit = unit_chunks(kKind);
  constexpr int kChunkBytes = tile_chunk_bytes(kKind);
  const int units = (panel.chunks + kUnit - 1) / kUnit, shares = decode_shares(units);
  float part[2][kSums];
  uint32_t a[2][8];
  int unit = 0;
  for (int share = 0; share < shares; ++share) {
    const int unit_end = units * (share + 1) / shares;
    clear(part);
    for (; unit < unit_end; ++unit) {
      const uint8_t* weights = ring.next();
      const int chunks = panel.chunks - unit * kUnit;
      if (chunks >= kUnit) {
#pragma unroll
        for (int c = 0; c < kUnit; ++c) {
          const uint32_t b = b_descriptor(tokens.next() + token_offset);
          if (c > 0) wait_for_operands<1>();
          load_half<kKind, 0>(weights + c * kChunkBytes, lane, a[0]);
          multiply_32_columns(part[0], a[0], b);
          if (c > 0) wait_for_operands<1>();
          load_half<kKind, 1>(weights + c * kChunkBytes, lane, a[1]);
          multiply_32_columns(part[1], a[1], b + 4);
          if (c > 0) tokens.release(lane);
        }
        ring.release(lane);
        wgmma_wait<0>();
        tokens.release(lane);
      } else {
        for (int c = 0; c < chunks; ++c) {
          const uint32_t b = b_descriptor(tokens.next() + token_offset);
          load_half<kKind, 0>(weights + c * kChunkBytes, lane, a[0]);
          load_half<kKind, 1>(weights + c * kChunkBytes, lane, a[1]);
          multiply_32_columns(part[0], a[0], b);
          multiply_32_columns(part[1], a[1], b + 4);
          wgmma_wait<0>();
          tokens.release(lane);
        }
        ring.release(lane);
      }
    }
#pragma unroll
    for (int i = 0; i < kSums; ++i) {
      const float sum = part[0][i] + part[1][i];
      total[i] = share == 0 ? sum : total[i] + sum;
    }
  }
}

/// Where a warpgroup's tiles lie.
struct Tiles {
  int row = 0, row_step = 0;  ///< the first one, and from one to the next
  int rows = kTileRows;       ///< of each
  int token = 0;              ///< the first of a pass
};

template <PanelKind kKind, class Config, int kWidth>
__device__ __forceinline__ void multiply_tiles(const Products& p, const Layout& layout, int index,
                                               const Tiles& tiles,
                                               UnitRing<kKind, Config::kStages>& ring,
                                               TokenStages<Config>& tokens) {
  const Panel& panel = p.panels[index];
  const Layout::OfPanel& division = layout.panels[index];
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp_row = static_cast<int>(threadIdx.x) / 32 % 4 * kPanelTileRows;
  for (int round = 0; round < division.rounds; ++round) {
    const int tile_row = tiles.row + round * tiles.row_step;
    for (int pass = 0; pass < layout.passes; ++pass) {
      const int first_token = pass * Config::kTokens + tiles.token;
      if (tiles.rows == 0 || tile_row >= panel.rows || first_token >= p.tokens) {
        for (int c = 0; c < panel.chunks; ++c) {
          tokens.next();
          tokens.release(lane);
        }
        continue;
      }
      const int row = tile_row + warp_row;
      float total[kWidth / 2];
      sum_shares<kKind, Config, kWidth>(panel, ring, tokens, tiles.token * kTokenBytes, lane,
                                        total);
      if (warp_row >= tiles.rows) continue;
#pragma unroll
      for (int upper = 0; upper < 2; ++upper) {
        store_rows<kWidth>(p, index, row + lane / 4 + 8 * upper, lane, first_token, upper, total);
      }
    }
  }
}

/// Barriers are known to all blocks of the cluster, and the kernel in front has ended.
template <class Config>
__device__ __forceinline__ void meet() {
  if constexpr (Config::kDirect) {
    __syncthreads();
    wait_for_previous_kernel();
  } else {
    arrive_in_cluster();
    wait_for_previous_kernel();
    wait_for_cluster();
  }
}

template <PanelKind kKind, class Config>
__device__ void multiply_panel(const Products& p, const Layout& layout, int index,
                               uint8_t* shared) {
  const Panel& panel = p.panels[index];
  const Layout::OfPanel& division = layout.panels[index];
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int group = warp / 4, rank = static_cast<int>(blockIdx.x) % Config::kCluster;
  const int cluster = (static_cast<int>(blockIdx.x) - p.first_block[index]) / Config::kCluster;
  const int clusters = (p.first_block[index + 1] - p.first_block[index]) / Config::kCluster;

  uint8_t* rings = shared + Config::kTokenStages * Config::kStageBytes;
  const uint32_t memory = shared_address(shared);
  const uint32_t barriers =
      shared_address(rings) + Config::kWarps * Config::kStages * layout.unit_bytes;
  // Where tokens are few enough they are fetched once for all tiles.
  const int kept = Config::kDirect && layout.passes == 1 && panel.x_chunks <= Config::kTokenStages
                       ? panel.x_chunks
                       : 0;
  if (group == Config::kGroups) {
    if (warp % 4 == 0 && lane == 0) {
      for (int i = 0; i < Config::kTokenStages; ++i) {
        barrier_init(barriers + i * 8, Config::kDirect ? Config::kChunkWarps * kWarpArrivals : 1);
        barrier_init(barriers + (Config::kTokenStages + i) * 8,
                     Config::kWarps * Config::kCluster * kWarpArrivals);
      }
      fence_barrier_init();
    }
    __syncwarp();
    meet<Config>();
    give_registers_back<Config::kFetcherRegisters>();
    if constexpr (Config::kDirect) {
      order_tokens_of_block<Config>(p, layout, panel, division.rounds, kept, memory, barriers);
    } else if (warp % 4 == 0 && elect_one()) {
      fetch_tokens<Config>(p, layout, panel, division.rounds, rank, memory, barriers);
    }
    __syncwarp();
  } else {
    Tiles tiles;
    const bool half = Config::kMayPair && division.paired != 0 && group == 1;
    if (Config::kMayPair && division.paired != 0) {
      tiles.row = (cluster * 3 + (half ? 2 : rank)) * kTileRows;
      tiles.row_step = clusters * 3 * kTileRows;
      tiles.token = half ? rank * (Config::kTokens / 2) : 0;
    } else {
      const int sixteens = division.block_rows / kPanelTileRows;
      const int begin = sixteens * group / Config::kGroups * kPanelTileRows;
      tiles.row = (cluster * Config::kCluster + rank) * division.block_rows + begin;
      tiles.rows = sixteens * (group + 1) / Config::kGroups * kPanelTileRows - begin;
      tiles.row_step = clusters * Config::kCluster * division.block_rows;
    }
    const int warp_row = warp % 4 * kPanelTileRows;
    // Of a tile's passes this warpgroup may have no tokens in the last one.
    const int passes = (p.tokens - tiles.token + Config::kTokens - 1) / Config::kTokens;
    UnitRing<kKind, Config::kStages> ring(
        panel,
        {.row = tiles.row + warp_row,
         .row_end = warp_row < tiles.rows ? panel.rows : 0,
         .row_step = tiles.row_step,
         .unit_begin = 0,
         .unit_end = (panel.chunks + unit_chunks(kKind) - 1) / unit_chunks(kKind),
         .repeats = passes},
        rings + warp * Config::kStages * layout.unit_bytes, lane);
    meet<Config>();
    take_registers<Config::kRegisters>();
    TokenStages<Config> tokens(memory, barriers, lane, kept);
    if (half) {
      if constexpr (Config::kMayPair) {
        multiply_tiles<kKind, Config, Config::kTokens / 2>(p, layout, index, tiles, ring, tokens);
      }
    } else {
      multiply_tiles<kKind, Config, Config::kTokens>(p, layout, index, tiles, ring, tokens);
    }
    copy_wait<0>();
    __syncwarp();
  }
}

template <class Config>
__global__ void __launch_bounds__(Config::kThreads, 1)
    wide_kernel(const __grid_constant__ Products p, const __grid_constant__ Layout layout) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  extern __shared__ uint8_t memory[];
  // Tokens begin at a multiple of 1024 bytes, as the swizzle wants it, in both blocks of a cluster.
  uint8_t* shared = memory + (1024 - shared_address(memory) % 1024) % 1024;
  launch_dependents();
  const int panel = panel_of_block(p);
  switch (p.panels[panel].kind) {
    case PanelKind::kBf16:
      return multiply_panel<PanelKind::kBf16, Config>(p, layout, panel, shared);
    case PanelKind::kFp8:
      return multiply_panel<PanelKind::kFp8, Config>(p, layout, panel, shared);
    default:
      return;
  }
#endif
}

// Chunk after chunk of all tokens, as blocks fetch them.
__global__ void tile_kernel(const __grid_constant__ Products p, uint8_t* out, int chunks,
                            int token_rows) {
  launch_dependents();
  wait_for_previous_kernel();
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  const int half = i % 2, chunk = i / 2 % chunks, token = i / 2 / chunks;
  if (token >= p.tokens) return;
  ChunkPart part;
  part.load(p, token, chunk * kPanelChunk + half * 8,
            p.x_in_pieces != 0 && p.in_features % kPanelChunk == 0);
  auto* row = reinterpret_cast<uint4*>(out + (static_cast<int64_t>(chunk) * token_rows + token) *
                                                 kTokenBytes);
  part.store(token, half, [&](int piece, uint4 v) { row[piece] = v; });
}

/// A panel's rows over so many blocks, so that none has much more to do than another.
template <class Config>
Layout::OfPanel divide_panel(const Panel& panel, int blocks) {
  Layout::OfPanel best;
  // In rows' bytes; products of a warpgroup cost as much for a few rows as for 64.
  constexpr int kProducts = Config::kTokens / 2;
  int64_t least = 0;
  for (int rows = kPanelTileRows; rows <= Config::kGroups * kTileRows; rows += kPanelTileRows) {
    const int64_t rounds = ceil_div(int64_t{panel.rows}, int64_t{blocks} * rows);
    const int groups = std::min(Config::kGroups, rows / kPanelTileRows);
    const int64_t cost = rounds * (rows + groups * kProducts);
    if (best.block_rows != 0 && cost >= least) continue;
    least = cost;
    best = {.block_rows = rows, .rounds = static_cast<int32_t>(rounds)};
  }
  const int64_t tiles = ceil_div(int64_t{panel.rows}, int64_t{kTileRows});
  const int64_t rounds = ceil_div(tiles, int64_t{blocks} / 2 * 3);
  if (Config::kMayPair && rounds * (kTileRows + kProducts) * 3 / 2 < least) {
    best = {.rounds = static_cast<int32_t>(rounds), .paired = 1};
  }
  return best;
}

/// Clusters for each panel: one after the other for the panel whose clusters have most bytes.
template <class Config>
int divide_clusters(const LinearCall& call, Products& p, Layout& layout) {
  const auto n = static_cast<int>(call.panels.size());
  int clusters[kMaxPanels], total = n;
  const auto panel = [&](int i) -> const Panel& { return call.panels[static_cast<size_t>(i)]; };
  std::fill_n(clusters, n, 1);
  for (; total < call.sm_count / Config::kCluster; ++total) {
    int best = -1;
    for (int i = 0; i < n; ++i) {
      if (clusters[i] * Config::kCluster * kPanelTileRows >= panel(i).rows) continue;
      if (best < 0 ||
          weight_bytes(panel(i)) * clusters[best] > weight_bytes(panel(best)) * clusters[i]) {
        best = i;
      }
    }
    if (best < 0) break;
    ++clusters[best];
  }
  for (int i = 0; i < n; ++i) {
    p.first_block[i + 1] = p.first_block[i] + clusters[i] * Config::kCluster;
    layout.panels[i] = divide_panel<Config>(panel(i), clusters[i] * Config::kCluster);
    layout.unit_bytes = std::max(layout.unit_bytes, unit_bytes(panel(i).kind));
  }
  return p.first_block[n];
}

template <class Config>
void launch_wide(const LinearCall& call, const void* tiles) {
  Products p = products_of(call);
  if (!Config::kDirect) p.x = tiles;
  Layout layout;
  layout.token_rows = static_cast<int32_t>(tiled_token_rows(call.x.rows));
  layout.passes = static_cast<int32_t>(ceil_div(call.x.rows, int64_t{Config::kTokens}));
  const int blocks = divide_clusters<Config>(call, p, layout);
  launch(wide_kernel<Config>,
         {.grid = dim3(static_cast<unsigned>(blocks)),
          .block = dim3(Config::kThreads),
          .shared_bytes = static_cast<size_t>(Config::shared_bytes(layout.unit_bytes)),
          .stream = call.stream,
          .dependent = call.dependent,
          .cluster = Config::kCluster},
         p, layout);
}

// As many warpgroups as registers have room for.
using Tokens32 = WideConfig<32, 4, 2, 32, true>;
using Tokens64 = WideConfig<64, 3, 5, 8, false>;
using Tokens128 = WideConfig<128, 2, 6, 6, false>;

template <class... Configs>
void allow(int bytes) {
  const auto one = [&](auto* kernel) {
    MOE4_CUDA_CHECK(
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
  };
  (one(wide_kernel<Configs>), ...);
}

}  // namespace linear_wide_sm90

using namespace linear_wide_sm90;

void allow_wide_kernels(int bytes) { allow<Tokens32, Tokens64, Tokens128>(bytes); }

void tile_tokens(const LinearCall& call, void* tiles) {
  const int64_t tokens = call.x.rows;
  const auto chunks = static_cast<int>(ceil_div(call.x.width, int64_t{kPanelChunk}));
  constexpr int kThreads = 128;
  launch(tile_kernel,
         {.grid = dim3(static_cast<unsigned>(ceil_div(tokens * chunks * 2, int64_t{kThreads}))),
          .block = dim3(kThreads),
          .stream = call.stream,
          .dependent = call.dependent},
         products_of(call), static_cast<uint8_t*>(tiles), chunks,
         static_cast<int>(tiled_token_rows(tokens)));
}

bool wide_linears(const LinearCall& call, void* tiles) {
  for (const Panel& panel : call.panels) {
    if (panel.kind != PanelKind::kBf16 && panel.kind != PanelKind::kFp8) return false;
  }
  const int64_t tokens = call.x.rows;
  if (tokens <= Tokens32::kTokens) {
    launch_wide<Tokens32>(call, tiles);
    return true;
  }
  tile_tokens(call, tiles);
  if (tokens <= Tokens64::kTokens) {
    launch_wide<Tokens64>(call, tiles);
  } else {
    launch_wide<Tokens128>(call, tiles);
  }
  return true;
}

}  // namespace moe4::cuda
