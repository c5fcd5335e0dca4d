// The last launch: each token's outputs summed over its slots, weighted, in slot order, in float32.
#include <cuda_bf16.h>

#include "base/checked_math.h"
#include "experts/device/launch.h"
#include "experts/device/memory.cuh"
#include "experts/hopper/hopper_kernels.h"
#include "experts/hopper/pair_output.cuh"

namespace moe4::cuda::hopper {
namespace {

constexpr int kThreads = 128;
constexpr int kSlots = 8;  // loads in flight a thread

struct CombineArgs {
  PackedLayerView layer;
  const uint4* pair_output;
  const int32_t* topk_ids;
  const float* topk_weights;
  __nv_bfloat162* output;
};

// A block adds a token's slots, two neighbouring quads a thread: rows 4j .. 4j+3 and 4j+8 .. 4j+11
// of an m16 tile. All outputs are asked for before anything is known of the slots: one wait for
// memory in all. Slots of other devices hold what the workspace held; they are left out.
__global__ __launch_bounds__(kThreads,
                             8) void combine_kernel(const __grid_constant__ CombineArgs args) {
  __shared__ float weights[kSlots];
  __shared__ bool used[kSlots];
  launch_dependents();
  wait_for_previous_kernel();
  const PackedLayerView& layer = args.layer;
  const int64_t token = blockIdx.x;
  const int units = layer.hidden_size / 8;
  const int unit = blockIdx.y * kThreads + threadIdx.x;
  float sum[8] = {};
  for (int first = 0; first < layer.top_k; first += kSlots) {
    const int64_t pair = token * layer.top_k + first;
    const int slots = min(kSlots, layer.top_k - first);
    uint4 quads[kSlots];
#pragma unroll
    for (int s = 0; s < kSlots; ++s) {
      if (s < slots && unit < units) {
        quads[s] = load_l2_16(args.pair_output + (pair + s) * units + unit);
      }
    }
    const int slot = threadIdx.x;
    if (slot < slots) {
      used[slot] = layer.local_expert(args.topk_ids[pair + slot]) >= 0;
      weights[slot] = layer.weight_on_input ? 1.0f : args.topk_weights[pair + slot];
    }
    __syncthreads();
#pragma unroll
    for (int s = 0; s < kSlots; ++s) {
      if (s >= slots || !used[s]) continue;
      add_quad(make_uint2(quads[s].x, quads[s].y), weights[s], sum);
      add_quad(make_uint2(quads[s].z, quads[s].w), weights[s], sum + 4);
    }
    __syncthreads();
  }
  if (unit >= units) return;
  // sum: rows 0, 1, 8, 9, 2, 3, 10, 11 of the four-row group.
  const int row = unit / 2 * 16 + unit % 2 * 4;
  __nv_bfloat162* out = args.output + (token * layer.hidden_size + row) / 2;
  out[0] = __floats2bfloat162_rn(sum[0], sum[1]);
  out[1] = __floats2bfloat162_rn(sum[4], sum[5]);
  out[4] = __floats2bfloat162_rn(sum[2], sum[3]);
  out[5] = __floats2bfloat162_rn(sum[6], sum[7]);
}

}  // namespace

void launch_combine(const Call& call, cudaStream_t stream) {
  const CombineArgs args = {
      .layer = call.layer,
      .pair_output = reinterpret_cast<const uint4*>(call.scratch.pair_output),
      .topk_ids = call.topk_ids,
      .topk_weights = call.topk_weights,
      .output = static_cast<__nv_bfloat162*>(call.output),
  };
  const int64_t units = call.layer.hidden_size / 8;
  launch(combine_kernel,
         {.grid = dim3(static_cast<unsigned>(call.num_tokens),
                       static_cast<unsigned>(ceil_div(units, kThreads))),
          .block = dim3(kThreads),
          .stream = stream,
          .dependent = true},
         args);
}

}  // namespace moe4::cuda::hopper
