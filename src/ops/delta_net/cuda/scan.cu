// DeltaNet's prompts, second launch: the state from chunk to chunk, and what it gives out.
//
// With W, U, scores, G of chunks.cu, C the chunk's last token and S the state [key_dim, value_dim]:
//   U' = U - W S;   o = (diag(exp(G)) Q S + scores U') / sqrt(key_dim)
//   S <- exp(G_C) S + (diag(exp(G_C - G)) K)^T U'
// A block has 32 columns of one value head of one sequence and walks along its chunks; 8 warps:
//   W S and Q S [64, 32]: a warp has 16 tokens and 16 columns
//   S [128, 32]: a warp has 16 keys and all columns, in registers and float32; F16 in shared memory
//     as an operand
// Tiles of the next chunk are fetched into their places as soon as these have been read: W, Q and U
// after the first products, K and scores after the last. o overwrites U in global memory.
// Shared memory: 88 KB, two blocks an SM where that has 228 KB.
#include <cmath>

#include "device/cuda/launch.h"
#include "device/cuda/ptx/barrier.cuh"
#include "device/cuda/ptx/copy.cuh"
#include "device/cuda/ptx/launch.cuh"
#include "ops/delta_net/cuda/kernels.h"
#include "ops/delta_net/cuda/tiles.cuh"

namespace moe4::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32;
constexpr int kColumns = 32;  // of a block
constexpr int kBlocks = kChunkTokens / 16;
static_assert(kWarps * 16 == kWide && kWarps * 16 * 16 == kChunkTokens * kColumns);

struct Params {
  RecurrentBatch batch;
  PromptChunks prompts;
  DeltaNetBuffers buffers;
  int64_t num_tokens, memory_offset;
  int heads_per_key, key_dim, value_dim;
  float query_scale;
};

constexpr int kWideRow = row_bytes(kWide), kSquareRow = row_bytes(kChunkTokens),
              kNarrowRow = row_bytes(kColumns);

struct Shared {
  alignas(16) std::byte w[tile_bytes(kWide)];
  alignas(16) std::byte q[tile_bytes(kWide)];
  alignas(16) std::byte k[tile_bytes(kWide)];
  alignas(16) std::byte scores[tile_bytes(kChunkTokens)];
  alignas(16) std::byte u[tile_bytes(kColumns)];
  alignas(16) std::byte updated[tile_bytes(kColumns)];  // U'
  alignas(16) std::byte decayed[tile_bytes(kColumns)];  // diag(exp(G_C - G)) U'
  alignas(16) std::byte state[kWide * kNarrowRow];      // S
  float log_decay[kChunkTokens];
};

// 64 rows of `columns` F16 `stride` apart into a tile, zeros past `tokens`.
template <int kTileColumns>
__device__ __forceinline__ void fetch(std::byte* tile, const uint16_t* rows, int64_t stride,
                                      int tokens) {
  constexpr int kPieces = kTileColumns / 8;  // of 16 bytes, in a row
  static_assert(kChunkTokens * kPieces % kThreads == 0);
  const uint32_t to = shared_address(tile);
#pragma unroll
  for (int i = 0; i < kChunkTokens * kPieces / kThreads; ++i) {
    const int n = i * kThreads + static_cast<int>(threadIdx.x);
    const int row = n / kPieces, piece = n % kPieces;
    const bool wanted = row < tokens;
    copy16(to + static_cast<uint32_t>(row * row_bytes(kTileColumns) + piece * 16),
           rows + (wanted ? row : 0) * stride + piece * 8, wanted ? 16 : 0);
  }
}

__device__ __forceinline__ void store_state_tile(std::byte* tile, int row, int column,
                                                 const float (&s)[kColumns / 8][4]) {
#pragma unroll
  for (int n = 0; n < kColumns / 8; ++n) {
#pragma unroll
    for (int down = 0; down < 2; ++down) {
      *reinterpret_cast<uint32_t*>(tile + (row + 8 * down) * kNarrowRow + (column + 8 * n) * 2) =
          pack_f16(s[n][2 * down], s[n][2 * down + 1]);
    }
  }
}

__global__ void __launch_bounds__(kThreads) scan_kernel(const Params p) {
  extern __shared__ __align__(16) std::byte memory_of_block[];
  Shared& shared = *reinterpret_cast<Shared*>(memory_of_block);
  wait_for_previous_kernel();
  launch_dependents();
  const RecurrentSequence sequence =
      p.batch.sequence(p.prompts.first + static_cast<int>(blockIdx.z));
  if (sequence.tokens <= 0) return;
  const int head = static_cast<int>(blockIdx.y), key_head = head / p.heads_per_key;
  const int first_column = static_cast<int>(blockIdx.x) * kColumns;
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int64_t key_row = key_head * p.num_tokens + sequence.first;
  const int64_t value_row = head * p.num_tokens + sequence.first;
  const int chunks = (sequence.tokens + kChunkTokens - 1) / kChunkTokens;
  const auto tokens_of = [&](int chunk) {
    return min(kChunkTokens, sequence.tokens - chunk * kChunkTokens);
  };
  // What the first products read, and what the last ones do.
  const auto fetch_first = [&](int chunk) {
    const int64_t t = int64_t{chunk} * kChunkTokens;
    const int tokens = tokens_of(chunk);
    fetch<kWide>(shared.w, p.buffers.w + (value_row + t) * kWide, kWide, tokens);
    fetch<kWide>(shared.q, p.buffers.queries + (key_row + t) * kWide, kWide, tokens);
    fetch<kColumns>(shared.u, p.buffers.u + (value_row + t) * kWide + first_column, kWide, tokens);
    if (threadIdx.x < kChunkTokens) {
      const int i = static_cast<int>(threadIdx.x);
      copy4(shared_address(&shared.log_decay[i]),
            p.buffers.decays + value_row + t + (i < tokens ? i : 0), i < tokens);
    }
    copy_commit();
  };
  const auto fetch_last = [&](int chunk) {
    const int64_t t = int64_t{chunk} * kChunkTokens;
    const int tokens = tokens_of(chunk);
    fetch<kWide>(shared.k, p.buffers.keys + (key_row + t) * kWide, kWide, tokens);
    fetch<kChunkTokens>(shared.scores, p.buffers.scores + (value_row + t) * kChunkTokens,
                        kChunkTokens, tokens);
    copy_commit();
  };
  fetch_first(0);
  fetch_last(0);

  // S: keys state_row and state_row + 8, columns 8 n + state_column and the next.
  const int state_row = 16 * warp + lane / 4, state_column = lane % 4 * 2;
  float* const state = sequence.state + p.memory_offset +
                       static_cast<int64_t>(head) * p.key_dim * p.value_dim + first_column;
  float s[kColumns / 8][4] = {};
  const auto each_pair = [&](const auto& visit) {
#pragma unroll
    for (int n = 0; n < kColumns / 8; ++n) {
#pragma unroll
      for (int down = 0; down < 2; ++down) {
        const int row = state_row + 8 * down, column = state_column + 8 * n;
        if (row < p.key_dim && first_column + column < p.value_dim) {
          visit(reinterpret_cast<float2*>(state + static_cast<int64_t>(row) * p.value_dim + column),
                s[n][2 * down], s[n][2 * down + 1]);
        }
      }
    }
  };
  if (!sequence.fresh) {
    each_pair([](const float2* from, float& x, float& y) {
      const float2 pair = *from;
      x = pair.x;
      y = pair.y;
    });
  }
  store_state_tile(shared.state, state_row, state_column, s);

  // Of W S, Q S and U': tokens row and row + 8, columns column + 8 n and the next.
  const int block_row = warp % kBlocks, left = warp / kBlocks * 16;
  const int row = 16 * block_row + lane / 4, column = left + lane % 4 * 2;
  const uint32_t wide_rows = tile_by_rows(lane, kWideRow);
  const uint32_t wide_columns = tile_by_columns(lane, kWideRow);
  const uint32_t square_rows = tile_by_rows(lane, kSquareRow);
  const uint32_t narrow_rows = tile_by_rows(lane, kNarrowRow);
  const uint32_t w_tile = shared_address(shared.w) + 16 * block_row * kWideRow + wide_rows;
  const uint32_t q_tile = shared_address(shared.q) + 16 * block_row * kWideRow + wide_rows;
  const uint32_t k_tile = shared_address(shared.k) + 32 * warp + wide_columns;
  const uint32_t scores_tile =
      shared_address(shared.scores) + 16 * block_row * kSquareRow + square_rows;
  const uint32_t state_tile = shared_address(shared.state) + 2 * left + narrow_rows;
  const uint32_t updated_tile = shared_address(shared.updated) + 2 * left + narrow_rows;
  const uint32_t decayed_tile = shared_address(shared.decayed) + narrow_rows;

  for (int chunk = 0; chunk < chunks; ++chunk) {
    const int tokens = tokens_of(chunk);
    copy_wait<1>();
    __syncthreads();  // W, Q, U, G and S are there
    float ws[2][4] = {}, o[2][4] = {};
#pragma unroll
    for (int k = 0; k < kWide / 16; ++k) {
      uint32_t a_w[4], a_q[4], b[4];
      load_tile_transposed(b, state_tile + 16 * k * kNarrowRow);
      load_tile(a_w, w_tile + 32 * k);
      load_tile(a_q, q_tile + 32 * k);
      multiply_f16(ws[0], ws[1], a_w, b);
      multiply_f16(o[0], o[1], a_q, b);
    }
    // Past the chunk's end U' is zero and G counts as zero.
    const float last = shared.log_decay[tokens - 1];
#pragma unroll
    for (int down = 0; down < 2; ++down) {
      const float log_decay = shared.log_decay[row + 8 * down];
      const float decay = __expf(log_decay), to_end = __expf(fminf(last - log_decay, 0.0f));
#pragma unroll
      for (int n = 0; n < 2; ++n) {
        const int at = (row + 8 * down) * kNarrowRow + (column + 8 * n) * 2;
        const float2 u = unpack_f16(*reinterpret_cast<const uint32_t*>(shared.u + at));
        const float x = u.x - ws[n][2 * down], y = u.y - ws[n][2 * down + 1];
        *reinterpret_cast<uint32_t*>(shared.updated + at) = pack_f16(x, y);
        *reinterpret_cast<uint32_t*>(shared.decayed + at) = pack_f16(x * to_end, y * to_end);
        o[n][2 * down] *= decay;
        o[n][2 * down + 1] *= decay;
      }
    }
    copy_wait<0>();
    __syncthreads();  // K, scores and U' are there; W, Q, U and S have been read
    if (chunk + 1 < chunks) fetch_first(chunk + 1);

    const float decay = __expf(last);
#pragma unroll
    for (int n = 0; n < kColumns / 8; ++n) {
#pragma unroll
      for (float& x : s[n]) x *= decay;
    }
#pragma unroll
    for (int k = 0; k < kBlocks; ++k) {
      uint32_t a[4], b[2][4];
      load_tile_transposed(a, k_tile + 16 * k * kWideRow);
      load_tile_transposed(b[0], decayed_tile + 16 * k * kNarrowRow);
      load_tile_transposed(b[1], decayed_tile + 16 * k * kNarrowRow + 32);
      multiply_f16(s[0], s[1], a, b[0]);
      multiply_f16(s[2], s[3], a, b[1]);
    }
    store_state_tile(shared.state, state_row, state_column, s);
#pragma unroll
    for (int k = 0; k < kBlocks; ++k) {
      if (k > block_row) continue;
      uint32_t a[4], b[4];
      load_tile(a, scores_tile + 32 * k);
      load_tile_transposed(b, updated_tile + 16 * k * kNarrowRow);
      multiply_f16(o[0], o[1], a, b);
    }
#pragma unroll
    for (int down = 0; down < 2; ++down) {
      if (row + 8 * down >= tokens) continue;
      uint16_t* const to = p.buffers.u +
                           (value_row + chunk * kChunkTokens + row + 8 * down) * kWide +
                           first_column + column;
#pragma unroll
      for (int n = 0; n < 2; ++n) {
        *reinterpret_cast<uint32_t*>(to + 8 * n) =
            pack_f16(o[n][2 * down] * p.query_scale, o[n][2 * down + 1] * p.query_scale);
      }
    }
    if (chunk + 1 < chunks) {
      __syncthreads();  // K and scores have been read
      fetch_last(chunk + 1);
    }
  }
  each_pair([](float2* to, float x, float y) { *to = {x, y}; });
}

}  // namespace

void prepare_delta_scan() {
  MOE4_CUDA_CHECK(cudaFuncSetAttribute(scan_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                       static_cast<int>(sizeof(Shared))));
}

void launch_delta_scan(const DeltaNetCall& call) {
  const DeltaNet::Problem& problem = call.problem;
  const PromptChunks prompts(*call.args.batch);
  const Params params{
      .batch = {*call.args.batch, call.args.cache},
      .prompts = prompts,
      .buffers = call.buffers,
      .num_tokens = call.args.batch->num_tokens,
      .memory_offset = problem.memory_offset(),
      .heads_per_key = static_cast<int>(problem.num_value_heads / problem.num_key_heads),
      .key_dim = static_cast<int>(problem.key_dim),
      .value_dim = static_cast<int>(problem.value_dim),
      .query_scale = 1.0f / std::sqrt(static_cast<float>(problem.key_dim))};
  launch(scan_kernel,
         {.grid = dim3(static_cast<unsigned>(ceil_div(problem.value_dim, int64_t{kColumns})),
                       static_cast<unsigned>(problem.num_value_heads),
                       static_cast<unsigned>(prompts.num_seqs - prompts.first)),
          .block = dim3(kThreads),
          .shared_bytes = sizeof(Shared),
          .stream = call.stream,
          .dependent = call.sm >= 90},
         params);
}

}  // namespace moe4::cuda
