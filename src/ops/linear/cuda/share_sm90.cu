// Products of more than a few generated tokens on SM90: y[t] = x[t] W^T with wgmma, a share of K
// for each block of a cluster.
//
// The order of sums wants eight shares of K (decode_shares()). Each block of a cluster of eight has
// one, so it needs an eighth of every token alone: that lies in its shared memory for good, brought
// and put into the operand's order once (TokenShare). Tiles of 64 rows then pass by, one to each
// warpgroup at a time: its warps bring 16 rows each through rings of their own (cp.async, kStages
// units deep, begun before the kernel in front has ended), decode them into wgmma's register
// operand and wait for nobody.
//
// Sums of a tile meet at the block of the cluster that owns their rows, eight of a tile each: a
// share's sums go there as stores that report to the receiver's barrier, the owner adds them in the
// order of shares. A warpgroup does that for a tile after the products of its next one, when the
// stores have long arrived. A slot is filled again when all eight owners have told that they have
// read theirs.
//
// Thread 4g + t of a warp holds columns 16t + 4m .. 16t + 4m + 3 in the m-th k16 of a chunk
// (TileChunk), so tokens lie in that order, in the 128-byte swizzle of wgmma's descriptors. A chain
// of wgmma rounds as one of mma.sync does: bits are those of decode_linears().
#include <algorithm>

#include "device/cuda/launch.h"
#include "device/cuda/ptx/barrier.cuh"
#include "device/cuda/ptx/cluster.cuh"
#include "device/cuda/ptx/copy.cuh"
#include "device/cuda/ptx/launch.cuh"
#include "device/cuda/ptx/memory.cuh"
#include "device/cuda/ptx/multicast.cuh"
#include "device/cuda/ptx/wgmma_sm90.cuh"
#include "ops/linear/cuda/fragments.cuh"
#include "ops/linear/cuda/products.cuh"
#include "ops/linear/cuda/unit_ring.cuh"

namespace moe4::cuda {

// Not anonymous: nvcc takes what only sm_90a uses for forgotten otherwise.
namespace linear_share_sm90 {

constexpr int kShares = 8;  // blocks of a cluster
constexpr int kGroupThreads = 128;
constexpr int kTileRows = 64;                    // of a warpgroup
constexpr int kOwnedRows = kTileRows / kShares;  // of a tile, by a block
constexpr int kTokenBytes = kPanelChunk * 2;     // of a chunk
constexpr int kBarrierBytes = 128;

template <int kTokens_, int kGroups_, int kStages_, int kSlots_>
struct ShareConfig {
  static constexpr int kTokens = kTokens_, kGroups = kGroups_, kStages = kStages_;
  static constexpr int kSlots = kSlots_;  // of sums, a warpgroup
  static constexpr int kThreads = kGroups * kGroupThreads, kWarps = kThreads / 32;
  static constexpr int kSums = kTokens / 2;  // of a thread
  static constexpr int kSourceBytes = kOwnedRows * kTokens * 4;
  static constexpr int kSlotBytes = kShares * kSourceBytes;
  static_assert(2 * kGroups * kSlots * 8 <= kBarrierBytes);
};

/// How a launch divides shared memory: tokens, sums, rings, barriers.
struct Layout {
  int32_t token_bytes = 0;  ///< of all of a block's chunks
  int32_t stage_bytes = 0;
};

/// The share of a block, in units and in chunks.
struct Share {
  int unit_begin, unit_end, chunk_begin, chunk_end;
};
template <PanelKind kKind>
__device__ __forceinline__ Share share_of(const Panel& panel, int rank) {
  constexpr int kUnit = unit_chunks(kKind);
  const int units = (panel.chunks + kUnit - 1) / kUnit;
  Share s;
  s.unit_begin = units * rank / kShares;
  s.unit_end = units * (rank + 1) / kShares;
  s.chunk_begin = s.unit_begin * kUnit;
  s.chunk_end = min(s.unit_end * kUnit, panel.chunks);
  return s;
}

/// Tokens [first, first + kTokens) of the share's chunks to shared memory, [chunk][token][128
/// bytes]; zeros past the last token.
template <class Config, bool kAsPieces>
__device__ __forceinline__ void load_tokens(const Products& p, const Share& share, int first,
                                            uint32_t to) {
  // So many loads are on their way at once.
  constexpr int kBatch = kAsPieces && Config::kTokens >= 64 ? 4 : 1;
  const int chunks = share.chunk_end - share.chunk_begin, count = Config::kTokens * chunks * 2;
  // A piece is 32 columns of a token, every other 8 of a chunk. Four tokens side by side, so that
  // stores use all banks.
  struct Piece {
    int half, chunk, token;
  };
  const auto piece_at = [&](int i) {
    return Piece{i % 2, i / 8 % chunks, i / 8 / chunks * 4 + i / 2 % 4};
  };
  for (int begin = static_cast<int>(threadIdx.x); begin < count;
       begin += Config::kThreads * kBatch) {
    uint4 in[kBatch][4];
#pragma unroll
    for (int b = 0; b < kBatch; ++b) {
      const Piece piece = piece_at(begin + b * Config::kThreads);
      const int token = first + piece.token;
      const int k = (share.chunk_begin + piece.chunk) * kPanelChunk + piece.half * 8;
      const bool wanted = begin + b * Config::kThreads < count && token < p.tokens;
#pragma unroll
      for (int t = 0; t < 4; ++t) {
        in[b][t] = make_uint4(0, 0, 0, 0);
        if constexpr (kAsPieces) {
          load_l2_16_if(wanted,
                        static_cast<const __nv_bfloat16*>(p.x) + token * p.x_stride + k + 16 * t,
                        in[b][t]);
        } else if (wanted) {
          in[b][t] = load_token_piece(p, token, k + 16 * t);
        }
      }
    }
#pragma unroll
    for (int b = 0; b < kBatch; ++b) {
      if (begin + b * Config::kThreads >= count) break;
      const Piece piece = piece_at(begin + b * Config::kThreads);
      const uint32_t row = to + (piece.chunk * Config::kTokens + piece.token) * kTokenBytes;
      const auto put = [&](int word, uint32_t x, uint32_t y, uint32_t z, uint32_t w) {
        store_shared16(row + ((4 * piece.half + word) ^ (piece.token & 7)) * 16,
                       make_uint4(x, y, z, w));
      };
      const uint4* v = in[b];
      put(0, v[0].x, v[1].x, v[2].x, v[3].x);
      put(1, v[0].y, v[1].y, v[2].y, v[3].y);
      put(2, v[0].z, v[1].z, v[2].z, v[3].z);
      put(3, v[0].w, v[1].w, v[2].w, v[3].w);
    }
  }
}

/// Sends a warpgroup's sums to the blocks that own their rows, and adds those of the rows that this
/// block owns.
template <class Config>
class SumExchange {
 public:
  /// `slots`, `full` and `free` of this warpgroup.
  __device__ SumExchange(const Products& p, int panel, int rank, int first_token, uint32_t slots,
                         uint32_t full, uint32_t free, int group, int thread)
      : p_(p),
        panel_(panel),
        rank_(rank),
        first_token_(first_token),
        slots_(slots),
        full_(full),
        free_(free),
        group_(group),
        thread_(thread) {}

  __device__ __forceinline__ void send(int n, const float (&sums)[Config::kSums]) const {
    const int slot = n % Config::kSlots, round = n / Config::kSlots;
    if (round > 0) wait_for_cluster_stores(free_ + slot * 8, (round - 1) & 1);
    const int lane = thread_ % 32, warp = thread_ / 32;
#pragma unroll
    for (int upper = 0; upper < 2; ++upper) {
      const int owner = 2 * warp + upper;
      const uint32_t barrier = address_in_block(full_ + slot * 8, owner);
      const uint32_t to = address_in_block(
          slots_ + slot * Config::kSlotBytes + rank_ * Config::kSourceBytes + lane * 16, owner);
#pragma unroll
      for (int i = 0; i < Config::kTokens / 16; ++i) {
        const float* v = sums + 8 * i + 2 * upper;
        store_in_cluster16(to + i * 512,
                           make_int4(__float_as_int(v[0]), __float_as_int(v[1]),
                                     __float_as_int(v[4]), __float_as_int(v[5])),
                           barrier);
      }
    }
  }

  /// Of the tile sent n-th, which begins at `tile_row`. `more`: another will be sent to its slot.
  __device__ __forceinline__ void add_and_store(int n, int tile_row, bool more) const {
    const int slot = n % Config::kSlots, round = n / Config::kSlots;
    const int lane = thread_ % 32, row = tile_row + kOwnedRows * rank_ + lane / 4;
    OutputRow output;
    if (row < p_.panels[panel_].rows) output = OutputRow(p_, panel_, row);
    wait_for_cluster_stores(full_ + slot * 8, round & 1);
    const uint32_t from = slots_ + slot * Config::kSlotBytes;
#pragma unroll
    for (int j = 0; j < kLoads; ++j) {
      const int piece = j * kGroupThreads + thread_;
      if (kPieces % kGroupThreads != 0 && piece >= kPieces) break;
      float4 sum = load(from + piece * 16);
#pragma unroll
      for (int s = 1; s < kShares; ++s) {
        const float4 v = load(from + s * Config::kSourceBytes + piece * 16);
        sum.x += v.x, sum.y += v.y, sum.z += v.z, sum.w += v.w;
      }
      const int token = first_token_ + piece / 32 * 16 + lane % 4 * 2;
      if (!output.is_stored()) continue;
      if (token < p_.tokens) output.store(token, sum.x);
      if (token + 1 < p_.tokens) output.store(token + 1, sum.y);
      if (token + 8 < p_.tokens) output.store(token + 8, sum.z);
      if (token + 9 < p_.tokens) output.store(token + 9, sum.w);
    }
    if (!more) return;
    asm volatile("bar.sync %0, %1;" ::"r"(group_ + 1), "n"(kGroupThreads) : "memory");
    if (thread_ == 0) barrier_expect(full_ + slot * 8, Config::kSlotBytes);
    __syncwarp();
    // What they had here has been read; nothing was written that they must see.
    if (thread_ < kShares) tell_block(address_in_block(free_ + slot * 8, thread_));
  }

 private:
  static constexpr int kPieces = Config::kSourceBytes / 16;
  static constexpr int kLoads = (kPieces + kGroupThreads - 1) / kGroupThreads;

  __device__ static float4 load(uint32_t address) {
    const uint4 v = load_shared16(address);
    return make_float4(__uint_as_float(v.x), __uint_as_float(v.y), __uint_as_float(v.z),
                       __uint_as_float(v.w));
  }

  const Products& p_;
  int panel_, rank_, first_token_;
  uint32_t slots_, full_, free_;
  int group_, thread_;
};

template <PanelKind kKind, int kTokens>
__device__ __forceinline__ void multiply_chunk(const uint8_t* chunk, uint32_t tokens, int lane,
                                               float (&part)[2][kTokens / 2]) {
  uint32_t a[2][8];
  TileChunk<kKind>::template load<0>(chunk, lane, a[0]);
  TileChunk<kKind>::template load<1>(chunk, lane, a[1]);
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    asm volatile("" : "+r"(a[0][i]), "+r"(a[1][i]));  // all are decoded before any product
  }
  const uint32_t b = b_descriptor(tokens);
  multiply_32_columns(part[0], a[0], b);
  multiply_32_columns(part[1], a[1], b + 4);
}

template <PanelKind kKind, class Config>
__device__ void multiply_panel(const Products& p, const Layout& layout, int index,
                               uint8_t* shared) {
  constexpr int kUnit = unit_chunks(kKind), kChunkBytes = tile_chunk_bytes(kKind);
  const int thread = static_cast<int>(threadIdx.x) % kGroupThreads;
  const int group = static_cast<int>(threadIdx.x) / kGroupThreads;
  const int lane = thread % 32, warp = thread / 32;
  const int rank = static_cast<int>(blockIdx.x) % kShares;
  const int first_token = static_cast<int>(blockIdx.y) * Config::kTokens;
  const Panel panel = p.panels[index];
  const Share share = share_of<kKind>(panel, rank);

  const int cluster = (static_cast<int>(blockIdx.x) - p.first_block[index]) / kShares;
  const int clusters = (p.first_block[index + 1] - p.first_block[index]) / kShares;
  const int tiles = (panel.rows + kTileRows - 1) / kTileRows;
  const int tile_begin = static_cast<int>(int64_t{tiles} * cluster / clusters) + group;
  const int tile_end = static_cast<int>(int64_t{tiles} * (cluster + 1) / clusters);

  uint8_t* slot_memory = shared + layout.token_bytes;
  uint8_t* ring_memory = slot_memory + Config::kGroups * Config::kSlots * Config::kSlotBytes;
  const uint32_t tokens = shared_address(shared);
  const uint32_t barriers =
      shared_address(ring_memory) + Config::kWarps * Config::kStages * layout.stage_bytes;
  const uint32_t full = barriers + group * Config::kSlots * 16, free = full + Config::kSlots * 8;

  ring_memory += (group * 4 + warp) * Config::kStages * layout.stage_bytes;
  UnitRing<kKind, Config::kStages> ring(panel,
                                        {.row = tile_begin * kTileRows + warp * kPanelTileRows,
                                         .row_end = min(panel.rows, tile_end * kTileRows),
                                         .row_step = kTileRows * Config::kGroups,
                                         .unit_begin = share.unit_begin,
                                         .unit_end = share.unit_end},
                                        ring_memory, lane);
  if (thread == 0) {
#pragma unroll
    for (int slot = 0; slot < Config::kSlots; ++slot) {
      barrier_init(full + slot * 8, 1);
      barrier_init(free + slot * 8, kShares);
    }
    fence_barrier_init();
#pragma unroll
    for (int slot = 0; slot < Config::kSlots; ++slot) {
      barrier_expect(full + slot * 8, Config::kSlotBytes);
    }
  }
  __syncwarp();
  // No release: it would wait for the copies that are on their way.
  arrive_in_cluster();
  wait_for_previous_kernel();
  if (p.x_in_pieces != 0 && p.in_features % kPanelChunk == 0) {
    load_tokens<Config, true>(p, share, first_token, tokens);
  } else {
    load_tokens<Config, false>(p, share, first_token, tokens);
  }
  fence_async_proxy();
  __syncthreads();
  wait_for_cluster();

  const SumExchange<Config> exchange(
      p, index, rank, first_token,
      shared_address(slot_memory) + group * Config::kSlots * Config::kSlotBytes, full, free, group,
      thread);
  const int count = (tile_end - tile_begin + Config::kGroups - 1) / Config::kGroups;
  const auto row_of = [&](int n) { return (tile_begin + n * Config::kGroups) * kTileRows; };
  for (int n = 0; n < count; ++n) {
    float part[2][Config::kSums] = {};
    for (int unit = share.unit_begin; unit < share.unit_end; ++unit) {
      const uint8_t* stage = ring.next();
      const uint32_t x =
          tokens + (unit * kUnit - share.chunk_begin) * Config::kTokens * kTokenBytes;
      const int chunks = share.chunk_end - unit * kUnit;
      if (chunks >= kUnit) {
#pragma unroll
        for (int c = 0; c < kUnit; ++c) {
          multiply_chunk<kKind, Config::kTokens>(stage + c * kChunkBytes,
                                                 x + c * Config::kTokens * kTokenBytes, lane, part);
          if (c % 2 == 1) wgmma_wait<0>();
        }
      } else {
        for (int c = 0; c < chunks; ++c) {
          multiply_chunk<kKind, Config::kTokens>(stage + c * kChunkBytes,
                                                 x + c * Config::kTokens * kTokenBytes, lane, part);
          wgmma_wait<0>();
        }
      }
      ring.release(lane);
      wgmma_wait<0>();
    }
#pragma unroll
    for (int i = 0; i < Config::kSums; ++i) part[0][i] += part[1][i];
    if (n > 0) exchange.add_and_store(n - 1, row_of(n - 1), n - 1 + Config::kSlots < count);
    exchange.send(n, part[0]);
  }
  if (count > 0) exchange.add_and_store(count - 1, row_of(count - 1), false);
  copy_wait<0>();
  // All that others store or tell here has been waited for.
}

template <class Config>
__global__ void __launch_bounds__(Config::kThreads, 1)
    share_kernel(const __grid_constant__ Products p, const __grid_constant__ Layout layout) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  extern __shared__ uint8_t memory[];
  // Tokens begin at a multiple of 1024 bytes, as the swizzle wants it, in all blocks of a cluster.
  uint8_t* shared = memory + (1024 - shared_address(memory) % 1024) % 1024;
  launch_dependents();
  const int panel = panel_of_block(p);
  switch (p.panels[panel].kind) {
    case PanelKind::kBf16:
      return multiply_panel<PanelKind::kBf16, Config>(p, layout, panel, shared);
    case PanelKind::kFp8:
      return multiply_panel<PanelKind::kFp8, Config>(p, layout, panel, shared);
    case PanelKind::kNvfp4:
      return multiply_panel<PanelKind::kNvfp4, Config>(p, layout, panel, shared);
    case PanelKind::kMxfp4:
      return multiply_panel<PanelKind::kMxfp4, Config>(p, layout, panel, shared);
    case PanelKind::kFp8Block:
      return;
  }
#endif
}

/// Chunks of the largest share.
inline int share_chunks(const Panel& panel) {
  const int unit = unit_chunks(panel.kind), units = (panel.chunks + unit - 1) / unit;
  return (units + kShares - 1) / kShares * unit;
}

/// Blocks of each panel, a cluster after the other for the panel whose clusters have most bytes.
inline int divide_clusters(const LinearCall& call, int wanted, Products& p) {
  const auto n = static_cast<int>(call.panels.size());
  int clusters[kMaxPanels];
  const auto panel = [&](int i) { return call.panels[static_cast<size_t>(i)]; };
  const auto bytes = [&](int i) {
    return double{1} * panel(i).rows * panel(i).chunks * tile_chunk_bytes(panel(i).kind);
  };
  std::fill_n(clusters, n, 1);
  for (int total = n; total < wanted; ++total) {
    int best = -1;
    for (int i = 0; i < n; ++i) {
      if (clusters[i] * kTileRows >= panel(i).rows) continue;
      if (best < 0 || bytes(i) * clusters[best] > bytes(best) * clusters[i]) best = i;
    }
    if (best < 0) break;
    ++clusters[best];
  }
  for (int i = 0; i < n; ++i) p.first_block[i + 1] = p.first_block[i] + clusters[i] * kShares;
  return p.first_block[n];
}

/// Where shared memory is enough; false otherwise.
template <class Config>
bool launch_shares(const LinearCall& call) {
  Layout layout;
  for (const Panel& panel : call.panels) {
    layout.token_bytes =
        std::max(layout.token_bytes, share_chunks(panel) * Config::kTokens * kTokenBytes);
    layout.stage_bytes = std::max(layout.stage_bytes, unit_bytes(panel.kind));
  }
  const int bytes = 1024 + layout.token_bytes +
                    Config::kGroups * Config::kSlots * Config::kSlotBytes +
                    Config::kWarps * Config::kStages * layout.stage_bytes + kBarrierBytes;
  if (bytes > call.shared_bytes) return false;
  Products p = products_of(call);
  const auto token_tiles = static_cast<int>(ceil_div(call.x.rows, int64_t{Config::kTokens}));
  const int blocks = divide_clusters(call, call.clusters / token_tiles, p);
  launch(share_kernel<Config>,
         {.grid = dim3(static_cast<unsigned>(blocks), static_cast<unsigned>(token_tiles)),
          .block = dim3(Config::kThreads),
          .shared_bytes = static_cast<size_t>(bytes),
          .stream = call.stream,
          .dependent = call.dependent,
          .cluster = kShares},
         p, layout);
  return true;
}

// Tokens, warpgroups, stages, slots: as many as registers and shared memory have room for.
using Tokens16 = ShareConfig<16, 3, 4, 2>;
using Tokens32 = ShareConfig<32, 4, 3, 2>;
using Tokens64 = ShareConfig<64, 3, 3, 2>;
using Tokens64Deep = ShareConfig<64, 3, 4, 1>;  // of long shares
using Tokens128 = ShareConfig<128, 2, 4, 1>;
using Tokens128Deep = ShareConfig<128, 2, 2, 1>;

template <class Config>
void allow(int bytes) {
  MOE4_CUDA_CHECK(cudaFuncSetAttribute(share_kernel<Config>,
                                       cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
}

}  // namespace linear_share_sm90

using namespace linear_share_sm90;

int allow_share_kernels(int bytes) {
  allow<Tokens16>(bytes);
  allow<Tokens32>(bytes);
  allow<Tokens64>(bytes);
  allow<Tokens64Deep>(bytes);
  allow<Tokens128>(bytes);
  allow<Tokens128Deep>(bytes);
  cudaLaunchAttribute attribute = {};
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim.x = kShares;
  attribute.val.clusterDim.y = attribute.val.clusterDim.z = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(kShares);
  config.blockDim = dim3(Tokens64::kThreads);
  config.dynamicSmemBytes = static_cast<size_t>(bytes);
  config.attrs = &attribute;
  config.numAttrs = 1;
  int clusters = 0;
  MOE4_CUDA_CHECK(cudaOccupancyMaxActiveClusters(&clusters, share_kernel<Tokens64>, &config));
  return clusters;
}

bool share_linears(const LinearCall& call) {
  for (const Panel& panel : call.panels) {
    const int unit = unit_chunks(panel.kind), units = (panel.chunks + unit - 1) / unit;
    if (panel.kind == PanelKind::kFp8Block || decode_shares(units) != kShares ||
        panel.x_chunks != panel.chunks) {
      return false;
    }
  }
  if (call.clusters == 0) return false;
  const int64_t tokens = call.x.rows;
  return (tokens > 64 && launch_shares<Tokens128>(call)) ||
         (tokens > 128 && launch_shares<Tokens128Deep>(call)) ||
         (tokens > 32 && (launch_shares<Tokens64>(call) || launch_shares<Tokens64Deep>(call))) ||
         (tokens > 16 && launch_shares<Tokens32>(call)) || launch_shares<Tokens16>(call);
}

}  // namespace moe4::cuda
