// ChooseBlocks on NVIDIA GPUs, its scores: the largest product of every head's query with runs of
// keys on tensor cores (ops/cuda/index_scores.cuh).
//
// A block has a span of keys of a sequence and some of its tokens, whose heads are up to 64 columns
// of mma.m16n8k16: tokens of a prompt share the keys that are read, a generated token has them
// alone. A warp has 32 keys in registers and passes over the columns, 8 at a time. Scales of
// queries are the same for all keys, so they do not change which block is the largest. 64 columns:
// 32 KB of shared memory, 4 blocks an SM.
//
// A run is the largest common divisor of a block's size and 32: its largest score is one warp's, so
// nothing is added up, and a score is of one query and one key: bits depend on nothing else.
#include "base/checked_math.h"
#include "device/cuda/launch.h"
#include "device/cuda/ptx/barrier.cuh"
#include "device/cuda/ptx/launch.cuh"
#include "ops/choose_blocks/cuda/kernels.h"
#include "ops/cuda/index_scores.cuh"

namespace moe4::cuda {
namespace {

constexpr int kWarps = 4, kThreads = 32 * kWarps;
constexpr int kTiles = kMostIndexHeads / kQueriesOfTile;
static_assert(kKeysOfRunBlock == kWarps * kWarpKeys && kPageTokens % kWarpKeys == 0);
static_assert(kKeysOfRun == kWarpKeys && kThreads == 16 * kQueriesOfTile);

size_t shared_bytes(int columns) {
  return static_cast<size_t>(ceil_div(columns, kQueriesOfTile)) * kQueryTileBytes;
}

// Column c is head c % num_heads of token first + c / num_heads.
struct Columns {
  int first_token, count;

  __device__ int token(const ChooseBlocksParams& p, int column) const {
    return first_token + column / p.num_heads;
  }
};

// Queries as fragments, and the last key that each column sees; -1 where there is no column.
__device__ __forceinline__ void put_queries(const ChooseBlocksParams& p, const Columns& columns,
                                            uint8_t* queries, int* last_keys) {
  const int chunk = static_cast<int>(threadIdx.x % 16), row = static_cast<int>(threadIdx.x / 16);
  const int d = 8 * chunk;
  for (int tile = 0; tile * kQueriesOfTile < columns.count; ++tile) {
    const int column = tile * kQueriesOfTile + row;
    const bool is_column = column < columns.count;
    float x[8] = {};
    if (is_column && d < p.dim) {
      const float* from =
          p.q + columns.token(p, column) * p.q_stride + column % p.num_heads * int64_t{p.dim} + d;
#pragma unroll
      for (int i = 0; i < 8; i += 4) {
        const float4 part = *reinterpret_cast<const float4*>(from + i);
        x[i] = part.x, x[i + 1] = part.y, x[i + 2] = part.z, x[i + 3] = part.w;
      }
    }
    put_query(queries + tile * kQueryTileBytes, row, chunk, x);
    if (chunk == 0) last_keys[column] = is_column ? p.positions[columns.token(p, column)] : -1;
  }
  __syncthreads();
}

// Of 32 keys from `first` on and columns 2 t and 2 t + 1 of a tile: ranks of runs.
__device__ __forceinline__ void put_runs(const ChooseBlocksParams& p, const float (&dots)[2][4],
                                         int first, int end, int column, int num_columns,
                                         const int* last_keys, uint32_t* runs) {
  const int g = lane_id() / 4;
#pragma unroll
  for (int c = 0; c < 2; ++c) {
    const int last_key = last_keys[column + c];
    uint32_t of_keys[2][2];  // of keys 16 i + 8 half + g, then of the runs that begin there
#pragma unroll
    for (int i = 0; i < 2; ++i) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int key = first + 16 * i + 8 * half + g;
        of_keys[i][half] = key <= last_key ? rank_of(dots[i][2 * half + c]) : 0;
      }
      if (p.run_keys >= 16) of_keys[i][0] = max(of_keys[i][0], of_keys[i][1]);
    }
    if (p.run_keys >= 32) of_keys[0][0] = max(of_keys[0][0], of_keys[1][0]);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        if (p.run_keys >= 8 && (16 * i + 8 * half) % p.run_keys != 0) continue;
        for (int offset = 4; offset < 4 * min(p.run_keys, 8); offset *= 2) {
          of_keys[i][half] =
              max(of_keys[i][half], __shfl_xor_sync(0xffffffff, of_keys[i][half], offset));
        }
      }
    }
    uint32_t* to = runs + (column + c) * p.run_stride;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int key = 16 * i + 8 * half + g;
        if (column + c < num_columns && key % p.run_keys == 0 && first + key < end) {
          to[(first + key) / p.run_keys] = of_keys[i][half];
        }
      }
    }
  }
}

__global__ void __launch_bounds__(kThreads, 4)
    rank_runs_kernel(const __grid_constant__ ChooseBlocksParams p,
                     const __grid_constant__ RankedSequences sequences) {
  extern __shared__ __align__(16) uint8_t queries[];
  __shared__ int last_keys[kTiles * kQueriesOfTile];
  wait_for_previous_kernel();
  launch_dependents();
  const int sequence = sequences.first_sequence + static_cast<int>(blockIdx.z);
  const int tokens = tokens_of_run_block(p.num_heads);
  const int first_token = p.query_start[sequence] + static_cast<int>(blockIdx.x) * tokens;
  const int end_token = min(first_token + tokens, p.query_start[sequence + 1]);
  Columns columns;
  columns.first_token = max(first_token, p.first_token);
  columns.count = (min(end_token, p.end_token) - columns.first_token) * p.num_heads;
  if (columns.count <= 0) return;
  const int last_key = p.positions[columns.token(p, columns.count - 1)];
  const int begin = static_cast<int>(blockIdx.y) * sequences.span;
  const int end = min(begin + sequences.span, last_key + 1);
  // Where the last token sees all blocks, all do.
  if (last_key / p.block_size < p.most || begin >= end) return;
  put_queries(p, columns, queries, last_keys);

  const int lane = lane_id(), warp = static_cast<int>(threadIdx.x / 32);
  const int32_t* blocks = p.blocks + sequence * p.max_blocks;
  const uint32_t fragments = shared_address(queries) + lane * int{sizeof(uint4)};
  const int steps = (p.dim + 31) / 32;
  uint32_t* runs =
      p.runs + (columns.first_token - p.first_token) * int64_t{p.num_heads} * p.run_stride;
  for (int first = begin + warp * kWarpKeys; first < end; first += kKeysOfRunBlock) {
    const auto* rows =
        reinterpret_cast<const __half*>(p.pages + blocks[first / kPageTokens] * p.page_bytes) +
        first % kPageTokens * p.dim;
    KeyFragments keys;
    keys.load(rows, p.dim, end - first);
    for (int tile = 0; tile * kQueriesOfTile < columns.count; ++tile) {
      float dots[2][4];
      keys.multiply(fragments + tile * kQueryTileBytes, steps, dots);
      put_runs(p, dots, first, end, tile * kQueriesOfTile + lane % 4 * 2, columns.count, last_keys,
               runs);
    }
  }
}

}  // namespace

void rank_runs(const ChooseBlocksParams& params, const RankedSequences& sequences,
               const ChooseBlocksLaunch& how) {
  const int tokens = tokens_of_run_block(params.num_heads);
  const int columns = std::min(tokens, sequences.max_tokens) * params.num_heads;
  launch(
      rank_runs_kernel,
      {.grid = dim3(static_cast<unsigned>(ceil_div(sequences.max_tokens, tokens)),
                    static_cast<unsigned>(ceil_div(sequences.max_context, int64_t{sequences.span})),
                    static_cast<unsigned>(sequences.num_sequences)),
       .block = dim3(kThreads),
       .shared_bytes = shared_bytes(columns),
       .stream = how.stream,
       .dependent = how.dependent},
      params, sequences);
}

}  // namespace moe4::cuda
