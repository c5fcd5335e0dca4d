// Products for generated tokens: y[t] = x[t] W^T for a few of them.
//
// Bound by the weights' bytes. Weights are the m16 operand, tokens n8, so that 1 to 8 tokens cost
// the same; up to 32 share a decoded weight, more go in passes. A block has some rows of one panel
// (cut at single rows, so that all blocks have as many bytes) and walks over them in tiles of 16.
//
// Its eight warps split K in the shares that give the order of sums (decode_shares()): it depends
// on the shape of the panel alone, so a row's bits do not depend on what shares the call. Where K
// has too few units for eight warps, groups of warps take other tiles.
//
// Each warp brings its units through a ring of its own in shared memory (cp.async, kStages ahead),
// which it begins to fill before the kernel in front has ended. Tokens lie in shared memory, rows
// of whole chunks 16 bytes apart, so that a quarter warp's reads of 16 bytes use all banks. A warp
// keeps the sums of both halves of the chunks apart, since an mma waits for the one before it in
// its chain. Partial sums meet in shared memory once in several tiles (a round), behind one
// barrier; scales and biases of a round's rows are asked for before its products.
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
  const int units = (p.panels[panel].chunks + unit_chunks(kKind) - 1) / unit_chunks(kKind);
  s.k_warps = decode_shares(units);
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
    passes_ = share.group < share.tiles ? passes : 0;
    if constexpr (is_tiled(kKind)) {
      tile_stride_ = int64_t{panel.chunks} * kTileChunkBytes * share.groups;
      from_ = panel.chunk(share.row_begin, share.unit_begin * kChunks) + lane * 16;
      to_ = lane * 16;
    } else {
      constexpr int kChunkPieces = kPieces / kChunks;
      const int piece = lane % kPieces, row = lane / kPieces;
      row_stride_ = panel.chunks * (kTileChunkBytes / kPanelTileRows);
      tile_stride_ = int64_t{row_stride_} * kPanelTileRows * share.groups;
      from_ = panel.chunk(share.row_begin + row, share.unit_begin * kChunks) + piece * 16;
      chunk_ = piece / kChunkPieces;
      // Rows 4 further lie 4 rows further: the order of pieces follows the parity of the row.
      to_ = chunk_ * kTileChunkBytes + TileChunk<kKind>::piece_at(row, piece % kChunkPieces);
    }
    from_ += share.group * (tile_stride_ / share.groups);
    first_from_ = from_;
    tile_ = share.group;
    unit_ = share.unit_begin;
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
  static constexpr int kChunks = unit_chunks(kKind);
  static constexpr int kTileChunkBytes = tile_chunk_bytes(kKind);
  static constexpr int kPieces = 8;  // of 16 bytes in a row of a unit
  // From a unit to the next one of the same rows.
  static constexpr int kUnitStep = is_tiled(kKind) ? kChunks * kTileChunkBytes : kPieces * 16;

  __device__ void fetch() {
    if (passes_ > 0) {
      copy_unit(shared_address(stages_ + write_ * stage_bytes_),
                from_ + (unit_ - share_.unit_begin) * kUnitStep);
      if (++unit_ == share_.unit_end) {
        unit_ = share_.unit_begin;
        tile_ += share_.groups;
        from_ += tile_stride_;
        if (tile_ >= share_.tiles) {
          tile_ = share_.group;
          from_ = first_from_;
          --passes_;
        }
      }
    }
    write_ = write_ + 1 == kStages ? 0 : write_ + 1;
    copy_commit();
  }

  __device__ void copy_unit(uint32_t stage, const uint8_t* from) const {
    const int chunks = panel_.chunks - unit_ * kChunks;
    if constexpr (is_tiled(kKind)) {
      const int pieces = min(kChunks, chunks) * (kTileChunkBytes / 16);
#pragma unroll
      for (int i = 0; i < (kChunks * kTileChunkBytes / 16 + 31) / 32; ++i) {
        copy16_if(i * 32 + lane_ < pieces, stage + to_ + i * 512, from + i * 512);
      }
    } else {
      const int rows = chunk_ < chunks ? share_.row_end - share_.row_begin -
                                             tile_ * kPanelTileRows - lane_ / kPieces
                                       : 0;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        copy16_if(i * 4 < rows, stage + to_ + i * 4 * (kTileChunkBytes / kPanelTileRows),
                  from + int64_t{i * 4} * row_stride_);
      }
    }
  }

  const Panel& panel_;
  const Share& share_;
  uint8_t* stages_;
  int stage_bytes_, lane_;
  const uint8_t *from_, *first_from_;  // of this lane, at the next tile's first unit
  int64_t tile_stride_;                // bytes
  int row_stride_ = 0, to_, chunk_ = 0;
  int tile_, unit_, passes_;  // of the next fetch
  int read_ = 0, write_ = 0;
};

/// Sums of a tile: of the first and of the second half of every chunk.
template <int kTokenTiles>
struct TileSums {
  float half[2][kTokenTiles][4] = {};
};

/// sums += 16 rows x 64 columns of weights times the tokens.
template <PanelKind kKind, int kTokenTiles>
__device__ __forceinline__ void multiply_chunk(const uint8_t* chunk, int x_chunk,
                                               const uint8_t* const (&x)[kTokenTiles], int lane,
                                               TileSums<kTokenTiles>& sums) {
  uint32_t a[2][8];
  TileChunk<kKind>::template load<0>(chunk, lane, a[0]);
  TileChunk<kKind>::template load<1>(chunk, lane, a[1]);
#pragma unroll
  for (int n = 0; n < kTokenTiles; ++n) {
    const auto* b = reinterpret_cast<const uint4*>(x[n] + x_chunk * 128);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const uint4 piece = b[half];
      mma_m16n8k16(sums.half[half][n], a[half], piece.x, piece.y);
      mma_m16n8k16(sums.half[half][n], a[half] + 4, piece.z, piece.w);
    }
  }
}

/// The same for a unit, of which `chunks` are left in the row.
template <PanelKind kKind, int kTokenTiles>
__device__ __forceinline__ void multiply_unit(const uint8_t* stage, int chunks, int x_chunk,
                                              const uint8_t* const (&x)[kTokenTiles], int lane,
                                              TileSums<kTokenTiles>& sums) {
  constexpr int kChunks = unit_chunks(kKind), kBytes = tile_chunk_bytes(kKind);
  if (chunks >= kChunks) {  // without branches between chunks
#pragma unroll
    for (int c = 0; c < kChunks; ++c) {
      multiply_chunk<kKind>(stage + c * kBytes, x_chunk + c, x, lane, sums);
    }
  } else {
    for (int c = 0; c < chunks; ++c) {
      multiply_chunk<kKind>(stage + c * kBytes, x_chunk + c, x, lane, sums);
    }
  }
}

/// Tokens [first, first + count) to shared memory, zeros up to whole chunks.
__device__ __forceinline__ void load_tokens(const Products& p, const Division& d, int first,
                                            int count, uint8_t* x) {
  const int thread = static_cast<int>(threadIdx.x);
  for (int token = 0; token < count; ++token) {
    uint8_t* to = x + token * d.token_stride;
    for (int piece = thread; piece < d.chunks * 8; piece += kThreads) {
      if (p.x_in_pieces != 0) {
        const auto* from =
            static_cast<const __nv_bfloat16*>(p.x) + (first + token) * p.x_stride + piece * 8;
        const int bytes = max(0, min(16, (p.in_features - piece * 8) * 2));
        // A copy of nothing still needs an address that exists.
        copy16(shared_address(to + piece * 16), bytes > 0 ? from : p.x, bytes);
      } else {
        *reinterpret_cast<uint4*>(to + piece * 16) = load_token_piece(p, first + token, piece * 8);
      }
    }
  }
  copy_commit();
  copy_wait<0>();
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
    load_tokens(p, d, first_token, tokens, x);
    __syncthreads();
    // Columns past the last token repeat it: nobody stores them.
    const uint8_t* token_rows[kTokenTiles];
#pragma unroll
    for (int n = 0; n < kTokenTiles; ++n) {
      token_rows[n] = x + min(8 * n + g, tokens - 1) * d.token_stride + t * 32;
    }
    // A thread stores the sums of one row of each round, for every tokens_apart-th token.
    const int round_tiles = min(d.round_tiles, kThreads / kPanelTileRows / share.groups);
    const int round_rows = round_tiles * share.groups * kPanelTileRows;
    const int tokens_apart = kThreads / round_rows;
    const int row = static_cast<int>(threadIdx.x) % round_rows;
    const int token_begin = static_cast<int>(threadIdx.x) / round_rows;
    for (int first_tile = 0; first_tile < share.tiles; first_tile += round_tiles * share.groups) {
      float* sums = partials + buffer * partial_floats;
      const int round_begin = share.row_begin + first_tile * kPanelTileRows;
      OutputRow output;
      if (round_begin + row < share.row_end && token_begin < tokens) {
        output = OutputRow(p, index, round_begin + row);
      }
      for (int slot = 0; slot < round_tiles; ++slot) {
        const int tile = first_tile + slot * share.groups + share.group;
        if (tile >= share.tiles) break;
        TileSums<kTokenTiles> acc;
        for (int unit = share.unit_begin; unit < share.unit_end; ++unit) {
          const int chunk = unit * unit_chunks(kKind);
          const int chunks = panel.chunks - chunk;
          if constexpr (kKind == PanelKind::kFp8Block) {
            const int tile_row = share.row_begin + tile * kPanelTileRows + g;
            const int64_t scale_stride = (panel.chunks + 1) / 2;
            const auto scale_of = [&](int r) {
              const int64_t block = min(r, panel.rows - 1) / kPanelTileRows;
              return __ldg(panel.block_scale + block * scale_stride + unit);
            };
            const float low = scale_of(tile_row), high = scale_of(tile_row + 8);
            TileSums<kTokenTiles> part;
            multiply_unit<kKind>(ring.next(), chunks, chunk, token_rows, lane, part);
#pragma unroll
            for (int half = 0; half < 2; ++half) {
#pragma unroll
              for (int n = 0; n < kTokenTiles; ++n) {
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                  acc.half[half][n][i] =
                      fmaf(part.half[half][n][i], i < 2 ? low : high, acc.half[half][n][i]);
                }
              }
            }
          } else {
            multiply_unit<kKind>(ring.next(), chunks, chunk % panel.x_chunks, token_rows, lane,
                                 acc);
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
            if (token < tokens) {
              to[(g + i / 2 * 8) * d.tokens + token] = acc.half[0][n][i] + acc.half[1][n][i];
            }
          }
        }
      }
      // The other buffer was read before this barrier, and is written behind it.
      __syncthreads();
      const float* from =
          sums +
          (row / kPanelTileRows * share.k_warps * kPanelTileRows + row % kPanelTileRows) * d.tokens;
      for (int token = token_begin; token < tokens; token += tokens_apart) {
        if (!output.is_stored()) break;
        float sum = from[token];
        for (int w = 1; w < share.k_warps; ++w) {
          sum += from[w * kPanelTileRows * d.tokens + token];
        }
        output.store(first_token + token, sum);
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

Division divide(const LinearCall& call, int tokens) {
  Division d;
  for (const Panel& panel : call.panels) {
    d.stage_bytes = std::max(d.stage_bytes, stage_bytes(panel.kind));
  }
  d.tokens = tokens;
  // Partial sums of a round take 4 KB (8 of more tokens), where they can.
  d.round_tiles = tokens <= 4 ? 8 / tokens : std::max(1, 16 / tokens / 2 * 2);
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

void launch_one_tile(const LinearCall& call, const Products& p, const Division& d, int blocks,
                     int stages) {
  switch (stages) {
    case 2:
      return launch_decode<1, 2>(call, p, d, blocks);
    case 3:
      return launch_decode<1, 3>(call, p, d, blocks);
    case 4:
      return launch_decode<1, 4>(call, p, d, blocks);
  }
  MOE4_CHECK(false);
}

// Of one tile of tokens; of several tiles. With more the rings would be as fast alone, but keep the
// blocks of the kernels behind out (Qwen3.6, a step of one token on an H200: 2.39 ms, with 6 2.68).
constexpr int kLeastStages = 2, kMostStages = 4, kTilesStages = 4;
/// From so many bytes an SM on (lm_head), two blocks an SM decode faster than one, and what they
/// keep the next kernel from is little beside it.
constexpr double kLongRunBytes = 512 << 10;
constexpr int kReservedBytes = 1024;  // of shared memory, by the system for every block

}  // namespace

void allow_decode_kernels(int bytes) {
  const auto allow = [&](auto* kernel) {
    MOE4_CUDA_CHECK(
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
  };
  allow(decode_kernel<1, 2>);
  allow(decode_kernel<1, 3>);
  allow(decode_kernel<1, 4>);
  allow(decode_kernel<2, kTilesStages>);
  allow(decode_kernel<4, kTilesStages>);
}

void decode_linears(const LinearCall& call) {
  if (call.x.rows == 0) return;
  Products p = products_of(call);
  const int memory = call.shared_bytes;
  // As many tokens a pass as fit, in whole n8 tiles; before it is one tile, the ring gives way.
  for (int tokens = static_cast<int>(std::min<int64_t>(call.x.rows, 8 * kMostTokenTiles));
       tokens > 8; tokens = (tokens - 1) / 8 * 8) {
    const Division d = divide(call, tokens);
    if (d.bytes(kTilesStages) > memory) continue;
    const int blocks = divide_blocks(call, call.sm_count, p);
    return tokens <= 16 ? launch_decode<2, kTilesStages>(call, p, d, blocks)
                        : launch_decode<4, kTilesStages>(call, p, d, blocks);
  }
  double bytes = 0;
  for (const Panel& panel : call.panels) bytes += weight_bytes(panel);
  const bool long_run = bytes > kLongRunBytes * call.sm_count;
  for (int tokens = static_cast<int>(std::min<int64_t>(call.x.rows, 8)); tokens > 0; --tokens) {
    const Division d = divide(call, tokens);
    // Half an SM's memory, where that is enough: the other half is for the next kernel's blocks,
    // whose weights are then on their way, or for a second block of this one.
    const auto fits_twice = [&](int stages) {
      return 2 * (d.bytes(stages) + kReservedBytes) <= memory;
    };
    const bool half = fits_twice(kLeastStages + 1);
    int stages = kMostStages;
    while (stages > kLeastStages && !(half ? fits_twice(stages) : d.bytes(stages) <= memory)) {
      --stages;
    }
    if (d.bytes(stages) > memory) continue;
    const bool twice = long_run && half;
    return launch_one_tile(call, p, d, divide_blocks(call, call.sm_count * (twice ? 2 : 1), p),
                           twice ? kLeastStages : stages);
  }
  MOE4_CHECK(false);  // kMaxInputs
}

}  // namespace moe4::cuda
