// The last launch: each token's outputs summed over its slots, weighted, in slot order, in float32.
#include <cuda_bf16.h>

#include <algorithm>

#include "base/checked_math.h"
#include "experts/device/launch.h"
#include "experts/device/memory.cuh"
#include "experts/hopper/hopper_kernels.h"
#include "experts/hopper/pair_output.cuh"

namespace moe4::cuda::hopper {
namespace {

constexpr int kThreads = 256;
constexpr int kBlocksPerSm = 3;
constexpr int kSlots = 8;  // loads in flight a thread

struct CombineArgs {
  PackedLayerView layer;
  const uint4* outputs;
  const int32_t* positions_of_pairs;
  const float* topk_weights;
  uint4* output;
  int num_tokens;
};

__device__ __forceinline__ uint32_t pack_bf16(float low, float high) {
  const __nv_bfloat162 v = __floats2bfloat162_rn(low, high);
  return reinterpret_cast<const uint32_t&>(v);
}

// Keeps the word of this side and swaps the other with lane ^ distance: (a, b) of a lower lane and
// (c, d) of its partner become (a, c) and (b, d).
__device__ __forceinline__ void swap_words(uint32_t& first, uint32_t& second, int distance) {
  const bool upper = threadIdx.x & distance;
  const uint32_t received = __shfl_xor_sync(~0u, upper ? first : second, distance);
  (upper ? first : second) = received;
}

// Two quads of this lane's -> 8 consecutive rows, 16 bytes of the output. One tile: lanes 2j and
// 2j + 1 hold quads 0, 1 and 2, 3 of tile j. Two tiles: lanes 4j .. 4j + 3 hold quad 0 .. 3 of tile
// 2j and of the next.
template <int kTiles>
__device__ __forceinline__ uint4 gather_rows(const float (&sum)[8]) {
  // Rows of quad 0, the rows 8 further, the same of quad 1.
  uint32_t w0 = pack_bf16(sum[0], sum[1]), w1 = pack_bf16(sum[2], sum[3]);
  uint32_t w2 = pack_bf16(sum[4], sum[5]), w3 = pack_bf16(sum[6], sum[7]);
  if constexpr (kTiles == 1) {
    swap_words(w0, w1, 1);
    swap_words(w2, w3, 1);
    return make_uint4(w0, w2, w1, w3);
  } else {
    swap_words(w0, w1, 1);
    swap_words(w2, w3, 1);
    swap_words(w0, w2, 2);
    swap_words(w1, w3, 2);
    return make_uint4(w0, w1, w2, w3);
  }
}

// Read once, so they leave L2 first: what FC2 wrote last is still there when its turn comes.
__device__ __forceinline__ uint64_t read_once_policy() {
  uint64_t policy;
  asm volatile("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
  return policy;
}
/// load_l2_16_if() with a policy.
__device__ __forceinline__ void load_l2_16_if(bool condition, const void* p, uint64_t policy,
                                              uint4& v) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.s32 p, %5, 0;\n"
      "@p ld.global.cg.L2::cache_hint.v4.u32 {%0, %1, %2, %3}, [%4], %6;\n}"
      : "+r"(v.x), "+r"(v.y), "+r"(v.z), "+r"(v.w)
      : "l"(p), "r"(static_cast<int>(condition)), "l"(policy)
      : "memory");
}

// A warp adds 32 units of 16 bytes of a token: 8 slots are on their way together, with the places
// and weights of its next ones. Slots of other devices' experts have no place.
template <int kTiles>
__global__ __launch_bounds__(kThreads, kBlocksPerSm) void combine_kernel(
    const __grid_constant__ CombineArgs args) {
  launch_dependents();
  const PackedLayerView& layer = args.layer;
  const int lane = threadIdx.x % 32;
  const int units = layer.fc2_tiles * 2;  // of a pair
  const int spans = (units + 31) / 32;    // of a token
  const int row_units = layer.hidden_size / 8;
  // One tile: what lies past H nobody wrote.
  const int readable = kTiles == 1 ? row_units : units;
  const int warps = gridDim.x * (kThreads / 32);
  const int token_step = warps / spans, span_step = warps - token_step * spans;
  const int warp = blockIdx.x * (kThreads / 32) + threadIdx.x / 32;
  int token = warp / spans, span = warp - token * spans;
  int32_t position = -1;
  float weight = 0.0f;
  // Lane s gets what slot first + s of the token has.
  const auto load_slots = [&](int of_token, int first) {
    position = -1;
    if (of_token < args.num_tokens && lane < min(kSlots, layer.top_k - first)) {
      const int64_t pair = int64_t{of_token} * layer.top_k + first + lane;
      position = load_l2_4(args.positions_of_pairs + pair);
      weight = layer.weight_on_input ? 1.0f : args.topk_weights[pair];
    }
  };
  // The prologue is done: FC2's CTAs start when all of FC1's have waited for it, and this kernel
  // when all of FC2's have started.
  load_slots(token, 0);
  const uint64_t policy = read_once_policy();
  wait_for_previous_kernel();
  while (token < args.num_tokens) {
    const int unit = span * 32 + lane;
    int next_token = token + token_step, next_span = span + span_step;
    if (next_span >= spans) {
      next_span -= spans;
      ++next_token;
    }
    float sum[8] = {};
    for (int first = 0; first < layer.top_k; first += kSlots) {
      const int32_t positions = position;
      const float weights = weight;
      uint4 quads[kSlots];
#pragma unroll
      for (int s = 0; s < kSlots; ++s) {
        const int32_t from = __shfl_sync(~0u, positions, s);
        quads[s] = make_uint4(0, 0, 0, 0);
        load_l2_16_if(from >= 0 && unit < readable, args.outputs + int64_t{from} * units + unit,
                      policy, quads[s]);
      }
      const bool last = first + kSlots >= layer.top_k;
      load_slots(last ? next_token : token, last ? 0 : first + kSlots);
#pragma unroll
      for (int s = 0; s < kSlots; ++s) {
        if (__shfl_sync(~0u, positions, s) < 0) continue;
        const float w = __shfl_sync(~0u, weights, s);
        add_quad(make_uint2(quads[s].x, quads[s].y), w, sum);
        add_quad(make_uint2(quads[s].z, quads[s].w), w, sum + 4);
      }
    }
    const uint4 words = gather_rows<kTiles>(sum);
    if (unit < row_units) args.output[int64_t{token} * row_units + unit] = words;
    token = next_token;
    span = next_span;
  }
}

}  // namespace

void launch_combine(const Call& call, cudaStream_t stream) {
  const CombineArgs args = {
      .layer = call.layer,
      .outputs = reinterpret_cast<const uint4*>(call.scratch.outputs),
      .positions_of_pairs = call.scratch.positions_of_pairs,
      .topk_weights = call.topk_weights,
      .output = static_cast<uint4*>(call.output),
      .num_tokens = static_cast<int>(call.num_tokens),
  };
  const int64_t spans = (int64_t{call.layer.fc2_tiles} * 2 + 31) / 32;
  const int64_t blocks = ceil_div(call.num_tokens * spans, int64_t{kThreads / 32});
  launch(tiles_of_quads(call.config) == 1 ? combine_kernel<1> : combine_kernel<2>,
         {.grid = dim3(static_cast<unsigned>(
              std::min<int64_t>(blocks, int64_t{kBlocksPerSm} * call.sm_count))),
          .block = dim3(kThreads),
          .stream = stream,
          .dependent = true},
         args);
}

}  // namespace moe4::cuda::hopper
