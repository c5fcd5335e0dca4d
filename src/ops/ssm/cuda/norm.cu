// Ssm's last launch where the norm is one of its own: y = norm(gated) over groups, and the
// convolution's inputs for the next step. A block has 8 tokens of a chunk and one group, a warp one
// of them.
#include "device/cuda/launch.h"
#include "device/cuda/ptx/launch.cuh"
#include "ops/cuda/chunk_tiles.cuh"
#include "ops/ssm/cuda/kernels.h"

namespace moe4::cuda {
namespace {

constexpr int kParts = kChunkTokens / kChunkWarps;  // blocks of a chunk, a token a warp

template <typename In, typename Y>
struct Params {
  RecurrentBatch batch;
  PromptChunks sequences;
  RowsOf<In> u;
  RowsOf<Y> y;
  DeviceConv conv;
  const float *norm, *gated;
  int inner, width;  // of all, of a group
  float norm_eps;
};

template <typename In, typename Y>
__global__ void __launch_bounds__(kChunkThreads) norm_kernel(const Params<In, Y> p) {
  wait_for_previous_kernel();
  launch_dependents();
  const Chunk chunk = find_chunk(p.batch, p.sequences, static_cast<int>(blockIdx.x));
  if (chunk.tokens <= 0) return;
  const int group = static_cast<int>(blockIdx.y);
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int first = group * p.width;
  const int t = static_cast<int>(blockIdx.z) * kChunkWarps + warp;
  if (t < chunk.tokens) {
    const int64_t token = chunk.sequence.first + chunk.begin + t;
    const float* const from = p.gated + token * p.inner + first;
    float squares = 0;
    for (int c = lane * 4; c < p.width; c += 128) {
      const float4 x = load4(from + c);
      squares += x.x * x.x + x.y * x.y + x.z * x.z + x.w * x.w;
    }
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) {
      squares += __shfl_xor_sync(0xffffffff, squares, offset);
    }
    const float factor = rsqrtf(squares / static_cast<float>(p.width) + p.norm_eps);
    for (int c = lane * 4; c < p.width; c += 128) {
      const float4 x = load4(from + c), w = load4(p.norm + first + c);
      store4(p.y.row(token) + first + c, float4{x.x * factor * w.x, x.y * factor * w.y,
                                                x.z * factor * w.z, x.w * factor * w.w});
    }
  }
  if (blockIdx.z == 0 && chunk.begin + chunk.tokens == chunk.sequence.tokens) {
    for (int c = group * kChunkThreads + static_cast<int>(threadIdx.x); c < p.conv.channels;
         c += static_cast<int>(gridDim.y) * kChunkThreads) {
      p.conv.keep_inputs(chunk.sequence, p.u, c);
    }
  }
}

template <typename In, typename Y>
void launch_norm(const SsmCall& call, const PromptChunks& sequences) {
  const Ssm::Problem& problem = call.problem;
  const Params<In, Y> params{
      .batch = {*call.args.batch, call.args.cache},
      .sequences = sequences,
      .u = RowsOf<In>(call.args.u),
      .y = RowsOf<Y>(call.args.y),
      .conv = {call.weights.conv, call.weights.conv_bias, static_cast<int>(problem.channels()),
               static_cast<int>(problem.conv_taps)},
      .norm = call.weights.norm,
      .gated = call.buffers.gated,
      .inner = static_cast<int>(problem.inner()),
      .width = static_cast<int>(problem.inner() / problem.num_groups),
      .norm_eps = problem.norm_eps};
  launch(norm_kernel<In, Y>,
         {.grid = dim3(static_cast<unsigned>(sequences.bound),
                       static_cast<unsigned>(problem.num_groups), kParts),
          .block = dim3(kChunkThreads),
          .stream = call.stream,
          .dependent = call.sm >= 90},
         params);
}

}  // namespace

void launch_ssm_norm(const SsmCall& call, int64_t first, int64_t num_seqs) {
  const PromptChunks sequences(*call.args.batch, first, num_seqs);
  with_element(call.args.u.format, [&](auto in) {
    with_element(call.args.y.format,
                 [&](auto y) { launch_norm<decltype(in), decltype(y)>(call, sequences); });
  });
}

}  // namespace moe4::cuda
