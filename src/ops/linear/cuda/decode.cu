// Products for generated tokens: y[t] = x[t] W^T for 1 to some hundred tokens.
//
// Bound by the weights' bytes. Weights are the m16 operand, tokens n8, so that 1 to 8 tokens cost
// the same; up to 32 share a decoded weight, more go in passes. A block has some rows of one panel
// (cut at single rows, so that all blocks have as many bytes) and walks over them in tiles of 16.
//
// Its eight warps split K: warp w of k_warps takes the units (64 to 256 columns) [units w /
// k_warps, units (w + 1) / k_warps) of a tile, in ascending order, and the partial sums are added
// in the order of w. That order is given by the shape of the panel alone, so a row's bits do not
// depend on what shares the call. Where K has too few units for eight warps, groups of warps take
// other tiles.
//
// Each warp brings its units through a ring of its own in shared memory (cp.async, kStages ahead),
// which it begins to fill before the kernel in front has ended. Tokens lie in shared memory, rows
// of whole chunks 16 bytes apart, so that a quarter warp's reads of 16 bytes use all banks. Partial
// sums meet in shared memory once in several tiles (a round), behind one barrier.
#include <algorithm>

#include "device/cuda/launch.h"
#include "device/cuda/ptx/barrier.cuh"
#include "device/cuda/ptx/copy.cuh"
#include "device/cuda/ptx/launch.cuh"
#include "ops/linear/cuda/fragments.cuh"
#include "ops/linear/cuda/products.cuh"

namespace moe4::cuda {
namespace {

constexpr int kWarps = 8;
constexpr int kThreads = 32 * kWarps;
constexpr int kMostTokenTiles = 4;

/// 64-column chunks of a unit: what a warp brings and multiplies at once, about 2 KB.
template <PanelKind kKind>
constexpr int unit_chunks() {
  return tile_chunk_bytes(kKind) >= 2048 ? 1 : tile_chunk_bytes(kKind) >= 1024 ? 2 : 4;
}
constexpr int stage_bytes(PanelKind kind) { return is_tiled(kind) ? 2304 : 2048; }

/// How a launch divides shared memory.
struct Division {
  int32_t stage_bytes = 0;   ///< of a stage of the ring
  int32_t tokens = 0;        ///< of a pass
  int32_t round_tiles = 0;   ///< of a group of warps in a round
  int32_t token_stride = 0;  ///< bytes
  int32_t chunks = 0;        ///< of a token

  int partial_floats() const { return round_tiles * kWarps * kPanelTileRows * tokens; }
  int bytes(int stages) const {
    return kWarps * stages * stage_bytes + 2 * partial_floats() * 4 + tokens * token_stride;
  }
};

/// The rows [begin, end) of a block and the share of this warp.
struct Share {
  int row_begin, row_end, tiles;
  int k_warps, groups, k_warp, group;
  int unit_begin, unit_end;
};

template <PanelKind kKind>
__device__ __forceinline__ Share share_of(const Products& p, int panel) {
  const int block = static_cast<int>(blockIdx.x) - p.first_block[panel];
  const int blocks = p.first_block[panel + 1] - p.first_block[panel];
  constexpr int kGrain = is_tiled(kKind) ? kPanelTileRows : 1;
  const int64_t grains = p.panels[panel].rows / kGrain;
  Share s;
  s.row_begin = static_cast<int>(grains * block / blocks) * kGrain;
  s.row_end = static_cast<int>(grains * (block + 1) / blocks) * kGrain;
  s.tiles = (s.row_end - s.row_begin + kPanelTileRows - 1) / kPanelTileRows;
  const int units = (p.panels[panel].chunks + unit_chunks<kKind>() - 1) / unit_chunks<kKind>();
  s.k_warps = units >= 8 ? 8 : units >= 4 ? 4 : units >= 2 ? 2 : 1;
  s.groups = kWarps / s.k_warps;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  s.k_warp = warp % s.k_warps;
  s.group = warp / s.k_warps;
  s.unit_begin = units * s.k_warp / s.k_warps;
  s.unit_end = units * (s.k_warp + 1) / s.k_warps;
  return s;
}

/// The ring of a warp: units of its tiles, tile after tile, pass after pass.
template <PanelKind kKind, int kStages>
class UnitRing {
 public:
  __device__ UnitRing(const Panel& panel, const Share& share, int passes, uint8_t* stages,
                      int stage_bytes, int lane)
      : panel_(panel), share_(share), stages_(stages), stage_bytes_(stage_bytes), lane_(lane) {
    tile_ = share.group;
    unit_ = share.unit_begin;
    passes_ = share.group < share.tiles ? passes : 0;
    for (int i = 0; i < kStages; ++i) fetch();
  }
  /// Waits for the next unit.
  __device__ const uint8_t* next() {
    copy_wait<kStages - 1>();
    __syncwarp();
    return stages_ + read_ * stage_bytes_;
  }
  /// All lanes are done with it.
  __device__ void release() {
    __syncwarp();
    read_ = read_ + 1 == kStages ? 0 : read_ + 1;
    fetch();
  }

 private:
  __device__ void fetch() {
    if (passes_ > 0) {
      copy_unit(stages_ + write_ * stage_bytes_);
      if (++unit_ == share_.unit_end) {
        unit_ = share_.unit_begin;
        tile_ += share_.groups;
        if (tile_ >= share_.tiles) {
          tile_ = share_.group;
          --passes_;
        }
      }
    }
    write_ = write_ + 1 == kStages ? 0 : write_ + 1;
    copy_commit();
  }

  __device__ void copy_unit(uint8_t* stage) const {
    constexpr int kChunks = unit_chunks<kKind>();
    const int row = share_.row_begin + tile_ * kPanelTileRows, chunk = unit_ * kChunks;
    const int valid_chunks = min(kChunks, panel_.chunks - chunk);
    const uint32_t to = shared_address(stage);
    if constexpr (is_tiled(kKind)) {
      const uint8_t* from = panel_.chunk(row, chunk) + lane_ * 16;
      const int pieces = valid_chunks * tile_chunk_bytes(kKind) / 16;
#pragma unroll
      for (int i = 0; i < (kChunks * tile_chunk_bytes(kKind) / 16 + 31) / 32; ++i) {
        copy16_if(i * 32 + lane_ < pieces, to + (i * 32 + lane_) * 16, from + i * 512);
      }
    } else {
      constexpr int kPieces = 8;  // of 16 bytes in a row of the unit
      constexpr int kChunkPieces = kPieces / kChunks;
      const int piece = lane_ % kPieces, in_tile = lane_ / kPieces;
      const int c = piece / kChunkPieces;
      const uint8_t* from = panel_.chunk(row + in_tile, chunk) + piece * 16;
      const int64_t stride = panel_.chunk(1, 0) - panel_.chunk(0, 0);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int r = i * 4 + in_tile;
        copy16_if(
            c < valid_chunks && row + r < share_.row_end,
            to + c * tile_chunk_bytes(kKind) + TileChunk<kKind>::piece_at(r, piece % kChunkPieces),
            from + i * 4 * stride);
      }
    }
  }

  const Panel& panel_;
  const Share& share_;
  uint8_t* stages_;
  int stage_bytes_, lane_;
  int tile_, unit_, passes_;  // of the next fetch
  int read_ = 0, write_ = 0;
};

/// acc += 16 rows x kChunks of weights times the tokens.
template <PanelKind kKind, int kTokenTiles>
__device__ __forceinline__ void multiply_unit(const uint8_t* stage, int chunks, int x_chunk,
                                              int x_chunks, const uint8_t* const (&x)[kTokenTiles],
                                              int lane, float (&acc)[kTokenTiles][4]) {
#pragma unroll
  for (int c = 0; c < unit_chunks<kKind>(); ++c) {
    if (c >= chunks) break;
    const uint8_t* chunk = stage + c * tile_chunk_bytes(kKind);
    const int at = x_chunk * 128;
    uint32_t a[2][8];
    TileChunk<kKind>::template load<0>(chunk, lane, a[0]);
    TileChunk<kKind>::template load<1>(chunk, lane, a[1]);
#pragma unroll
    for (int n = 0; n < kTokenTiles; ++n) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const uint4 b = *reinterpret_cast<const uint4*>(x[n] + at + half * 16);
        mma_m16n8k16(acc[n], a[half], b.x, b.y);
        mma_m16n8k16(acc[n], a[half] + 4, b.z, b.w);
      }
    }
    x_chunk = x_chunk + 1 == x_chunks ? 0 : x_chunk + 1;
  }
}

template <PanelKind kKind, int kTokenTiles, int kStages>
__device__ void decode_panel(const Products& p, const Division& d, int index, uint8_t* shared) {
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int g = lane / 4, t = lane % 4;
  const Panel panel = p.panels[index];
  const Share share = share_of<kKind>(p, index);
  const int passes = (p.tokens + d.tokens - 1) / d.tokens;

  uint8_t* ring_memory = shared + warp * kStages * d.stage_bytes;
  auto* partials = reinterpret_cast<float*>(shared + kWarps * kStages * d.stage_bytes);
  const int partial_floats = d.round_tiles * kWarps * kPanelTileRows * d.tokens;
  uint8_t* x = reinterpret_cast<uint8_t*>(partials + 2 * partial_floats);

  UnitRing<kKind, kStages> ring(panel, share, passes, ring_memory, d.stage_bytes, lane);
  wait_for_previous_kernel();

  int buffer = 0;
  for (int pass = 0; pass < passes; ++pass) {
    const int first_token = pass * d.tokens, tokens = min(d.tokens, p.tokens - first_token);
    for (int i = static_cast<int>(threadIdx.x); i < tokens * d.chunks * 8; i += kThreads) {
      const int token = i / (d.chunks * 8), piece = i % (d.chunks * 8);
      *reinterpret_cast<uint4*>(x + token * d.token_stride + piece * 16) =
          load_token_piece(p, first_token + token, piece * 8);
    }
    __syncthreads();
    // Columns past the last token repeat it: nobody stores them.
    const uint8_t* token_rows[kTokenTiles];
#pragma unroll
    for (int n = 0; n < kTokenTiles; ++n) {
      token_rows[n] = x + min(8 * n + g, tokens - 1) * d.token_stride + t * 32;
    }
    for (int first_tile = 0; first_tile < share.tiles; first_tile += d.round_tiles * share.groups) {
      float* sums = partials + buffer * partial_floats;
      for (int slot = 0; slot < d.round_tiles; ++slot) {
        const int tile = first_tile + slot * share.groups + share.group;
        if (tile >= share.tiles) break;
        float acc[kTokenTiles][4] = {};
        for (int unit = share.unit_begin; unit < share.unit_end; ++unit) {
          const uint8_t* stage = ring.next();
          const int chunk = unit * unit_chunks<kKind>();
          const int chunks = panel.chunks - chunk;
          if constexpr (kKind == PanelKind::kFp8Block) {
            const int row = share.row_begin + tile * kPanelTileRows + g;
            const int64_t scale_stride = (panel.chunks + 1) / 2;
            const auto scale_of = [&](int r) {
              const int64_t block = min(r, panel.rows - 1) / kPanelTileRows;
              return __ldg(panel.block_scale + block * scale_stride + unit);
            };
            const float low = scale_of(row), high = scale_of(row + 8);
            float part[kTokenTiles][4] = {};
            multiply_unit<kKind, kTokenTiles>(stage, chunks, chunk, panel.x_chunks, token_rows,
                                              lane, part);
#pragma unroll
            for (int n = 0; n < kTokenTiles; ++n) {
#pragma unroll
              for (int i = 0; i < 4; ++i) acc[n][i] += part[n][i] * (i < 2 ? low : high);
            }
          } else {
            multiply_unit<kKind, kTokenTiles>(stage, chunks, chunk % panel.x_chunks, panel.x_chunks,
                                              token_rows, lane, acc);
          }
          ring.release();
        }
        float* to = sums + ((slot * share.groups + share.group) * share.k_warps + share.k_warp) *
                               kPanelTileRows * d.tokens;
#pragma unroll
        for (int n = 0; n < kTokenTiles; ++n) {
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            const int token = 8 * n + 2 * t + i % 2;
            if (token < tokens) to[(g + i / 2 * 8) * d.tokens + token] = acc[n][i];
          }
        }
      }
      // The other buffer was read before this barrier, and is written behind it.
      __syncthreads();
      const int rows = min(d.round_tiles * share.groups * kPanelTileRows,
                           share.row_end - share.row_begin - first_tile * kPanelTileRows);
      const int round_rows = d.round_tiles * share.groups * kPanelTileRows;
      for (int i = static_cast<int>(threadIdx.x); i < round_rows * tokens; i += kThreads) {
        const int row = i % round_rows, token = i / round_rows;
        if (row >= rows) continue;
        const float* from =
            sums +
            (row / kPanelTileRows * share.k_warps * kPanelTileRows + row % kPanelTileRows) *
                d.tokens +
            token;
        float sum = from[0];
        for (int w = 1; w < share.k_warps; ++w) sum += from[w * kPanelTileRows * d.tokens];
        OutputRow(p, index, share.row_begin + first_tile * kPanelTileRows + row)
            .store(first_token + token, sum);
      }
      buffer ^= 1;
    }
    // Tokens are overwritten only when the last round's barrier has been passed; a block without
    // rows never reads them.
  }
  copy_wait<0>();
}

template <int kTokenTiles, int kStages>
__global__ void __launch_bounds__(kThreads, kTokenTiles == 1 ? 2 : 1)
    decode_kernel(const __grid_constant__ Products p, const __grid_constant__ Division d) {
  extern __shared__ __align__(128) uint8_t shared[];
  launch_dependents();
  const int panel = panel_of_block(p);
  switch (p.panels[panel].kind) {
    case PanelKind::kBf16:
      return decode_panel<PanelKind::kBf16, kTokenTiles, kStages>(p, d, panel, shared);
    case PanelKind::kFp8:
      return decode_panel<PanelKind::kFp8, kTokenTiles, kStages>(p, d, panel, shared);
    case PanelKind::kFp8Block:
      return decode_panel<PanelKind::kFp8Block, kTokenTiles, kStages>(p, d, panel, shared);
    case PanelKind::kNvfp4:
      return decode_panel<PanelKind::kNvfp4, kTokenTiles, kStages>(p, d, panel, shared);
    case PanelKind::kMxfp4:
      return decode_panel<PanelKind::kMxfp4, kTokenTiles, kStages>(p, d, panel, shared);
  }
}

/// Blocks of each panel: about one an SM, each with as many bytes. A block after the other goes to
/// the panel whose blocks have most.
int divide_blocks(const LinearCall& call, Products& p) {
  const auto n = static_cast<int>(call.panels.size());
  int blocks[kMaxPanels], total = n;
  const auto bytes = [&](int i) {
    const Panel& panel = call.panels[static_cast<size_t>(i)];
    return double{1} * panel.rows * panel.chunks * tile_chunk_bytes(panel.kind);
  };
  const auto most_blocks = [&](int i) {
    const Panel& panel = call.panels[static_cast<size_t>(i)];
    return is_tiled(panel.kind) ? panel.rows / kPanelTileRows : panel.rows;
  };
  std::fill_n(blocks, n, 1);
  for (; total < call.sm_count; ++total) {
    int best = -1;
    for (int i = 0; i < n; ++i) {
      if (blocks[i] >= most_blocks(i)) continue;
      if (best < 0 || bytes(i) * blocks[best] > bytes(best) * blocks[i]) best = i;
    }
    if (best < 0) break;
    ++blocks[best];
  }
  for (int i = 0; i < n; ++i) p.first_block[i + 1] = p.first_block[i] + blocks[i];
  return total;
}

Division divide(const LinearCall& call, int tokens) {
  Division d;
  for (const Panel& panel : call.panels) {
    d.stage_bytes = std::max(d.stage_bytes, stage_bytes(panel.kind));
  }
  d.tokens = tokens;
  // Partial sums of a round take 4 KB, where tokens allow.
  d.round_tiles = std::max(1, 8 / tokens);
  d.chunks = static_cast<int32_t>(ceil_div(call.x.width, int64_t{kPanelChunk}));
  d.token_stride = d.chunks * kPanelChunk * 2 + 16;
  return d;
}

template <int kTokenTiles, int kStages>
void launch_decode(const LinearCall& call, const Products& p, const Division& d, int blocks) {
  launch(decode_kernel<kTokenTiles, kStages>,
         {.grid = dim3(static_cast<unsigned>(blocks)),
          .block = dim3(kThreads),
          .shared_bytes = static_cast<size_t>(d.bytes(kStages)),
          .stream = call.stream,
          .dependent = call.dependent},
         p, d);
}

constexpr int kFewStages = 2, kManyStages = 4;

}  // namespace

void allow_decode_kernels(int bytes) {
  const auto allow = [&](auto* kernel) {
    MOE4_CUDA_CHECK(
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
  };
  allow(decode_kernel<1, kManyStages>);
  allow(decode_kernel<2, kManyStages>);
  allow(decode_kernel<4, kManyStages>);
  allow(decode_kernel<1, kFewStages>);
}

void decode_linears(const LinearCall& call) {
  if (call.x.rows == 0) return;
  Products p = products_of(call);
  const int blocks = divide_blocks(call, p);
  const int memory = call.shared_bytes;
  // As many tokens a pass as fit, in whole n8 tiles; before it is one tile, the ring gives way.
  for (int tokens = static_cast<int>(std::min<int64_t>(call.x.rows, 8 * kMostTokenTiles));
       tokens > 8; tokens = (tokens - 1) / 8 * 8) {
    const Division d = divide(call, tokens);
    if (d.bytes(kManyStages) > memory) continue;
    return tokens <= 16 ? launch_decode<2, kManyStages>(call, p, d, blocks)
                        : launch_decode<4, kManyStages>(call, p, d, blocks);
  }
  for (int tokens = static_cast<int>(std::min<int64_t>(call.x.rows, 8)); tokens > 0; --tokens) {
    const Division d = divide(call, tokens);
    if (d.bytes(kManyStages) <= memory) {
      return launch_decode<1, kManyStages>(call, p, d, blocks);
    }
    if (tokens > 1 || d.bytes(kFewStages) > memory) continue;
    return launch_decode<1, kFewStages>(call, p, d, blocks);
  }
  MOE4_CHECK(false);  // kMaxInputs
}

}  // namespace moe4::cuda
