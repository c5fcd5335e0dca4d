// DeltaNet's prompts, third launch: y = norm(o) silu(z); the convolution's inputs for the next
// step, which the chunks have read by now; and no tokens in the ring, since S knows all. A block
// has one chunk of one value head, a warp 8 of its tokens, a lane 4 values.
#include "device/cuda/launch.h"
#include "device/cuda/ptx/launch.cuh"
#include "ops/cuda/chunk_tiles.cuh"
#include "ops/delta_net/cuda/kernels.h"
#include "ops/delta_net/cuda/ring.cuh"

namespace moe4::cuda {
namespace {

constexpr int kRowsPerWarp = kChunkTokens / kChunkWarps;

template <typename In, typename Y>
struct Params {
  RecurrentBatch batch;
  PromptChunks prompts;
  RowsOf<In> qkv, z;
  RowsOf<Y> y;
  DeviceConv conv;
  const float* norm;
  const uint16_t* o;  // [num_value_heads, T, 128]
  int64_t num_tokens;
  DeltaRing ring;
  int heads_per_key, value_dim;
  float norm_eps;
};

template <typename In, typename Y>
__global__ void __launch_bounds__(kChunkThreads, 4) norm_kernel(const Params<In, Y> p) {
  wait_for_previous_kernel();
  launch_dependents();
  const Chunk chunk = find_chunk(p.batch, p.prompts, static_cast<int>(blockIdx.x));
  if (chunk.tokens <= 0) return;
  const int head = static_cast<int>(blockIdx.y);
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const bool wanted = lane * 4 < p.value_dim;
  const int column = head * p.value_dim + lane * 4;
  uint2 stored_o[kRowsPerWarp] = {};
  Stored4<In> stored_z[kRowsPerWarp];
#pragma unroll
  for (int i = 0; i < kRowsPerWarp; ++i) {
    const int t = warp * kRowsPerWarp + i;
    const bool is_here = wanted && t < chunk.tokens;
    const int64_t token = chunk.sequence.first + chunk.begin + (is_here ? t : 0);
    if (is_here) {
      stored_o[i] =
          *reinterpret_cast<const uint2*>(p.o + (head * p.num_tokens + token) * kWide + lane * 4);
    }
    stored_z[i].fetch_if(is_here, p.z.row(token) + column);
  }
  const float4 norm = wanted ? load4(p.norm + lane * 4) : float4{};
#pragma unroll
  for (int i = 0; i < kRowsPerWarp; ++i) {
    const int t = warp * kRowsPerWarp + i;
    const float2 left = unpack_f16(stored_o[i].x), right = unpack_f16(stored_o[i].y);
    float squares = left.x * left.x + left.y * left.y + right.x * right.x + right.y * right.y;
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) {
      squares += __shfl_xor_sync(0xffffffff, squares, offset);
    }
    if (!wanted || t >= chunk.tokens) continue;
    const float factor = rsqrtf(squares / static_cast<float>(p.value_dim) + p.norm_eps);
    const float4 z = stored_z[i].values();
    store4(
        p.y.row(chunk.sequence.first + chunk.begin + t) + column,
        float4{left.x * factor * norm.x * fast_silu(z.x), left.y * factor * norm.y * fast_silu(z.y),
               right.x * factor * norm.z * fast_silu(z.z),
               right.y * factor * norm.w * fast_silu(z.w)});
  }
  if (chunk.begin + chunk.tokens == chunk.sequence.tokens) {
    for (int c = head * kChunkThreads + static_cast<int>(threadIdx.x); c < p.conv.channels;
         c += static_cast<int>(gridDim.y) * kChunkThreads) {
      p.conv.keep_inputs(chunk.sequence, p.qkv, c);
    }
    const int n = p.ring.unknown(chunk.sequence.start + chunk.sequence.tokens);
    const auto clear = [&](float* to, int count) {
      for (int i = static_cast<int>(threadIdx.x); i < count; i += kChunkThreads) to[i] = 0.0f;
    };
    clear(p.ring.values_of(chunk.sequence, head), n * p.value_dim);
    clear(p.ring.decays_of(chunk.sequence, head), n);
    if (head % p.heads_per_key == 0) {
      clear(p.ring.keys_of(chunk.sequence, head / p.heads_per_key), n * p.ring.key_dim);
    }
  }
}

template <typename In, typename Y>
void launch_norm(const DeltaNetCall& call) {
  const DeltaNet::Problem& problem = call.problem;
  const PromptChunks prompts(*call.args.batch);
  const Params<In, Y> params{
      .batch = {*call.args.batch, call.args.cache},
      .prompts = prompts,
      .qkv = RowsOf<In>(call.args.qkv),
      .z = RowsOf<In>(call.args.z),
      .y = RowsOf<Y>(call.args.y),
      .conv = {call.weights.conv, nullptr, static_cast<int>(problem.channels()),
               static_cast<int>(problem.conv_taps)},
      .norm = call.weights.norm,
      .o = call.buffers.u,
      .num_tokens = call.args.batch->num_tokens,
      .ring = DeltaRing(problem),
      .heads_per_key = static_cast<int>(problem.num_value_heads / problem.num_key_heads),
      .value_dim = static_cast<int>(problem.value_dim),
      .norm_eps = problem.norm.eps};
  launch(norm_kernel<In, Y>,
         {.grid = dim3(static_cast<unsigned>(prompts.bound),
                       static_cast<unsigned>(problem.num_value_heads)),
          .block = dim3(kChunkThreads),
          .stream = call.stream,
          .dependent = call.sm >= 90},
         params);
}

}  // namespace

void launch_delta_norm(const DeltaNetCall& call) {
  with_element(call.args.qkv.format, [&](auto in) {
    with_element(call.args.y.format, [&](auto y) { launch_norm<decltype(in), decltype(y)>(call); });
  });
}

}  // namespace moe4::cuda
