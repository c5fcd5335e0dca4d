// The last launch: each token's outputs summed over its slots, weighted, in slot order, in float32.
#include <cuda_bf16.h>

#include "base/checked_math.h"
#include "experts/device/launch.h"
#include "experts/device/memory.cuh"
#include "experts/hopper/hopper_kernels.h"
#include "experts/hopper/pair_output.cuh"

namespace moe4::cuda::hopper {
namespace {

constexpr int kThreads = 256;
constexpr int kSlots = 8;  // loads in flight a thread

struct CombineArgs {
  PackedLayerView layer;
  const uint4* pair_output;
  const int32_t* topk_ids;
  const float* topk_weights;
  int64_t num_tokens;
  __nv_bfloat162* output;
};

// Two neighbouring quads a thread: rows 4j .. 4j+3 and 4j+8 .. 4j+11 of an m16 tile.
__global__ __launch_bounds__(kThreads) void combine_kernel(
    const __grid_constant__ CombineArgs args) {
  launch_dependents();
  wait_for_previous_kernel();
  const PackedLayerView& layer = args.layer;
  const int units = layer.hidden_size / 8;
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const int64_t token = i / units;
  if (token >= args.num_tokens) return;
  const int unit = static_cast<int>(i - token * units);
  float sum[8] = {};
  for (int first = 0; first < layer.top_k; first += kSlots) {
    // Ids and weights of all slots, then all outputs: two waits for memory in all.
    int32_t ids[kSlots];
    float weights[kSlots];
    uint4 quads[kSlots];
#pragma unroll
    for (int s = 0; s < kSlots; ++s) {
      const bool inside = first + s < layer.top_k;
      const int64_t pair = token * layer.top_k + first + s;
      ids[s] = inside ? args.topk_ids[pair] : -1;
      weights[s] = inside && !layer.weight_on_input ? args.topk_weights[pair] : 1.0f;
    }
#pragma unroll
    for (int s = 0; s < kSlots; ++s) {
      quads[s] = make_uint4(0, 0, 0, 0);
      if (layer.local_expert(ids[s]) < 0) {
        weights[s] = 0.0f;
        continue;
      }
      const int64_t pair = token * layer.top_k + first + s;
      quads[s] = load_l2_16(args.pair_output + pair * units + unit);
    }
#pragma unroll
    for (int s = 0; s < kSlots; ++s) {
      if (first + s >= layer.top_k) break;
      add_quad(make_uint2(quads[s].x, quads[s].y), weights[s], sum);
      add_quad(make_uint2(quads[s].z, quads[s].w), weights[s], sum + 4);
    }
  }
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
      .num_tokens = call.num_tokens,
      .output = static_cast<__nv_bfloat162*>(call.output),
  };
  const int64_t threads = call.num_tokens * (call.layer.hidden_size / 8);
  launch(combine_kernel,
         {.grid = dim3(static_cast<unsigned>(ceil_div(threads, kThreads))),
          .block = dim3(kThreads),
          .stream = stream,
          .dependent = true},
         args);
}

}  // namespace moe4::cuda::hopper
