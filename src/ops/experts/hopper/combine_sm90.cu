// The last launch: each token's outputs summed over its slots, weighted, in slot order, in float32.
#include <algorithm>

#include "base/checked_math.h"
#include "device/cuda/divisor.h"
#include "device/cuda/launch.h"
#include "device/cuda/ptx/launch.cuh"
#include "device/cuda/ptx/memory.cuh"
#include "ops/experts/hopper/hopper_kernels.h"
#include "ops/experts/hopper/pack_bf16.cuh"
#include "ops/experts/hopper/pair_output.cuh"

namespace moe4::cuda::hopper {
namespace {

constexpr int kThreads = 256;
constexpr int kBlocksPerSm = 4;
constexpr int kSlots = 8;  // loads in flight a thread
constexpr int kRowUnits = kOutputRowBytes / 16;

struct CombineArgs {
  PackedLayerView layer;
  const uint4* outputs;
  int64_t position_capacity;
  const int32_t* positions_of_pairs;
  const float* topk_weights;
  uint4* output;
  int num_tokens;
  int spans;                  ///< of 32 units, of a token: a warp's work
  Divisor token_of_warp;      ///< `spans`
  int token_step, span_step;  ///< from a warp's work to its next
};

// Keeps the word of this side and swaps the other with lane ^ distance: (a, b) of a lower lane and
// (c, d) of its partner become (a, c) and (b, d).
__device__ __forceinline__ void swap_words(uint32_t& first, uint32_t& second, int distance) {
  const bool upper = threadIdx.x & distance;
  const uint32_t received = __shfl_xor_sync(~0u, upper ? first : second, distance);
  (upper ? first : second) = received;
}

// Two quads of this lane's -> 8 consecutive rows, 16 bytes of the output. Lanes 4j .. 4j + 3 hold
// quads 0 and 1, ... 6 and 7 of 32 rows.
__device__ __forceinline__ uint4 gather_rows(const float (&sum)[8]) {
  uint32_t words[4];  // rows 8i + the lane's two
#pragma unroll
  for (int i = 0; i < 4; ++i) words[i] = pack_bf16(sum[i], sum[4 + i]);
  swap_words(words[0], words[1], 1);
  swap_words(words[2], words[3], 1);
  swap_words(words[0], words[2], 2);
  swap_words(words[1], words[3], 2);
  return make_uint4(words[0], words[1], words[2], words[3]);
}

// A warp adds 32 units of 16 bytes of a token: 8 slots are on their way together, with the places
// and weights of its next ones. Slots of other devices' experts have no place.
__global__ __launch_bounds__(kThreads, kBlocksPerSm) void combine_kernel(
    const __grid_constant__ CombineArgs args) {
  launch_dependents();
  const PackedLayerView& layer = args.layer;
  const int lane = threadIdx.x % 32;
  const int units = layer.fc2_tiles * 2;  // of a pair
  const int row_units = layer.hidden_size / 8;
  const int warp = blockIdx.x * (kThreads / 32) + threadIdx.x / 32;
  int token = static_cast<int>(args.token_of_warp.divide(warp));
  int span = warp - token * args.spans;
  int32_t position = -1;
  float weight = 0.0f;
  // Lane s gets what slot first + s of the token has.
  const auto load_slots = [&](int of_token, int first) {
    position = -1;
    if (of_token < args.num_tokens && lane < min(kSlots, layer.top_k - first)) {
      const int64_t pair = int64_t{of_token} * layer.top_k + first + lane;
      position = load_l2_4(args.positions_of_pairs + pair);
      weight = quad_weight(layer.weight_on_input ? 1.0f : args.topk_weights[pair]);
    }
  };
  // The prologue is done: this kernel starts when all CTAs of the GEMMs have waited for it.
  load_slots(token, 0);
  // Outputs are read once, so they leave L2 first: what FC2 wrote last is still there when its turn
  // comes.
  const uint64_t policy = evict_first_policy();
  wait_for_previous_kernel();
  while (token < args.num_tokens) {
    const int unit = span * 32 + lane;
    const uint4* block = args.outputs + unit / kRowUnits * args.position_capacity * kRowUnits;
    float sum[8] = {};
    for (int first = 0; first < layer.top_k; first += kSlots) {
      const int32_t positions = position;
      const float weights = weight;
      uint4 quads[kSlots];
#pragma unroll
      for (int s = 0; s < kSlots; ++s) {
        const int32_t from = __shfl_sync(~0u, positions, s);
        quads[s] = make_uint4(0, 0, 0, 0);
        load_l2_16_if(from >= 0 && unit < units,
                      block + int64_t{from} * kRowUnits + (unit % kRowUnits ^ (from & 7)), policy,
                      quads[s]);
      }
      // The next place twice, here and below: kept from here on it would not fit the registers.
      const bool last = first + kSlots >= layer.top_k;
      const int next_token =
          token + args.token_step + (span + args.span_step >= args.spans ? 1 : 0);
      load_slots(last ? next_token : token, last ? 0 : first + kSlots);
#pragma unroll
      for (int s = 0; s < kSlots; ++s) {
        if (__shfl_sync(~0u, positions, s) < 0) continue;
        const float w = __shfl_sync(~0u, weights, s);
        add_quad(make_uint2(quads[s].x, quads[s].y), w, sum);
        add_quad(make_uint2(quads[s].z, quads[s].w), w, sum + 4);
      }
    }
    const uint4 words = gather_rows(sum);
    if (unit < row_units) args.output[int64_t{token} * row_units + unit] = words;
    token += args.token_step;
    span += args.span_step;
    if (span >= args.spans) {
      span -= args.spans;
      ++token;
    }
  }
}

// Float32 outputs of few tokens: a thread has four consecutive elements of a token.
__global__ __launch_bounds__(kThreads) void combine_floats_kernel(
    const __grid_constant__ CombineArgs args) {
  launch_dependents();
  const PackedLayerView& layer = args.layer;
  const int fours = layer.hidden_size / 4;
  const int id = blockIdx.x * kThreads + threadIdx.x;
  const int token = id / fours, four = id - token * fours;
  const bool inside = token < args.num_tokens;
  int32_t positions[kSlots];
  float weights[kSlots];
  const auto load_slots = [&](int first) {
#pragma unroll
    for (int s = 0; s < kSlots; ++s) {
      positions[s] = -1;
      if (!inside || first + s >= layer.top_k) continue;
      const int64_t pair = int64_t{token} * layer.top_k + first + s;
      positions[s] = load_l2_4(args.positions_of_pairs + pair);
      weights[s] = layer.weight_on_input ? 1.0f : args.topk_weights[pair];
    }
  };
  load_slots(0);  // of the prologue, as above
  wait_for_previous_kernel();
  if (!inside) return;
  float sum[4] = {};
  for (int first = 0; first < layer.top_k; first += kSlots) {
    if (first > 0) load_slots(first);
    uint4 y[kSlots] = {};
#pragma unroll
    for (int s = 0; s < kSlots; ++s) {
      moe4::cuda::load_l2_16_if(positions[s] >= 0,
                                args.outputs + int64_t{positions[s]} * fours + four, y[s]);
    }
#pragma unroll
    for (int s = 0; s < kSlots; ++s) {
      if (positions[s] < 0) continue;
      sum[0] = fmaf(weights[s], __uint_as_float(y[s].x), sum[0]);
      sum[1] = fmaf(weights[s], __uint_as_float(y[s].y), sum[1]);
      sum[2] = fmaf(weights[s], __uint_as_float(y[s].z), sum[2]);
      sum[3] = fmaf(weights[s], __uint_as_float(y[s].w), sum[3]);
    }
  }
  reinterpret_cast<uint2*>(args.output)[int64_t{token} * fours + four] =
      make_uint2(pack_bf16(sum[0], sum[1]), pack_bf16(sum[2], sum[3]));
}

}  // namespace

void launch_combine(const Call& call, cudaStream_t stream) {
  const int spans = static_cast<int>(ceil_div(int64_t{call.layer.fc2_tiles} * 2, 32));
  constexpr int kWarps = kThreads / 32;
  const auto blocks = static_cast<int>(
      std::min(ceil_div(call.num_tokens * spans, kWarps), int64_t{kBlocksPerSm} * call.sm_count));
  const CombineArgs args = {
      .layer = call.layer,
      .outputs = reinterpret_cast<const uint4*>(call.scratch.outputs),
      .position_capacity = call.scratch.positions,
      .positions_of_pairs = call.scratch.positions_of_pairs,
      .topk_weights = call.topk_weights,
      .output = static_cast<uint4*>(call.output),
      .num_tokens = static_cast<int>(call.num_tokens),
      .spans = spans,
      .token_of_warp = Divisor(spans),
      .token_step = blocks * kWarps / spans,
      .span_step = blocks * kWarps % spans,
  };
  const int64_t fours = call.num_tokens * (call.layer.hidden_size / 4);
  launch(call.runs ? combine_floats_kernel : combine_kernel,
         {.grid = dim3(static_cast<unsigned>(call.runs ? ceil_div(fours, kThreads) : blocks)),
          .block = dim3(kThreads),
          .stream = stream,
          .dependent = true},
         args);
}

}  // namespace moe4::cuda::hopper
