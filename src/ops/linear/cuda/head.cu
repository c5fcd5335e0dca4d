// Products of generated tokens with a great many rows, those of heads, on SM90 and later:
// y[t] = x[t] W^T, bound by the weights' bytes.
//
// A warp has whole tiles of 16 rows, every so-many-th of its panel. It walks over all of K, one
// share of decode_shares() after the other, and adds their sums in order: the order of sums is that
// of decode.cu, but nothing meets in shared memory, and after the tokens have come no warp waits
// for another. Sixteen warps of an SM are enough to decode as fast as bytes come, and have the last
// tiles end together to within a few microseconds.
//
// A warp brings its units of 2 KB, which follow each other in memory within a tile, with bulk
// copies into a ring of its own, of kStages units. All tokens are in shared memory, rows 16 bytes
// apart more than whole chunks.
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
namespace linear_head {

constexpr int kWarps = 16;
constexpr int kThreads = 32 * kWarps;
constexpr int kStages = 4;  // a power of two
constexpr int kUnit = unit_chunks(PanelKind::kNvfp4);
constexpr int kChunkBytes = tile_chunk_bytes(PanelKind::kNvfp4);
constexpr int kStageBytes = kUnit * kChunkBytes;
constexpr int kRingBytes = kWarps * kStages * kStageBytes;
constexpr int kMostTokens = 16;
static_assert(unit_chunks(PanelKind::kMxfp4) == kUnit);

/// The ring of a warp: the units of its tiles in order. All lanes call everything. Instructions at
/// every unit show in the speed of the whole kernel, so it only counts.
class UnitRing {
 public:
  __device__ UnitRing(const Panel& panel, int first_tile, int tile_step, int tiles, uint8_t* stages,
                      uint64_t* barriers)
      : from_(panel.weights + int64_t{first_tile} * panel.chunks * kChunkBytes),
        tile_skip_(int64_t{tile_step - 1} * panel.chunks * kChunkBytes),
        tile_bytes_(panel.chunks * kChunkBytes),
        left_(tile_bytes_),
        tiles_left_(first_tile < tiles ? (tiles - 1 - first_tile) / tile_step + 1 : 0),
        stages_(shared_address(stages)),
        barriers_(shared_address(barriers)) {
    if (lane_id() == 0) {
      for (int i = 0; i < kStages; ++i) barrier_init(barriers_ + 8 * i, 1);
      fence_barrier_init();
    }
    __syncwarp();
    for (int i = 0; i < kStages; ++i) fetch(i);
  }
  /// Waits for the next unit: its stage.
  __device__ int next() {
    const int stage = unit_ % kStages;
    barrier_wait(barriers_ + 8 * stage, unit_ / kStages & 1);
    return stage;
  }
  /// All lanes have used it.
  __device__ void release() {
    __syncwarp();
    fetch(unit_ % kStages);
    ++unit_;
  }

 private:
  __device__ void fetch(int stage) {
    if (tiles_left_ == 0) return;
    const int bytes = min(kStageBytes, left_);
    if (elect_one()) {
      barrier_expect(barriers_ + 8 * stage, bytes);
      bulk_copy(stages_ + stage * kStageBytes, from_, bytes, barriers_ + 8 * stage);
    }
    from_ += bytes;
    left_ -= bytes;
    if (left_ > 0) return;
    left_ = tile_bytes_;
    from_ += tile_skip_;
    --tiles_left_;
  }

  const uint8_t* from_;  // of the next fetch
  const int64_t tile_skip_;
  const int tile_bytes_;
  int left_, tiles_left_;  // bytes of the tile, and tiles with it
  const uint32_t stages_, barriers_;
  uint32_t unit_ = 0;
};

template <int kTokenTiles>
struct ChunkSums {
  float half[2][kTokenTiles][4] = {};  // of the first and of the second half of every chunk
};

template <PanelKind kKind, int kTokenTiles>
__device__ __forceinline__ void multiply_chunk(const uint8_t* chunk, int x_offset,
                                               const uint8_t* const (&x)[kTokenTiles], int lane,
                                               ChunkSums<kTokenTiles>& sums) {
  uint32_t a[2][8];
  TileChunk<kKind>::template load<0>(chunk, lane, a[0]);
  TileChunk<kKind>::template load<1>(chunk, lane, a[1]);
#pragma unroll
  for (int n = 0; n < kTokenTiles; ++n) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const uint4 b = *reinterpret_cast<const uint4*>(x[n] + x_offset + half * 16);
      mma_m16n8k16(sums.half[half][n], a[half], b.x, b.y);
      mma_m16n8k16(sums.half[half][n], a[half] + 4, b.z, b.w);
    }
  }
}

template <PanelKind kKind, int kTokenTiles>
__device__ __forceinline__ void multiply_panel(const Products& p, int index, int chunks,
                                               uint8_t* shared, uint64_t* barriers) {
  const Panel& panel = p.panels[index];
  const int warp = __shfl_sync(0xffffffff, static_cast<int>(threadIdx.x) / 32, 0);
  const int lane = lane_id();
  const int g = lane / 4, t = lane % 4;
  const int blocks = p.first_block[index + 1] - p.first_block[index];
  const int block = static_cast<int>(blockIdx.x) - p.first_block[index];
  const int tiles = (panel.rows + kPanelTileRows - 1) / kPanelTileRows;
  const int first_tile = warp * blocks + block, tile_step = kWarps * blocks;
  uint8_t* stages = shared + warp * kStages * kStageBytes;
  UnitRing ring(panel, first_tile, tile_step, tiles, stages, barriers + warp * kStages);

  uint8_t* x = shared + kRingBytes;
  const int token_stride = chunks * kPanelChunk * 2 + 16;
  wait_for_previous_kernel();
  for (int piece = static_cast<int>(threadIdx.x); piece < chunks * 8; piece += kThreads) {
#pragma unroll 4
    for (int token = 0; token < p.tokens; ++token) {
      *reinterpret_cast<uint4*>(x + token * token_stride + piece * 16) =
          load_token_piece(p, token, piece * 8);
    }
  }
  __syncthreads();
  // Columns past the last token repeat it: nobody stores them.
  const uint8_t* tokens[kTokenTiles];
#pragma unroll
  for (int n = 0; n < kTokenTiles; ++n) {
    tokens[n] = x + min(8 * n + g, p.tokens - 1) * token_stride + t * 32;
  }

  const int units = (panel.chunks + kUnit - 1) / kUnit, shares = decode_shares(units);
  for (int tile = first_tile; tile < tiles; tile += tile_step) {
    const int tile_row = tile * kPanelTileRows + g;
    const OutputRow outputs[2] = {OutputRow(p, index, tile_row), OutputRow(p, index, tile_row + 8)};
    float sums[kTokenTiles][4] = {};
    ChunkSums<kTokenTiles> of_share;
    int share = 0, share_end = units / shares;
#pragma unroll 1
    for (int unit = 0; unit < units; ++unit) {
      const uint8_t* stage = stages + ring.next() * kStageBytes;
      const int x_offset = unit * kUnit * kPanelChunk * 2, left = panel.chunks - unit * kUnit;
      if (left >= kUnit) {  // without branches between chunks
#pragma unroll
        for (int c = 0; c < kUnit; ++c) {
          multiply_chunk<kKind>(stage + c * kChunkBytes, x_offset + c * 128, tokens, lane,
                                of_share);
        }
      } else {
#pragma unroll 1
        for (int c = 0; c < left; ++c) {
          multiply_chunk<kKind>(stage + c * kChunkBytes, x_offset + c * 128, tokens, lane,
                                of_share);
        }
      }
      ring.release();
      if (unit + 1 < share_end) continue;
#pragma unroll
      for (int n = 0; n < kTokenTiles; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) sums[n][i] += of_share.half[0][n][i] + of_share.half[1][n][i];
      }
      of_share = {};
      ++share;
      share_end = units * (share + 1) / shares;
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (!outputs[i / 2].is_stored()) continue;
#pragma unroll
      for (int n = 0; n < kTokenTiles; ++n) {
        const int token = 8 * n + 2 * t + i % 2;
        if (token < p.tokens) outputs[i / 2].store(token, sums[n][i]);
      }
    }
  }
}

template <int kTokenTiles>
__global__ void __launch_bounds__(kThreads, 1)
    head_kernel(const __grid_constant__ Products p, int chunks) {
#if __CUDA_ARCH__ >= 900
  extern __shared__ __align__(128) uint8_t shared[];
  __shared__ uint64_t barriers[kWarps * kStages];
  launch_dependents();
  const int index = panel_of_block(p);
  if (p.panels[index].kind == PanelKind::kNvfp4) {
    multiply_panel<PanelKind::kNvfp4, kTokenTiles>(p, index, chunks, shared, barriers);
  } else {
    multiply_panel<PanelKind::kMxfp4, kTokenTiles>(p, index, chunks, shared, barriers);
  }
#endif
}

// With fewer tiles a warp, the last ones end too far apart.
constexpr int kLeastTiles = 4;
constexpr int kReservedBytes = 2 << 10;  // barriers, and what the system takes of every block

}  // namespace linear_head

using namespace linear_head;

void allow_head_kernels(int bytes) {
  const auto allow = [&](auto* kernel) {
    MOE4_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                         bytes - kReservedBytes));
  };
  allow(head_kernel<1>);
  allow(head_kernel<2>);
}

bool head_linears(const LinearCall& call) {
  const auto tokens = static_cast<int>(call.x.rows);
  int64_t tiles = 0;
  for (const Panel& panel : call.panels) {
    if (!is_tiled(panel.kind)) return false;
    tiles += ceil_div(panel.rows, kPanelTileRows);
  }
  const auto chunks = static_cast<int>(ceil_div(call.x.width, int64_t{kPanelChunk}));
  const int64_t bytes = kRingBytes + int64_t{tokens} * (chunks * kPanelChunk * 2 + 16);
  if (tokens == 0 || tokens > kMostTokens || bytes > call.shared_bytes - kReservedBytes ||
      tiles < int64_t{kLeastTiles} * kWarps * call.sm_count) {
    return false;
  }
  Products p = products_of(call);
  const int blocks = divide_blocks(call, call.sm_count, p);
  launch(tokens <= 8 ? head_kernel<1> : head_kernel<2>,
         {.grid = dim3(static_cast<unsigned>(blocks)),
          .block = dim3(kThreads),
          .shared_bytes = static_cast<size_t>(bytes),
          .stream = call.stream,
          .dependent = call.dependent},
         p, chunks);
  return true;
}

}  // namespace moe4::cuda
