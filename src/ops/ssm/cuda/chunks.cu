// Ssm's prompts, first launch: what every chunk of 64 tokens computes for itself: the convolution,
// steps, decays, and C B^T. A block has one chunk of one group.
#include "device/cuda/launch.h"
#include "device/cuda/ptx/launch.cuh"
#include "ops/cuda/chunk_tiles.cuh"
#include "ops/ssm/cuda/kernels.h"

namespace moe4::cuda {
namespace {

constexpr int kRowsPerWarp = kChunkTokens / kChunkWarps;

template <typename In>
struct Params {
  RecurrentBatch batch;
  PromptChunks prompts;
  RowsOf<In> u, dt;
  DeviceConv conv;
  const float *decay_rate, *dt_bias;
  SsmBuffers out;
  int64_t num_tokens;
  int num_groups, heads_per_group, head_dim, state_dim;
  float time_step_min, time_step_max;
};

struct Shared {
  alignas(16) std::byte b[tile_bytes(kWide)];
  alignas(16) std::byte c[tile_bytes(kWide)];
};

// dt and the sums of logarithms of decays: a warp a head, a lane two tokens.
template <typename In>
__device__ void compute_steps(const Params<In>& p, const Chunk& chunk, int group) {
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  for (int r = warp; r < p.heads_per_group; r += kChunkWarps) {
    const int head = group * p.heads_per_group + r;
    const float rate = p.decay_rate[head], bias = p.dt_bias[head];
    const int64_t first = chunk.sequence.first + chunk.begin;
    float step[2], log_decay[2] = {};
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      step[i] = to_float(p.dt.row(first + min(2 * lane + i, chunk.tokens - 1))[head]);
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      // In this order a NaN stays.
      step[i] = softplus(step[i] + bias);
      step[i] = step[i] < p.time_step_min ? p.time_step_min
                                          : (step[i] > p.time_step_max ? p.time_step_max : step[i]);
      if (2 * lane + i < chunk.tokens) log_decay[i] = bounded_log_decay(rate * step[i]);
    }
    const float2 sums = sums_along_chunk({log_decay[0], log_decay[1]});
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int t = 2 * lane + i;
      if (t >= chunk.tokens) continue;
      p.out.dt[head * p.num_tokens + first + t] = step[i];
      p.out.decays[head * p.num_tokens + first + t] = i == 0 ? sums.x : sums.y;
    }
  }
}

template <typename In>
__global__ void __launch_bounds__(kChunkThreads, 2) chunks_kernel(const Params<In> p) {
  __shared__ Shared shared;
  wait_for_previous_kernel();
  launch_dependents();
  const Chunk chunk = find_chunk(p.batch, p.prompts, static_cast<int>(blockIdx.x));
  if (chunk.tokens <= 0) return;
  const int group = static_cast<int>(blockIdx.y);
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int width = p.heads_per_group * p.head_dim, inner = p.num_groups * width;
  const int64_t first_token = chunk.sequence.first + chunk.begin;

  compute_steps(p, chunk, group);
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    std::byte* const tile = i == 0 ? shared.b : shared.c;
    convolve_rows<kRowsPerWarp>(
        p.conv, p.u, chunk, inner + (i * p.num_groups + group) * p.state_dim,
        lane * 4 < p.state_dim, warp * kRowsPerWarp, [&](int row, float4 y) {
          *reinterpret_cast<uint2*>(tile + row * kWideRow + lane * 8) = pack_f16(y);
        });
  }
  for (int strip = 0; strip < width; strip += kWide) {
    const bool wanted = strip + lane * 4 < width;
    const int channel = group * width + strip;
    convolve_rows<kRowsPerWarp>(
        p.conv, p.u, chunk, channel, wanted, warp * kRowsPerWarp, [&](int row, float4 y) {
          if (!wanted || row >= chunk.tokens) return;
          *reinterpret_cast<uint2*>(p.out.x + (first_token + row) * inner + channel + lane * 4) =
              pack_f16(y);
        });
  }
  __syncthreads();
  const int64_t row_of_group = group * p.num_tokens + first_token;
  store_wide(shared.b, p.out.b + row_of_group * kWide, chunk.tokens);
  store_wide(shared.c, p.out.c + row_of_group * kWide, chunk.tokens);

  // Block row warp % 4; block columns 2 (warp / 4) and the next, where not past the diagonal.
  const int block_row = warp % kChunkBlocks, block_column = warp / kChunkBlocks * 2;
  if (block_column > block_row) return;
  float scores[2][2][4] = {};
  const uint32_t c = shared_address(shared.c) + tile_by_rows(lane, kWideRow);
  const uint32_t b = shared_address(shared.b) + tile_by_columns(lane, kWideRow);
#pragma unroll
  for (int i = 0; i < kWide / 16; ++i) {
    uint32_t left[4];
    load_tile(left, c + 16 * block_row * kWideRow + 32 * i);
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      if (block_column + n > block_row) continue;
      uint32_t right[4];
      load_tile(right, b + 16 * (block_column + n) * kWideRow + 32 * i);
      multiply_f16(scores[n][0], scores[n][1], left, right);
    }
  }
#pragma unroll
  for (int n = 0; n < 2; ++n) {
    if (block_column + n > block_row) continue;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll
      for (int down = 0; down < 2; ++down) {
        const int row = 16 * block_row + lane / 4 + 8 * down;
        const int column = 16 * (block_column + n) + 8 * half + lane % 4 * 2;
        if (row >= chunk.tokens) continue;
        *reinterpret_cast<float2*>(p.out.scores + (row_of_group + row) * kChunkTokens + column) = {
            scores[n][half][2 * down], scores[n][half][2 * down + 1]};
      }
    }
  }
}

template <typename In>
void launch_chunks(const SsmCall& call) {
  const Ssm::Problem& problem = call.problem;
  const PromptChunks prompts(*call.args.batch);
  const Params<In> params{
      .batch = {*call.args.batch, call.args.cache},
      .prompts = prompts,
      .u = RowsOf<In>(call.args.u),
      .dt = RowsOf<In>(call.args.dt),
      .conv = {call.weights.conv, call.weights.conv_bias, static_cast<int>(problem.channels()),
               static_cast<int>(problem.conv_taps)},
      .decay_rate = call.weights.decay_rate,
      .dt_bias = call.weights.dt_bias,
      .out = call.buffers,
      .num_tokens = call.args.batch->num_tokens,
      .num_groups = static_cast<int>(problem.num_groups),
      .heads_per_group = static_cast<int>(problem.num_heads / problem.num_groups),
      .head_dim = static_cast<int>(problem.head_dim),
      .state_dim = static_cast<int>(problem.state_dim),
      .time_step_min = problem.time_step_min,
      .time_step_max = problem.time_step_max};
  launch(chunks_kernel<In>,
         {.grid =
              dim3(static_cast<unsigned>(prompts.bound), static_cast<unsigned>(problem.num_groups)),
          .block = dim3(kChunkThreads),
          .stream = call.stream,
          .dependent = call.sm >= 90},
         params);
}

}  // namespace

void launch_ssm_chunks(const SsmCall& call) {
  with_element(call.args.u.format, [&](auto in) { launch_chunks<decltype(in)>(call); });
}

}  // namespace moe4::cuda
