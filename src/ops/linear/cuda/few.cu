// Products of 1 to 16 generated tokens on SM90 and later: y[t] = x[t] W^T, bound by latency.
//
// A decode step of one token is a chain of kernels of a few microseconds, so what counts beside the
// weights' bytes is instructions between the end of the kernel in front and the last store. A block
// has some rows of one panel (cut at single rows, so that all have as many bytes), in tiles of 16.
// One warp brings them with bulk copies, row by row, into a ring of pieces of 4 or 8 rows (of
// tiles, for kinds in tiles), as far ahead as the ring goes while the kernel in front still runs;
// rows lie 16 or 64 bytes apart, so that the rows of a quarter warp's reads use other banks.
//
// Eight warps split K in the shares of decode_shares() and multiply m16n8k16 as decode.cu does, in
// the same order of sums: a row's bits are those of any other number of generated tokens. All
// tokens are in shared memory. The shares of as many tiles as memory allows, a round, meet there
// behind one barrier; where results go, their scales and biases are known before.
#include <algorithm>

#include "device/cuda/launch.h"
#include "device/cuda/ptx/barrier.cuh"
#include "device/cuda/ptx/copy.cuh"
#include "device/cuda/ptx/launch.cuh"
#include "device/cuda/ptx/memory.cuh"
#include "device/cuda/ptx/warp.cuh"
#include "ops/linear/cuda/fragments.cuh"
#include "ops/linear/cuda/products.cuh"
#include "ops/linear/cuda/ring_stage.cuh"

namespace moe4::cuda {

// Not anonymous: nvcc takes what only SM90 and later use for forgotten otherwise.
namespace linear_few {

constexpr int kWarps = 8;  // that multiply
constexpr int kMultipliers = 32 * kWarps;
constexpr int kThreads = kMultipliers + 32;  // and one that copies
constexpr int kMostRoundTiles = 8;
constexpr int kMostStages = 16;
constexpr int kMostTokens = 16;

/// Bytes between rows of a piece, beyond the row's own.
constexpr int row_padding(PanelKind kind) { return kind == PanelKind::kBf16 ? 16 : 64; }
constexpr int pieces_of_tile(PanelKind kind) {
  return is_tiled(kind) ? 1 : kind == PanelKind::kBf16 ? 4 : 2;
}
constexpr int piece_rows(PanelKind kind) { return kPanelTileRows / pieces_of_tile(kind); }
constexpr int64_t piece_bytes(const Panel& panel) {
  const int64_t bytes =
      int64_t{panel.chunks} * tile_chunk_bytes(panel.kind) / pieces_of_tile(panel.kind);
  const int padding = is_tiled(panel.kind) ? 0 : piece_rows(panel.kind) * row_padding(panel.kind);
  return round_up(bytes + padding, int64_t{128});
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
  int32_t round_tiles = 1;   ///< a power of two
  int32_t buffers = 1;       ///< for the sums of rounds

  int32_t sum_stride = 0;  ///< floats between rows

  MOE4_HOST_DEVICE int round_floats() const {
    return round_tiles * kWarps * kPanelTileRows * sum_stride;
  }
  int bytes(int tokens) const {
    return ring_bytes + tokens * token_stride + buffers * round_floats() * 4;
  }
};

constexpr int grain(PanelKind kind) { return is_tiled(kind) ? kPanelTileRows : 1; }

struct Barriers {
  uint64_t full[kMostStages], empty[kMostStages];
};

/// Copies rows [begin, end) piece after piece; all lanes of one warp.
template <PanelKind kKind>
__device__ __forceinline__ void copy_rows(const Panel& panel, const Layout::OfPanel& layout,
                                          int begin, int end, uint8_t* ring, Barriers& barriers) {
  const int lane = lane_id();
  const uint32_t row_bytes = panel.chunks * (tile_chunk_bytes(kKind) / kPanelTileRows);
  constexpr int kRows = piece_rows(kKind);
  const int pieces = (end - begin + kPanelTileRows - 1) / kPanelTileRows * pieces_of_tile(kKind);
  RingStage stage(layout.stages);
  // A step's weights go through L2 once and are larger than it: norms, small weights, states and
  // what kernels hand each other stay there.
  const uint64_t policy = evict_first_policy();
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
      if (lane == 0) bulk_copy(to, from, kRows * row_bytes, full, policy);
    } else {
      if (lane < rows) {
        bulk_copy(to + lane * (row_bytes + row_padding(kKind)), from + lane * row_bytes, row_bytes,
                  full, policy);
      }
    }
    from += kRows * row_bytes;
  }
}

/// Rows of tokens to shared memory, zeros up to whole chunks; all multiplying threads.
__device__ __forceinline__ void load_tokens(const Products& p, const Layout& layout, uint8_t* x) {
  for (int piece = static_cast<int>(threadIdx.x); piece < layout.chunks * 8;
       piece += kMultipliers) {
    uint8_t* to = x + piece * 16;
    if (p.x_in_pieces != 0) {
      const int bytes = max(0, min(16, (p.in_features - piece * 8) * 2));
      const auto* from = static_cast<const __nv_bfloat16*>(p.x) + (bytes > 0 ? piece * 8 : 0);
      const uint32_t address = shared_address(to);
#pragma unroll 4
      for (int token = 0; token < p.tokens; ++token) {
        copy16(address + token * layout.token_stride, from + token * p.x_stride, bytes);
      }
    } else {
      for (int token = 0; token < p.tokens; ++token) {
        *reinterpret_cast<uint4*>(to + token * layout.token_stride) =
            load_token_piece(p, token, piece * 8);
      }
    }
  }
  copy_commit();
  copy_wait<0>();
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

/// sums += a chunk of 16 rows times the tokens, whose places in the chunk are `x`.
template <int kTokenTiles>
__device__ __forceinline__ void multiply_chunk(const uint32_t (&a)[2][8], int x_offset,
                                               const uint8_t* const (&x)[kTokenTiles],
                                               float (&sums)[2][kTokenTiles][4]) {
#pragma unroll
  for (int n = 0; n < kTokenTiles; ++n) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const uint4 b = *reinterpret_cast<const uint4*>(x[n] + x_offset + half * 16);
      mma_m16n8k16(sums[half][n], a[half], b.x, b.y);
      mma_m16n8k16(sums[half][n], a[half] + 4, b.z, b.w);
    }
  }
}

template <PanelKind kKind, int kTokenTiles>
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
  // What this thread stores of a round: a row, for every tokens_apart-th token.
  const int round_rows = layout.round_tiles * kPanelTileRows;
  const int row = static_cast<int>(threadIdx.x) & (round_rows - 1);
  const int token_begin = static_cast<int>(threadIdx.x) / round_rows;
  const int tokens_apart = kMultipliers / round_rows;
  const auto output_of = [&](int first_tile) {
    const int r = first_tile * kPanelTileRows + row;
    return r < rows && token_begin < p.tokens ? OutputRow(p, index, row_begin + r) : OutputRow();
  };
  OutputRow output = output_of(0);

  wait_for_previous_kernel();
  load_tokens(p, layout, x);
  named_barrier<kMultipliers>(1);

  const int g = lane / 4, t = lane % 4;
  const int tiles = (rows + kPanelTileRows - 1) / kPanelTileRows;
  const int row_stride = panel.chunks * kChunkBytes + (is_tiled(kKind) ? 0 : row_padding(kKind));
  // Columns past the last token repeat it: nobody stores them.
  const uint8_t* token[kTokenTiles];
#pragma unroll
  for (int n = 0; n < kTokenTiles; ++n) {
    token[n] = x + min(8 * n + g, p.tokens - 1) * layout.token_stride + t * 32;
  }
  int x_begin = begin;
  while (x_begin >= panel.x_chunks) x_begin -= panel.x_chunks;
  RingStage stage(cut.stages);
  int buffer = 0;
  for (int first_tile = 0; first_tile < tiles; first_tile += layout.round_tiles) {
    float* round = sums + buffer * layout.round_floats();
    for (int slot = 0; slot < min(layout.round_tiles, tiles - first_tile); ++slot) {
      const int tile = first_tile + slot;
      int at[kPieces];
      uint32_t parity[kPieces];
#pragma unroll
      for (int i = 0; i < kPieces; ++i, stage.next()) {
        at[i] = stage.index();
        parity[i] = stage.parity();
      }
      if ((tile & (groups - 1)) != group) continue;
#pragma unroll
      for (int i = 0; i < kPieces; ++i) {
        barrier_wait(shared_address(&barriers.full[at[i]]), parity[i]);
      }
      // Rows g and g + 8.
      const uint8_t *low = shared + begin * kChunkBytes, *high = low;
      if constexpr (is_tiled(kKind)) {
        low += at[0] * cut.stage_bytes;
      } else {
        constexpr int kRows = piece_rows(kKind);
        const int offset = g % kRows * row_stride + t * (kChunkBytes / 4);
        const bool second = kPieces == 4 && g >= kRows;
        low += (second ? at[1] : at[0]) * cut.stage_bytes + offset;
        high += (second ? at[kPieces - 1] : at[kPieces / 2]) * cut.stage_bytes + offset;
      }
      float acc[2][kTokenTiles][4] = {};
      if constexpr (kKind == PanelKind::kFp8Block) {
        const int64_t tile_row = (row_begin + tile * kPanelTileRows) + g;
        const int64_t scale_stride = (panel.chunks + 1) / 2;
        const auto scales_of = [&](int64_t r) {
          return panel.block_scale +
                 min(r, int64_t{panel.rows} - 1) / kPanelTileRows * scale_stride;
        };
        const float *low_scales = scales_of(tile_row), *high_scales = scales_of(tile_row + 8);
        for (int c = begin; c < end; c += kUnit) {
          const float scale[2] = {__ldg(low_scales + c / kUnit), __ldg(high_scales + c / kUnit)};
          float part[2][kTokenTiles][4] = {};
          for (int i = 0; i < min(kUnit, end - c); ++i) {
            const int offset = (c - begin + i) * kChunkBytes;
            uint32_t a[2][8];
            load_fragments<kKind>(low + offset, high + offset, lane, a);
            multiply_chunk(a, (c + i) * 128, token, part);
          }
#pragma unroll
          for (int half = 0; half < 2; ++half) {
#pragma unroll
            for (int n = 0; n < kTokenTiles; ++n) {
#pragma unroll
              for (int i = 0; i < 4; ++i) {
                acc[half][n][i] = fmaf(part[half][n][i], scale[i / 2], acc[half][n][i]);
              }
            }
          }
        }
      } else {
        int x_chunk = x_begin;
#pragma unroll(kTokenTiles == 1 ? 4 : 2)
        for (int c = 0; c < end - begin; ++c) {
          uint32_t a[2][8];
          load_fragments<kKind>(low + c * kChunkBytes, high + c * kChunkBytes, lane, a);
          multiply_chunk(a, x_chunk * 128, token, acc);
          ++x_chunk;
          if (kKind == PanelKind::kBf16 && x_chunk == panel.x_chunks) x_chunk = 0;
        }
      }
      __syncwarp();
#pragma unroll
      for (int i = 0; i < kPieces; ++i) {
        warp_arrive(shared_address(&barriers.empty[at[i]]), lane == 0);
      }
      float* to =
          round + ((slot * shares + share) * kPanelTileRows + g) * layout.sum_stride + 2 * t;
#pragma unroll
      for (int n = 0; n < kTokenTiles; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          if (8 * n + 2 * t + i % 2 < p.tokens) {
            to[i / 2 * 8 * layout.sum_stride + 8 * n + i % 2] = acc[0][n][i] + acc[1][n][i];
          }
        }
      }
    }
    // With two buffers, the other one was read before this barrier, and is written behind it.
    named_barrier<kMultipliers>(1);
    if (output.is_stored()) {
      const float* from =
          round + (row / kPanelTileRows * shares * kPanelTileRows + row % kPanelTileRows) *
                      layout.sum_stride;
      for (int i = token_begin; i < p.tokens; i += tokens_apart) {
        float sum = from[i];
        for (int s = 1; s < shares; ++s) sum += from[s * kPanelTileRows * layout.sum_stride + i];
        output.store(i, sum);
      }
    }
    if (first_tile + layout.round_tiles >= tiles) break;
    output = output_of(first_tile + layout.round_tiles);
    if (layout.buffers == 1) {
      named_barrier<kMultipliers>(1);
    } else {
      buffer ^= 1;
    }
  }
}

template <int kTokenTiles>
__global__ void __launch_bounds__(kThreads, kTokenTiles == 1 ? 2 : 1)
    few_kernel(const __grid_constant__ Products p, const __grid_constant__ Layout layout) {
#if __CUDA_ARCH__ >= 900
  extern __shared__ __align__(128) uint8_t shared[];
  __shared__ Barriers barriers;
  launch_dependents();
  const int panel = panel_of_block(p);
  switch (p.panels[panel].kind) {
    case PanelKind::kBf16:
      return multiply_panel<PanelKind::kBf16, kTokenTiles>(p, layout, panel, shared, barriers);
    case PanelKind::kFp8:
      return multiply_panel<PanelKind::kFp8, kTokenTiles>(p, layout, panel, shared, barriers);
    case PanelKind::kFp8Block:
      return multiply_panel<PanelKind::kFp8Block, kTokenTiles>(p, layout, panel, shared, barriers);
    case PanelKind::kNvfp4:
      return multiply_panel<PanelKind::kNvfp4, kTokenTiles>(p, layout, panel, shared, barriers);
    case PanelKind::kMxfp4:
      return multiply_panel<PanelKind::kMxfp4, kTokenTiles>(p, layout, panel, shared, barriers);
  }
#endif
}

// Of one token, a little more than half an SM's memory: then no SM takes two blocks of a launch and
// leaves another without, but the next kernel's blocks come in beside, whose weights are then on
// their way (all linears of a step of one token on an H200: 892 us; with 80 KB a block 996).
constexpr int kRingBytes = 108 << 10;
constexpr int kMostRoundBytes = 32 << 10;
// More tiles of a block (heads) go faster with two blocks an SM.
constexpr int kMostTiles = 8;
constexpr int kReservedBytes = 2 << 10;  // barriers, and what the system takes of every block

}  // namespace linear_few

using namespace linear_few;

void allow_few_kernels(int bytes) {
  const auto allow = [&](auto* kernel) {
    MOE4_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                         bytes - kReservedBytes));
  };
  allow(few_kernel<1>);
  allow(few_kernel<2>);
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
  // Otherwise the rows of a warp's sums, which it stores together, would use the same banks.
  layout.sum_stride = tokens <= 8 ? tokens : round_up(tokens, 8) + 4;
  int64_t wanted = 0, least = 0;  // bytes of a ring: for all pieces of a block, for one tile
  int most_tiles = 0;             // of a block
  for (size_t i = 0; i < call.panels.size(); ++i) {
    const Panel& panel = call.panels[i];
    const int panel_blocks = p.first_block[i + 1] - p.first_block[i];
    const int grains = ceil_div(panel.rows, grain(panel.kind));
    Layout::OfPanel& cut = layout.panels[i];
    cut.rows = grains / panel_blocks;
    cut.more = grains % panel_blocks;
    cut.stage_bytes = static_cast<int32_t>(piece_bytes(panel));
    const int rows = (cut.rows + (cut.more > 0 ? 1 : 0)) * grain(panel.kind);
    const int tiles = ceil_div(rows, kPanelTileRows), pieces = pieces_of_tile(panel.kind);
    most_tiles = std::max(most_tiles, tiles);
    cut.stages = std::min(tiles * pieces, kMostStages);
    wanted = std::max(wanted, int64_t{cut.stages} * cut.stage_bytes);
    least = std::max(least, int64_t{pieces} * cut.stage_bytes);
  }
  if (most_tiles > kMostTiles) return false;
  const auto rounds_bytes = [&] { return layout.buffers * layout.round_floats() * 4; };
  while (layout.round_tiles < std::min(most_tiles, kMostRoundTiles) &&
         2 * rounds_bytes() <= kMostRoundBytes) {
    layout.round_tiles *= 2;
  }
  const auto room = [&] {
    return (call.shared_bytes - kReservedBytes - layout.bytes(tokens)) / 128 * 128;
  };
  if (layout.round_tiles < most_tiles) {
    layout.buffers = 2;
    while (layout.round_tiles > 1 && rounds_bytes() > kMostRoundBytes) layout.round_tiles /= 2;
    if (least > room()) layout.buffers = 1;
  }
  if (least > room()) return false;
  const int64_t ring = std::max(least, std::min<int64_t>({wanted, kRingBytes, room()}));
  layout.ring_bytes = static_cast<int32_t>(ring);
  for (size_t i = 0; i < call.panels.size(); ++i) {
    Layout::OfPanel& cut = layout.panels[i];
    cut.stages = std::min(cut.stages, layout.ring_bytes / cut.stage_bytes);
  }
  const auto start = [&](auto* kernel) {
    launch(kernel,
           {.grid = dim3(static_cast<unsigned>(blocks)),
            .block = dim3(kThreads),
            .shared_bytes = static_cast<size_t>(layout.bytes(tokens)),
            .stream = call.stream,
            .dependent = call.dependent},
           p, layout);
  };
  start(tokens <= 8 ? few_kernel<1> : few_kernel<2>);
  return true;
}

}  // namespace moe4::cuda
