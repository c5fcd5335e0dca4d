// DeltaNet's prompts, second launch: the state from chunk to chunk, and what it gives out.
//
// With W, U, scores, G of chunks.cu, C the chunk's last token and S the state [key_dim, value_dim]:
//   U' = U - W S;   o = (diag(exp(G)) Q S + scores U') / sqrt(key_dim)
//   S <- exp(G_C) S + (diag(exp(G_C - G)) K)^T U'
// A block has 32 columns of one value head of one sequence and walks along its chunks; 8 warps:
//   W S and Q S [64, 32]: a warp has 16 tokens and 16 columns
//   S [128, 32]: a warp has 16 keys and all columns, in registers and float32; F16 in shared memory
//     as an operand
// Tiles of the next chunk are fetched while this one is computed, where shared memory holds both
// (155 KB); else (88 KB) as soon as their places have been read: W, Q and U after the first
// products, K and scores after the last. o overwrites U in global memory.
#include <cmath>

#include "device/cuda/launch.h"
#include "device/cuda/ptx/launch.cuh"
#include "ops/cuda/chunk_tiles.cuh"
#include "ops/delta_net/cuda/kernels.h"

namespace moe4::cuda {
namespace {

struct Params {
  RecurrentBatch batch;
  PromptChunks prompts;
  DeltaNetBuffers buffers;
  int64_t num_tokens, memory_offset;
  int heads_per_key, key_dim, value_dim;
  float query_scale;
};

template <int kStages>
struct Shared {
  struct Stage {
    alignas(16) std::byte w[tile_bytes(kWide)];
    alignas(16) std::byte q[tile_bytes(kWide)];
    alignas(16) std::byte k[tile_bytes(kWide)];
    alignas(16) std::byte scores[tile_bytes(kChunkTokens)];
    alignas(16) std::byte u[tile_bytes(kScanColumns)];
    float log_decay[kChunkTokens];
  } stages[kStages];
  alignas(16) std::byte updated[tile_bytes(kScanColumns)];  // U'
  alignas(16) std::byte decayed[tile_bytes(kScanColumns)];  // diag(exp(G_C - G)) U'
  alignas(16) std::byte state[kWide * kNarrowRow];          // S
};

template <int kStages>
__global__ void __launch_bounds__(kChunkThreads) scan_kernel(const Params p) {
  extern __shared__ __align__(16) std::byte shared_memory[];
  using Memory = Shared<kStages>;
  using Stage = typename Memory::Stage;
  Memory& shared = *reinterpret_cast<Memory*>(shared_memory);
  wait_for_previous_kernel();
  launch_dependents();
  const RecurrentSequence sequence =
      p.batch.sequence(p.prompts.first + static_cast<int>(blockIdx.z));
  if (sequence.tokens <= 0) return;
  const int head = static_cast<int>(blockIdx.y), key_head = head / p.heads_per_key;
  const int first_column = static_cast<int>(blockIdx.x) * kScanColumns;
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int64_t key_row = key_head * p.num_tokens + sequence.first;
  const int64_t value_row = head * p.num_tokens + sequence.first;
  const int chunks = (sequence.tokens + kChunkTokens - 1) / kChunkTokens;
  const auto tokens_of = [&](int chunk) {
    return min(kChunkTokens, sequence.tokens - chunk * kChunkTokens);
  };
  // What the first products read, and what the last ones do.
  const auto fetch_first = [&](int chunk) {
    Stage& to = shared.stages[chunk % kStages];
    const int64_t t = int64_t{chunk} * kChunkTokens;
    const int tokens = tokens_of(chunk);
    fetch_tile<kWide>(to.w, p.buffers.w + (value_row + t) * kWide, kWide, tokens);
    fetch_tile<kWide>(to.q, p.buffers.queries + (key_row + t) * kWide, kWide, tokens);
    fetch_tile<kScanColumns>(to.u, p.buffers.u + (value_row + t) * kWide + first_column, kWide,
                             tokens);
    fetch_numbers(to.log_decay, p.buffers.decays + value_row + t, tokens);
  };
  const auto fetch_last = [&](int chunk) {
    Stage& to = shared.stages[chunk % kStages];
    const int64_t t = int64_t{chunk} * kChunkTokens;
    const int tokens = tokens_of(chunk);
    fetch_tile<kWide>(to.k, p.buffers.keys + (key_row + t) * kWide, kWide, tokens);
    fetch_tile<kChunkTokens>(to.scores, p.buffers.scores + (value_row + t) * kChunkTokens,
                             kChunkTokens, tokens);
  };
  fetch_first(0);
  if constexpr (kStages == 1) copy_commit();
  fetch_last(0);
  copy_commit();

  float* const memory = sequence.state + p.memory_offset +
                        static_cast<int64_t>(head) * p.key_dim * p.value_dim + first_column;
  const int columns = p.value_dim - first_column;
  WalkingState state;
  if (!sequence.fresh) state.load(memory, p.key_dim, columns, p.value_dim);
  state.store_tile(shared.state);

  // Of W S, Q S and U': tokens row and row + 8, columns column + 8 n and the next.
  const int block_row = warp % kChunkBlocks, left = warp / kChunkBlocks * 16;
  const int row = 16 * block_row + lane / 4, column = left + lane % 4 * 2;
  const uint32_t wide_rows = tile_by_rows(lane, kWideRow);
  const uint32_t square_rows = tile_by_rows(lane, kSquareRow);
  const uint32_t narrow_rows = tile_by_rows(lane, kNarrowRow);
  const uint32_t state_tile = shared_address(shared.state) + 2 * left + narrow_rows;
  const uint32_t updated_tile = shared_address(shared.updated) + 2 * left + narrow_rows;

  for (int chunk = 0; chunk < chunks; ++chunk) {
    const int tokens = tokens_of(chunk);
    copy_wait<kStages == 1 ? 1 : 0>();
    __syncthreads();  // W, Q, U, G and S are there
    const bool more = chunk + 1 < chunks;
    if (kStages > 1 && more) {
      fetch_first(chunk + 1);
      fetch_last(chunk + 1);
      copy_commit();
    }
    const Stage& stage = shared.stages[chunk % kStages];
    const uint32_t w_tile = shared_address(stage.w) + 16 * block_row * kWideRow + wide_rows;
    const uint32_t q_tile = shared_address(stage.q) + 16 * block_row * kWideRow + wide_rows;
    const uint32_t scores_tile =
        shared_address(stage.scores) + 16 * block_row * kSquareRow + square_rows;
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
    const float last = stage.log_decay[tokens - 1];
#pragma unroll
    for (int down = 0; down < 2; ++down) {
      const float log_decay = stage.log_decay[row + 8 * down];
      const float decay = __expf(log_decay), to_end = __expf(fminf(last - log_decay, 0.0f));
#pragma unroll
      for (int n = 0; n < 2; ++n) {
        const int at = (row + 8 * down) * kNarrowRow + (column + 8 * n) * 2;
        const float2 u = unpack_f16(*reinterpret_cast<const uint32_t*>(stage.u + at));
        const float x = u.x - ws[n][2 * down], y = u.y - ws[n][2 * down + 1];
        *reinterpret_cast<uint32_t*>(shared.updated + at) = pack_f16(x, y);
        *reinterpret_cast<uint32_t*>(shared.decayed + at) = pack_f16(x * to_end, y * to_end);
        o[n][2 * down] *= decay;
        o[n][2 * down + 1] *= decay;
      }
    }
    if constexpr (kStages == 1) copy_wait<0>();
    __syncthreads();  // K, scores and U' are there; W, Q, U and S have been read
    if (kStages == 1 && more) {
      fetch_first(chunk + 1);
      copy_commit();
    }

    state.step(__expf(last), stage.k, shared.decayed);
    state.store_tile(shared.state);
#pragma unroll
    for (int k = 0; k < kChunkBlocks; ++k) {
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
    if (kStages == 1 && more) {
      __syncthreads();  // K and scores have been read
      fetch_last(chunk + 1);
      copy_commit();
    }
  }
  state.store(memory, p.key_dim, columns, p.value_dim);
}

}  // namespace

int prepare_delta_scan() {
  int device = 0, available = 0;
  MOE4_CUDA_CHECK(cudaGetDevice(&device));
  MOE4_CUDA_CHECK(
      cudaDeviceGetAttribute(&available, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
  const bool two = available >= static_cast<int>(sizeof(Shared<2>));
  MOE4_CUDA_CHECK(cudaFuncSetAttribute(
      two ? scan_kernel<2> : scan_kernel<1>, cudaFuncAttributeMaxDynamicSharedMemorySize,
      static_cast<int>(two ? sizeof(Shared<2>) : sizeof(Shared<1>))));
  return two ? 2 : 1;
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
  const bool two = call.scan_stages == 2;
  launch(two ? scan_kernel<2> : scan_kernel<1>,
         {.grid = dim3(static_cast<unsigned>(ceil_div(problem.value_dim, int64_t{kScanColumns})),
                       static_cast<unsigned>(problem.num_value_heads),
                       static_cast<unsigned>(prompts.num_seqs - prompts.first)),
          .block = dim3(kChunkThreads),
          .shared_bytes = two ? sizeof(Shared<2>) : sizeof(Shared<1>),
          .stream = call.stream,
          .dependent = call.sm >= 90},
         params);
}

}  // namespace moe4::cuda
