// The weighted sum over a token's slots, and the weighting of inputs that some models want instead.
#include "device/cuda/launch.h"
#include "device/cuda/ptx/launch.cuh"
#include "ops/experts/marlin/marlin_kernels.h"

namespace moe4::cuda {
namespace {

constexpr int kThreads = 256;

constexpr int kBatch = 8;  // slots whose loads are on their way together

// Which of a token's slots [first, first + kBatch) count, and with what weight.
struct SlotWeights {
  float weight[kBatch];
  bool counts[kBatch];

  __device__ __forceinline__ void load(const MarlinParams& p, int64_t token, int first) {
    const PackedLayerView& layer = p.layer;
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      const int64_t pair = token * layer.top_k + first + i;
      const bool inside = first + i < layer.top_k;
      counts[i] = inside && layer.local_expert(inside ? p.topk_ids[pair] : -1) >= 0;
      weight[i] = inside && !layer.weight_on_input ? p.topk_weights[pair] : 1.0f;
    }
  }
};

// One thread: four consecutive elements of a token's row, slots in order.
__global__ __launch_bounds__(kThreads) void combine_kernel(const __grid_constant__ MarlinParams p) {
  const PackedLayerView& layer = p.layer;
  const int quads = layer.hidden_size / 4;
  const int64_t id = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const int64_t token = id / quads;
  const int h = static_cast<int>(id - token * quads) * 4;
  // As in FC2's prologue: ids and weights are older than FC1, only y has to be waited for.
  SlotWeights slots;
  if (token < p.num_tokens) slots.load(p, token, 0);
  wait_for_previous_kernel();
  launch_dependents();
  if (token >= p.num_tokens) return;
  float4 sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
  for (int first = 0; first < layer.top_k; first += kBatch) {
    if (first > 0) slots.load(p, token, first);
    float4 y[kBatch];
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      const int64_t pair = token * layer.top_k + first + i;
      if (slots.counts[i]) {
        y[i] = *reinterpret_cast<const float4*>(p.y + pair * layer.hidden_size + h);
      }
    }
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      if (!slots.counts[i]) continue;
      sum.x = fmaf(slots.weight[i], y[i].x, sum.x);
      sum.y = fmaf(slots.weight[i], y[i].y, sum.y);
      sum.z = fmaf(slots.weight[i], y[i].z, sum.z);
      sum.w = fmaf(slots.weight[i], y[i].w, sum.w);
    }
  }
  auto* const out = reinterpret_cast<__nv_bfloat162*>(p.out + token * layer.hidden_size + h);
  out[0] = __floats2bfloat162_rn(sum.x, sum.y);
  out[1] = __floats2bfloat162_rn(sum.z, sum.w);
}

__global__ __launch_bounds__(kThreads) void scale_input_kernel(
    const __grid_constant__ MarlinParams p, const __nv_bfloat16* x, __nv_bfloat16* scaled) {
  wait_for_previous_kernel();
  launch_dependents();
  const int64_t hidden = p.layer.hidden_size;
  const int64_t id = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const int64_t pair = id / hidden;
  if (pair >= p.num_pairs) return;
  const float value = __bfloat162float(x[pair / p.layer.top_k * hidden + id % hidden]);
  scaled[id] = __float2bfloat16(value * p.topk_weights[pair]);
}

unsigned blocks_for(int64_t threads) {
  return static_cast<unsigned>((threads + kThreads - 1) / kThreads);
}

}  // namespace

void launch_combine(const MarlinParams& params, cudaStream_t stream, bool dependent) {
  const int64_t threads = int64_t{params.num_tokens} * (params.layer.hidden_size / 4);
  launch(combine_kernel,
         {.grid = dim3(blocks_for(threads)),
          .block = dim3(kThreads),
          .stream = stream,
          .dependent = dependent},
         params);
}

void launch_scale_input(const MarlinParams& params, const __nv_bfloat16* x, __nv_bfloat16* scaled,
                        cudaStream_t stream, bool dependent) {
  const int64_t threads = static_cast<int64_t>(params.num_pairs) * params.layer.hidden_size;
  launch(scale_input_kernel,
         {.grid = dim3(blocks_for(threads)),
          .block = dim3(kThreads),
          .stream = stream,
          .dependent = dependent},
         params, x, scaled);
}

}  // namespace moe4::cuda
