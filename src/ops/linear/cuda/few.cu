// Products of 1 to 8 generated tokens on SM90 and later: y[t] = x[t] W^T, bound by latency.
//
// A decode step of one token is a chain of kernels of a few microseconds, so what counts beside the
// weights' bytes is instructions between the end of the kernel in front and the last store. A block
// has some rows of one panel (cut at single rows, so that all have as many bytes), at most
// kMostTiles tiles of 16. One warp brings them with bulk copies, row by row, into a ring of pieces
// of 8 rows (of tiles, for kinds in tiles), as far ahead as the ring goes while the kernel in front
// still runs; rows lie 16 or 64 bytes apart, so that the rows of a quarter warp's reads use other
// banks.
//
// Eight warps split K in the shares of decode_shares() and multiply m16n8k16 as decode.cu does, in
// the same order of sums: a row's bits are those of any other number of generated tokens. The
// shares of all tiles meet in shared memory behind one barrier; where results go, their scales and
// biases are known before the kernel waits for its tokens.
#include <algorithm>

#include "device/cuda/launch.h"
#include "device/cuda/ptx/barrier.cuh"
#include "device/cuda/ptx/copy.cuh"
#include "device/cuda/ptx/launch.cuh"
#include "device/cuda/ptx/warp.cuh"
#include "ops/linear/cuda/fragments.cuh"
#include "ops/linear/cuda/products.cuh"

namespace moe4::cuda {

// Not anonymous: nvcc takes what only SM90 and later use for forgotten otherwise.
namespace linear_few {

constexpr int kWarps = 8;  // that multiply
constexpr int kMultipliers = 32 * kWarps;
constexpr int kThreads = kMultipliers + 32;  // and one that copies
constexpr int kPieceRows = 8;
constexpr int kMostTiles = 8, kMostRows = kMostTiles * kPanelTileRows;
constexpr int kMostStages = 16;
constexpr int kMostTokens = 8;

/// Bytes between rows of a piece, beyond the row's own.
constexpr int row_padding(PanelKind kind) { return kind == PanelKind::kBf16 ? 16 : 64; }
constexpr int pieces_of_tile(PanelKind kind) { return is_tiled(kind) ? 1 : 2; }
constexpr int64_t piece_bytes(const Panel& panel) {
  const int64_t tile = int64_t{panel.chunks} * tile_chunk_bytes(panel.kind);
  if (is_tiled(panel.kind)) return round_up(tile, int64_t{128});
  return round_up(tile / 2 + kPieceRows * row_padding(panel.kind), int64_t{128});
}

/// How a launch divides rows and shared memory: the ring, tokens, sums.
struct Layout {
  struct OfPanel {
    int32_t rows = 0, more = 0;  ///< of a block, in grains; so many blocks have one more
    int32_t stages = 0, stage_bytes = 0;
  };
  OfPanel panels[kMaxPanels];
  int32_t ring_bytes = 0;
  int32_t token_stride = 0;  ///< bytes
  int32_t chunks = 0;        ///< of a token
  int32_t tiles = 0;         ///< of a block, at most

  int sum_bytes(int tokens) const { return tiles * kWarps * kPanelTileRows * tokens * 4; }
  int bytes(int tokens) const { return ring_bytes + tokens * token_stride + sum_bytes(tokens); }
};

constexpr int grain(PanelKind kind) { return is_tiled(kind) ? kPanelTileRows : 1; }

/// A stage that one warp fills and the warps of a tile empty, going round.
class Stage {
 public:
  __device__ explicit Stage(int stages) : stages_(stages) {}
  __device__ int index() const { return index_; }
  __device__ uint32_t parity() const { return parity_; }
  __device__ void next() {
    if (++index_ == stages_) {
      index_ = 0;
      parity_ ^= 1;
    }
  }

 private:
  int stages_, index_ = 0;
  uint32_t parity_ = 0;
};

struct Barriers {
  uint64_t full[kMostStages], empty[kMostStages];
};

/// Copies rows [begin, end) piece after piece; all lanes of one warp.
template <PanelKind kKind>
__device__ __forceinline__ void copy_rows(const Panel& panel, const Layout::OfPanel& layout,
                                          int begin, int end, uint8_t* ring, Barriers& barriers) {
  const int lane = lane_id();
  const uint32_t row_bytes = panel.chunks * (tile_chunk_bytes(kKind) / kPanelTileRows);
  constexpr int kRows = is_tiled(kKind) ? kPanelTileRows : kPieceRows;
  const int pieces = (end - begin + kPanelTileRows - 1) / kPanelTileRows * pieces_of_tile(kKind);
  Stage stage(layout.stages);
  const uint8_t* from = panel.chunk(begin, 0);
  for (int i = 0; i < pieces; ++i, stage.next()) {
    const uint32_t full = shared_address(&barriers.full[stage.index()]);
    if (i >= layout.stages) {
      barrier_wait(shared_address(&barriers.empty[stage.index()]), stage.parity() ^ 1);
    }
    const uint32_t to = shared_address(ring) + stage.index() * layout.stage_bytes;
    const int rows = max(0, min(kRows, end - begin - i * kRows));
    if (lane == 0) barrier_expect(full, rows * row_bytes);
    __syncwarp();
    if constexpr (is_tiled(kKind)) {
      if (lane == 0) bulk_copy(to, from, kRows * row_bytes, full);
    } else {
      if (lane < rows) {
        bulk_copy(to + lane * (row_bytes + row_padding(kKind)), from + lane * row_bytes, row_bytes,
                  full);
      }
    }
    from += kRows * row_bytes;
  }
}

/// Rows of tokens in shared memory, zeros up to whole chunks; all multiplying threads.
__device__ __forceinline__ void load_tokens(const Products& p, const Layout& layout, uint8_t* x) {
  for (int token = 0; token < p.tokens; ++token) {
    uint8_t* to = x + token * layout.token_stride;
    for (int piece = static_cast<int>(threadIdx.x); piece < layout.chunks * 8;
         piece += kMultipliers) {
      *reinterpret_cast<uint4*>(to + piece * 16) = load_token_piece(p, token, piece * 8);
    }
  }
}

/// The A fragments of both halves of a chunk: `low` and `high` are this lane's place in the rows g
/// and g + 8 at the chunk, or both the chunk of a tile.
template <PanelKind kKind>
__device__ __forceinline__ void load_fragments(const uint8_t* low, const uint8_t* high, int lane,
                                               uint32_t (&a)[2][8]) {
  if constexpr (is_tiled(kKind)) {
    TileChunk<kKind>::template load<0>(low, lane, a[0]);
    TileChunk<kKind>::template load<1>(low, lane, a[1]);
  } else if constexpr (kKind == PanelKind::kBf16) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const uint4 l = *reinterpret_cast<const uint4*>(low + half * 16);
      const uint4 h = *reinterpret_cast<const uint4*>(high + half * 16);
      a[half][0] = l.x, a[half][1] = h.x, a[half][2] = l.y, a[half][3] = h.y;
      a[half][4] = l.z, a[half][5] = h.z, a[half][6] = l.w, a[half][7] = h.w;
    }
  } else {
    const uint4 l = *reinterpret_cast<const uint4*>(low);
    const uint4 h = *reinterpret_cast<const uint4*>(high);
    const uint32_t words[2][4] = {{l.x, h.x, l.y, h.y}, {l.z, h.z, l.w, h.w}};
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        a[half][4 * i] = e4m3_pair<0>(words[half][2 * i]);
        a[half][4 * i + 1] = e4m3_pair<0>(words[half][2 * i + 1]);
        a[half][4 * i + 2] = e4m3_pair<1>(words[half][2 * i]);
        a[half][4 * i + 3] = e4m3_pair<1>(words[half][2 * i + 1]);
      }
    }
  }
}

/// sums += a chunk of 16 rows times the tokens.
__device__ __forceinline__ void multiply_chunk(const uint32_t (&a)[2][8], const uint8_t* x,
                                               float (&sums)[2][4]) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const uint4 b = *reinterpret_cast<const uint4*>(x + half * 16);
    mma_m16n8k16(sums[half], a[half], b.x, b.y);
    mma_m16n8k16(sums[half], a[half] + 4, b.z, b.w);
  }
}

template <PanelKind kKind>
__device__ void multiply_panel(const Products& p, const Layout& layout, int index, uint8_t* shared,
                               Barriers& barriers) {
  constexpr int kUnit = unit_chunks(kKind), kPieces = pieces_of_tile(kKind);
  constexpr int kChunkBytes = tile_chunk_bytes(kKind) / (is_tiled(kKind) ? 1 : kPanelTileRows);
  const Panel& panel = p.panels[index];
  const Layout::OfPanel& cut = layout.panels[index];
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = lane_id();
  const int block = static_cast<int>(blockIdx.x) - p.first_block[index];
  const int row_begin = (block * cut.rows + min(block, cut.more)) * grain(kKind);
  const int rows = (cut.rows + (block < cut.more ? 1 : 0)) * grain(kKind);

  const int units = (panel.chunks + kUnit - 1) / kUnit, shares = decode_shares(units);
  if (threadIdx.x == 0) {
    for (int i = 0; i < cut.stages; ++i) {
      barrier_init(shared_address(&barriers.full[i]), 1);
      barrier_init(shared_address(&barriers.empty[i]), shares * kWarpArrivals);
    }
    fence_barrier_init();
  }
  __syncthreads();
  if (warp == kWarps) {
    return copy_rows<kKind>(panel, cut, row_begin, row_begin + rows, shared, barriers);
  }

  uint8_t* x = shared + layout.ring_bytes;
  float* sums = reinterpret_cast<float*>(x + p.tokens * layout.token_stride);
  // Of tiles, this warp has every groups-th, and one share of their columns. Shares are 2^i.
  const int share = warp & (shares - 1), group = warp / shares, groups = kWarps / shares;
  const int begin = units * share / shares * kUnit;
  const int end = min(units * (share + 1) / shares * kUnit, panel.chunks);
  // What this thread stores at the end: a row, for every other token.
  const int row = static_cast<int>(threadIdx.x) % kMostRows;
  OutputRow output;
  if (row < rows) output = OutputRow(p, index, row_begin + row);

  wait_for_previous_kernel();
  load_tokens(p, layout, x);
  named_barrier<kMultipliers>(1);

  const int g = lane / 4, t = lane % 4;
  const int tiles = (rows + kPanelTileRows - 1) / kPanelTileRows;
  const int row_stride = panel.chunks * kChunkBytes + (is_tiled(kKind) ? 0 : row_padding(kKind));
  // Columns past the last token repeat it: nobody stores them.
  const uint8_t* token = x + min(g, p.tokens - 1) * layout.token_stride + t * 32;
  int x_begin = begin;
  while (x_begin >= panel.x_chunks) x_begin -= panel.x_chunks;
  Stage stage(cut.stages);
  for (int tile = 0; tile < tiles; ++tile) {
    int at[kPieces];
    uint32_t parity[kPieces];
#pragma unroll
    for (int i = 0; i < kPieces; ++i, stage.next()) {
      at[i] = stage.index();
      parity[i] = stage.parity();
    }
    if ((tile & (groups - 1)) != group) continue;
    const uint8_t* from[kPieces];
#pragma unroll
    for (int i = 0; i < kPieces; ++i) {
      barrier_wait(shared_address(&barriers.full[at[i]]), parity[i]);
      from[i] = shared + at[i] * cut.stage_bytes + begin * kChunkBytes;
      if constexpr (!is_tiled(kKind)) from[i] += g * row_stride + t * (kChunkBytes / 4);
    }
    float acc[2][4] = {};
    if constexpr (kKind == PanelKind::kFp8Block) {
      const int64_t tile_row = (row_begin + tile * kPanelTileRows) + g;
      const int64_t scale_stride = (panel.chunks + 1) / 2;
      const auto scales_of = [&](int64_t r) {
        return panel.block_scale + min(r, int64_t{panel.rows} - 1) / kPanelTileRows * scale_stride;
      };
      const float *low = scales_of(tile_row), *high = scales_of(tile_row + 8);
      for (int c = begin; c < end; c += kUnit) {
        const float scale[2] = {__ldg(low + c / kUnit), __ldg(high + c / kUnit)};
        float part[2][4] = {};
        for (int i = 0; i < min(kUnit, end - c); ++i) {
          const int offset = (c - begin + i) * kChunkBytes;
          uint32_t a[2][8];
          load_fragments<kKind>(from[0] + offset, from[kPieces - 1] + offset, lane, a);
          multiply_chunk(a, token + (c + i) * 128, part);
        }
#pragma unroll
        for (int half = 0; half < 2; ++half) {
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            acc[half][i] = fmaf(part[half][i], scale[i / 2], acc[half][i]);
          }
        }
      }
    } else {
      int x_chunk = x_begin;
#pragma unroll 4
      for (int c = 0; c < end - begin; ++c) {
        uint32_t a[2][8];
        load_fragments<kKind>(from[0] + c * kChunkBytes, from[kPieces - 1] + c * kChunkBytes, lane,
                              a);
        multiply_chunk(a, token + x_chunk * 128, acc);
        ++x_chunk;
        if (kKind == PanelKind::kBf16 && x_chunk == panel.x_chunks) x_chunk = 0;
      }
    }
    __syncwarp();
#pragma unroll
    for (int i = 0; i < kPieces; ++i) {
      warp_arrive(shared_address(&barriers.empty[at[i]]), lane == 0);
    }
    float* to = sums + ((tile * shares + share) * kPanelTileRows + g) * p.tokens + 2 * t;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (2 * t + i % 2 < p.tokens) {
        to[i / 2 * 8 * p.tokens + i % 2] = acc[0][i] + acc[1][i];
      }
    }
  }
  named_barrier<kMultipliers>(1);
  if (!output.is_stored()) return;
  const float* from =
      sums + (row / kPanelTileRows * shares * kPanelTileRows + row % kPanelTileRows) * p.tokens;
  for (int i = static_cast<int>(threadIdx.x) / kMostRows; i < p.tokens;
       i += kMultipliers / kMostRows) {
    float sum = from[i];
    for (int s = 1; s < shares; ++s) sum += from[s * kPanelTileRows * p.tokens + i];
    output.store(i, sum);
  }
}

__global__ void __launch_bounds__(kThreads, 2)
    few_kernel(const __grid_constant__ Products p, const __grid_constant__ Layout layout) {
#if __CUDA_ARCH__ >= 900
  extern __shared__ __align__(128) uint8_t shared[];
  __shared__ Barriers barriers;
  launch_dependents();
  const int panel = panel_of_block(p);
  switch (p.panels[panel].kind) {
    case PanelKind::kBf16:
      return multiply_panel<PanelKind::kBf16>(p, layout, panel, shared, barriers);
    case PanelKind::kFp8:
      return multiply_panel<PanelKind::kFp8>(p, layout, panel, shared, barriers);
    case PanelKind::kFp8Block:
      return multiply_panel<PanelKind::kFp8Block>(p, layout, panel, shared, barriers);
    case PanelKind::kNvfp4:
      return multiply_panel<PanelKind::kNvfp4>(p, layout, panel, shared, barriers);
    case PanelKind::kMxfp4:
      return multiply_panel<PanelKind::kMxfp4>(p, layout, panel, shared, barriers);
  }
#endif
}

// Of one token, a little more than half an SM's memory: then no SM takes two blocks of a launch and
// leaves another without, but the next kernel's blocks come in beside, whose weights are then on
// their way (all linears of a step of one token on an H200: 892 us; with 80 KB a block 996).
constexpr int kRingBytes = 108 << 10;
constexpr int kReservedBytes = 2 << 10;  // barriers, and what the system takes of every block

}  // namespace linear_few

using namespace linear_few;

void allow_few_kernels(int bytes) {
  MOE4_CUDA_CHECK(cudaFuncSetAttribute(few_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                       bytes - kReservedBytes));
}

bool few_linears(const LinearCall& call) {
  if (call.x.rows == 0) return true;
  if (call.x.rows > kMostTokens) return false;
  const auto tokens = static_cast<int>(call.x.rows);
  Products p = products_of(call);
  const int blocks = divide_blocks(call, call.sm_count, p);
  Layout layout;
  layout.chunks = static_cast<int32_t>(ceil_div(call.x.width, int64_t{kPanelChunk}));
  layout.token_stride = layout.chunks * kPanelChunk * 2 + 16;
  int64_t wanted = 0, least = 0;  // bytes of a ring: for all pieces of a block, for one tile
  for (size_t i = 0; i < call.panels.size(); ++i) {
    const Panel& panel = call.panels[i];
    const int panel_blocks = p.first_block[i + 1] - p.first_block[i];
    const int grains = ceil_div(panel.rows, grain(panel.kind));
    Layout::OfPanel& cut = layout.panels[i];
    cut.rows = grains / panel_blocks;
    cut.more = grains % panel_blocks;
    cut.stage_bytes = static_cast<int32_t>(piece_bytes(panel));
    const int rows = (cut.rows + (cut.more > 0 ? 1 : 0)) * grain(panel.kind);
    if (rows > kMostRows) return false;
    const int tiles = ceil_div(rows, kPanelTileRows);
    layout.tiles = std::max(layout.tiles, tiles);
    cut.stages = std::min(tiles * pieces_of_tile(panel.kind), kMostStages);
    wanted = std::max(wanted, int64_t{cut.stages} * cut.stage_bytes);
    least = std::max(least, int64_t{pieces_of_tile(panel.kind)} * cut.stage_bytes);
  }
  const int64_t others = layout.bytes(tokens) + kReservedBytes;
  const int64_t ring = std::max(least, std::min(wanted, int64_t{kRingBytes}));
  if (ring + others > call.shared_bytes) return false;
  layout.ring_bytes = static_cast<int32_t>(round_up(ring, int64_t{128}));
  for (size_t i = 0; i < call.panels.size(); ++i) {
    Layout::OfPanel& cut = layout.panels[i];
    cut.stages = std::min(cut.stages, layout.ring_bytes / cut.stage_bytes);
  }
  launch(few_kernel,
         {.grid = dim3(static_cast<unsigned>(blocks)),
          .block = dim3(kThreads),
          .shared_bytes = static_cast<size_t>(layout.bytes(tokens)),
          .stream = call.stream,
          .dependent = call.dependent},
         p, layout);
  return true;
}

}  // namespace moe4::cuda
