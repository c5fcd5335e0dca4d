// Ssm's prompts, second launch: the state from chunk to chunk, what it gives out, and its gate.
//
// With G_i = sum of the logarithms of decays in the chunk up to token i, D_ij = exp(G_i - G_j) for
// i >= j and 0 else, C the chunk's last token and S the state [state_dim, head_dim] (the chunked
// form of Dao and Gu, 2024):
//   y = diag(exp(G)) C S + ((C B^T) * D) diag(dt) X + d X
//   S <- exp(G_C) S + B^T diag(exp(G_C - G) dt) X
// A block has 32 columns of one head of one sequence and walks along its chunks; 8 warps:
//   C S and y [64, 32]: a warp has 16 tokens and 16 columns
//   S [128, 32]: a warp has 16 rows and all columns, in registers and float32; F16 in shared memory
//     as an operand, divided by 64: states sum over many tokens
// Tiles of the next chunk are fetched while this one is computed, where shared memory holds both
// (140 KB); else (80 KB) as soon as their places have been read.
#include "device/cuda/launch.h"
#include "device/cuda/ptx/launch.cuh"
#include "ops/cuda/chunk_tiles.cuh"
#include "ops/ssm/cuda/kernels.h"

namespace moe4::cuda {
namespace {

constexpr float kStateScale = 1.0f / 64;
constexpr int kScoresStride = kChunkTokens + 8;  // floats: rows of a quarter warp in other banks

template <typename In>
struct Params {
  RecurrentBatch batch;
  PromptChunks prompts;
  RowsOf<In> z;
  SsmBuffers buffers;
  const float* d;
  int64_t num_tokens, memory_offset;
  int inner, heads_per_group, head_dim, state_dim;
};

template <int kStages>
struct Shared {
  struct Stage {
    alignas(16) std::byte c[tile_bytes(kWide)];
    alignas(16) std::byte b[tile_bytes(kWide)];
    alignas(16) std::byte x[tile_bytes(kScanColumns)];
    alignas(16) float scores[kChunkTokens][kScoresStride];  // C B^T
    float dt[kChunkTokens];
  } stages[kStages];
  alignas(16) std::byte inputs[tile_bytes(kScanColumns)];   // dt x
  alignas(16) std::byte decayed[tile_bytes(kScanColumns)];  // exp(G_C - G) dt x
  alignas(16) std::byte state[kWide * kNarrowRow];          // S / 64
  float log_decay[2][kChunkTokens];                         // G of this chunk and of the next
};

__device__ __forceinline__ void fetch_scores(float (&scores)[kChunkTokens][kScoresStride],
                                             const float* rows, int tokens) {
  constexpr int kPieces = kChunkTokens / 4;
#pragma unroll
  for (int i = 0; i < kChunkTokens * kPieces / kChunkThreads; ++i) {
    const int n = i * kChunkThreads + static_cast<int>(threadIdx.x);
    const int row = n / kPieces, piece = n % kPieces;
    if (piece / 4 > row / 16) continue;  // past the diagonal's block: never read
    const bool wanted = row < tokens;
    copy16(shared_address(&scores[row][piece * 4]),
           wanted ? rows + row * kChunkTokens + piece * 4 : rows, wanted ? 16 : 0);
  }
}

template <int kStages, typename In>
__global__ void __launch_bounds__(kChunkThreads, kStages == 1 ? 2 : 1)
    scan_kernel(const Params<In> p) {
  extern __shared__ __align__(16) std::byte shared_memory[];
  using Memory = Shared<kStages>;
  using Stage = typename Memory::Stage;
  Memory& shared = *reinterpret_cast<Memory*>(shared_memory);
  wait_for_previous_kernel();
  launch_dependents();
  const RecurrentSequence sequence =
      p.batch.sequence(p.prompts.first + static_cast<int>(blockIdx.z));
  if (sequence.tokens <= 0) return;
  const int head = static_cast<int>(blockIdx.y), group = head / p.heads_per_group;
  const int first_column = static_cast<int>(blockIdx.x) * kScanColumns;
  const int columns = p.head_dim - first_column;
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int64_t group_row = group * p.num_tokens + sequence.first;
  const int64_t head_row = head * p.num_tokens + sequence.first;
  const int first_channel = head * p.head_dim + first_column;
  const int chunks = (sequence.tokens + kChunkTokens - 1) / kChunkTokens;
  const auto tokens_of = [&](int chunk) {
    return min(kChunkTokens, sequence.tokens - chunk * kChunkTokens);
  };
  // What the first products read, and what the last ones do.
  const auto fetch_first = [&](int chunk) {
    Stage& to = shared.stages[chunk % kStages];
    const int64_t t = int64_t{chunk} * kChunkTokens;
    const int tokens = tokens_of(chunk);
    fetch_tile<kWide>(to.c, p.buffers.c + (group_row + t) * kWide, kWide, tokens);
    fetch_tile<kScanColumns>(to.x, p.buffers.x + (sequence.first + t) * p.inner + first_channel,
                             p.inner, tokens, columns);
    fetch_numbers(shared.log_decay[chunk % 2], p.buffers.decays + head_row + t, tokens);
    fetch_numbers(to.dt, p.buffers.dt + head_row + t, tokens);
  };
  const auto fetch_last = [&](int chunk) {
    Stage& to = shared.stages[chunk % kStages];
    const int64_t t = int64_t{chunk} * kChunkTokens;
    const int tokens = tokens_of(chunk);
    fetch_tile<kWide>(to.b, p.buffers.b + (group_row + t) * kWide, kWide, tokens);
    fetch_scores(to.scores, p.buffers.scores + (group_row + t) * kChunkTokens, tokens);
  };
  fetch_first(0);
  if constexpr (kStages == 1) copy_commit();
  fetch_last(0);
  copy_commit();
  float* const memory = sequence.state + p.memory_offset +
                        static_cast<int64_t>(head) * p.state_dim * p.head_dim + first_column;
  WalkingState state;
  if (!sequence.fresh) state.load(memory, p.state_dim, columns, p.head_dim);
  state.store_tile(shared.state, kStateScale);
  const float d = p.d[head];

  // Of C S and y: tokens row and row + 8, columns column + 8 n and the next.
  const int block_row = warp % kChunkBlocks, left = warp / kChunkBlocks * 16;
  const int row = 16 * block_row + lane / 4, column = left + lane % 4 * 2;
  const uint32_t narrow_rows = tile_by_rows(lane, kNarrowRow);
  const uint32_t state_tile = shared_address(shared.state) + 2 * left + narrow_rows;
  const uint32_t inputs_tile = shared_address(shared.inputs) + 2 * left + narrow_rows;

  for (int chunk = 0; chunk < chunks; ++chunk) {
    const int tokens = tokens_of(chunk);
    const int64_t first_token = sequence.first + int64_t{chunk} * kChunkTokens;
    Stored2<In> z[2][2];
#pragma unroll
    for (int down = 0; down < 2; ++down) {
#pragma unroll
      for (int n = 0; n < 2; ++n) {
        const bool is_here = row + 8 * down < tokens && column + 8 * n < columns;
        z[down][n].fetch_if(is_here, p.z.row(first_token + (is_here ? row + 8 * down : 0)) +
                                         first_channel + (is_here ? column + 8 * n : 0));
      }
    }
    copy_wait<kStages == 1 ? 1 : 0>();
    __syncthreads();  // C, x, G, dt and S are there
    const bool more = chunk + 1 < chunks;
    if (kStages > 1 && more) {
      fetch_first(chunk + 1);
      fetch_last(chunk + 1);
      copy_commit();
    }
    const Stage& stage = shared.stages[chunk % kStages];
    const uint32_t c_tile =
        shared_address(stage.c) + 16 * block_row * kWideRow + tile_by_rows(lane, kWideRow);
    const float* const log_decays = shared.log_decay[chunk % 2];
    float y[2][4] = {};
#pragma unroll
    for (int k = 0; k < kWide / 16; ++k) {
      uint32_t a[4], b[4];
      load_tile(a, c_tile + 32 * k);
      load_tile_transposed(b, state_tile + 16 * k * kNarrowRow);
      multiply_f16(y[0], y[1], a, b);
    }
    // Past the chunk's end x is zero and G counts as zero.
    const float last = log_decays[tokens - 1];
    uint32_t x[2][2];
#pragma unroll
    for (int down = 0; down < 2; ++down) {
      const float log_decay = log_decays[row + 8 * down], dt = stage.dt[row + 8 * down];
      const float decay = __expf(log_decay) / kStateScale;
      const float to_end = __expf(fminf(last - log_decay, 0.0f));
#pragma unroll
      for (int n = 0; n < 2; ++n) {
        const int at = (row + 8 * down) * kNarrowRow + (column + 8 * n) * 2;
        x[down][n] = *reinterpret_cast<const uint32_t*>(stage.x + at);
        const float2 pair = unpack_f16(x[down][n]);
        const float2 in{pair.x * dt, pair.y * dt};
        *reinterpret_cast<uint32_t*>(shared.inputs + at) = pack_f16(in.x, in.y);
        *reinterpret_cast<uint32_t*>(shared.decayed + at) = pack_f16(in.x * to_end, in.y * to_end);
        y[n][2 * down] *= decay;
        y[n][2 * down + 1] *= decay;
      }
    }
    if constexpr (kStages == 1) copy_wait<0>();
    __syncthreads();  // B, C B^T and dt x are there; C, x and S have been read
    if (kStages == 1 && more) {
      fetch_first(chunk + 1);
      copy_commit();
    }

    state.step(__expf(last), stage.b, shared.decayed);
    state.store_tile(shared.state, kStateScale);
#pragma unroll
    for (int k = 0; k < kChunkBlocks; ++k) {
      if (k > block_row) continue;
      uint32_t a[4], b[4];
#pragma unroll
      for (int part = 0; part < 4; ++part) {
        const int i = row + part % 2 * 8, j = 16 * k + part / 2 * 8 + lane % 4 * 2;
        const float2 score = *reinterpret_cast<const float2*>(&stage.scores[i][j]);
        const float g = log_decays[i];
        a[part] = pack_f16(i >= j ? score.x * __expf(g - log_decays[j]) : 0.0f,
                           i > j ? score.y * __expf(g - log_decays[j + 1]) : 0.0f);
      }
      load_tile_transposed(b, inputs_tile + 16 * k * kNarrowRow);
      multiply_f16(y[0], y[1], a, b);
    }
#pragma unroll
    for (int down = 0; down < 2; ++down) {
#pragma unroll
      for (int n = 0; n < 2; ++n) {
        if (row + 8 * down >= tokens || column + 8 * n >= columns) continue;
        const float2 in = unpack_f16(x[down][n]), gate = z[down][n].values();
        *reinterpret_cast<float2*>(p.buffers.gated + (first_token + row + 8 * down) * p.inner +
                                   first_channel + column +
                                   8 * n) = {(y[n][2 * down] + d * in.x) * fast_silu(gate.x),
                                             (y[n][2 * down + 1] + d * in.y) * fast_silu(gate.y)};
      }
    }
    if (kStages == 1 && more) {
      __syncthreads();  // B and C B^T have been read
      fetch_last(chunk + 1);
      copy_commit();
    }
  }
  state.store(memory, p.state_dim, columns, p.head_dim);
}

template <typename In>
void launch_scan(const SsmCall& call) {
  const Ssm::Problem& problem = call.problem;
  const PromptChunks prompts(*call.args.batch);
  const Params<In> params{
      .batch = {*call.args.batch, call.args.cache},
      .prompts = prompts,
      .z = RowsOf<In>(call.args.z),
      .buffers = call.buffers,
      .d = call.weights.d,
      .num_tokens = call.args.batch->num_tokens,
      .memory_offset = problem.memory_offset(),
      .inner = static_cast<int>(problem.inner()),
      .heads_per_group = static_cast<int>(problem.num_heads / problem.num_groups),
      .head_dim = static_cast<int>(problem.head_dim),
      .state_dim = static_cast<int>(problem.state_dim)};
  const bool two = call.scan_stages == 2;
  launch(two ? scan_kernel<2, In> : scan_kernel<1, In>,
         {.grid = dim3(static_cast<unsigned>(ceil_div(problem.head_dim, int64_t{kScanColumns})),
                       static_cast<unsigned>(problem.num_heads),
                       static_cast<unsigned>(prompts.num_seqs - prompts.first)),
          .block = dim3(kChunkThreads),
          .shared_bytes = two ? sizeof(Shared<2>) : sizeof(Shared<1>),
          .stream = call.stream,
          .dependent = call.sm >= 90},
         params);
}

template <typename In>
void allow_shared_memory(bool two) {
  MOE4_CUDA_CHECK(cudaFuncSetAttribute(
      two ? scan_kernel<2, In> : scan_kernel<1, In>, cudaFuncAttributeMaxDynamicSharedMemorySize,
      static_cast<int>(two ? sizeof(Shared<2>) : sizeof(Shared<1>))));
}

}  // namespace

int prepare_ssm_scan() {
  int device = 0, available = 0;
  MOE4_CUDA_CHECK(cudaGetDevice(&device));
  MOE4_CUDA_CHECK(
      cudaDeviceGetAttribute(&available, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
  const bool two = available >= static_cast<int>(sizeof(Shared<2>));
  allow_shared_memory<float>(two);
  allow_shared_memory<__nv_bfloat16>(two);
  return two ? 2 : 1;
}

void launch_ssm_scan(const SsmCall& call) {
  with_element(call.args.z.format, [&](auto in) { launch_scan<decltype(in)>(call); });
}

}  // namespace moe4::cuda
