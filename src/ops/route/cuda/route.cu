// Route on NVIDIA GPUs: a warp a token.
//
// Lane l keeps the experts l, l + 32, ... in registers: their score (the weight of one that is
// chosen) and a 32-bit key that orders them for the choice; a key of 0 is an expert out of the
// race. No rounds, each of which would wait for the one before: the top_k-th largest of the lanes'
// best keys bounds the chosen from below, the few experts from there on go to shared memory in
// order of id, and each counts how many of them go before it. That is its slot. Sums that the CPU
// takes in the order of the choice are taken in that order here.
//
// With few tokens a warp waits for every step, and most code runs once: a pass over other numbers
// while the kernel before is at work brings it to the instruction cache.
//
// Groups are few and only some models have them: their two best keys are looked for by one lane a
// group, through shared memory.
#include "device/cuda/device_buffer.h"
#include "device/cuda/divisor.h"
#include "device/cuda/launch.h"
#include "device/cuda/ptx/launch.cuh"
#include "ops/cuda/device_values.h"
#include "ops/cuda/implementation.h"
#include "ops/cuda/row_values.cuh"
#include "ops/route/route.h"

namespace moe4 {
namespace {

using namespace cuda;

constexpr unsigned kAll = 0xffffffff;
// Tokens a block at most: what they need of shared memory is below 48 KB.
constexpr int most_warps(int per_lane) { return per_lane <= 16 ? 4 : 2; }
constexpr int64_t kFewTokens = 128;  // a multiprocessor each

template <typename T>
struct Params {
  RowsOf<T> logits;
  int64_t num_tokens;
  const int32_t* num_rows;  // null: all
  int32_t* topk_ids;
  float* topk_weights;
  const float* bias;   // null: none
  const float* scale;  // null: none
  ScoringFunction scoring;
  bool renormalize;
  float scaling_factor;
  int num_experts, top_k, num_slots, num_groups, topk_groups, per_group;
  bool shared_gate;
  Divisor by_group;  // of an expert's id: its group
  bool few;          // tokens: of their latency
};

// Larger numbers have larger keys; both zeros the same; none is 0.
__device__ __forceinline__ uint32_t key_of(float x) {
  const uint32_t bits = __float_as_uint(x + 0.0f);
  return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
}

__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) x += __shfl_xor_sync(kAll, x, offset);
  return x;
}
__device__ __forceinline__ float warp_max(float x) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) x = fmaxf(x, __shfl_xor_sync(kAll, x, offset));
  return x;
}

// Which groups stay: `stays`[g], from `selection` [num_experts], both of this warp alone.
template <typename T>
__device__ void choose_groups(const Params<T>& p, const float* selection, float* scores,
                              bool* stays) {
  const int lane = threadIdx.x % 32;
  __syncwarp();
  for (int g = lane; g < p.num_groups; g += 32) {
    float first = -INFINITY, second = -INFINITY;
    for (int n = 0, i = g % p.per_group; n < p.per_group; ++n) {  // lanes begin at other banks
      const float x = selection[g * p.per_group + i];
      if (x > first) {
        second = first;
        first = x;
      } else if (x > second) {
        second = x;
      }
      i = i + 1 == p.per_group ? 0 : i + 1;
    }
    scores[g] = p.per_group > 1 ? first + second : first;
  }
  __syncwarp();
  for (int g = lane; g < p.num_groups; g += 32) {
    int better = 0;
    for (int other = 0; other < p.num_groups; ++other) {
      better += scores[other] > scores[g] || (scores[other] == scores[g] && other < g) ? 1 : 0;
    }
    stays[g] = better < p.topk_groups;
  }
  __syncwarp();
}

// What groups need of shared memory, a warp: nothing where there are none.
template <int kExperts, bool kGrouped>
struct GroupMemory {
  float selection[kExperts];
  float scores[kExperts];
  bool stays[kExperts];
};
template <int kExperts>
struct GroupMemory<kExperts, false> {};

// The candidates of a warp in order of id, and the chosen in their order.
template <int kExperts>
struct Candidates {
  alignas(16) uint32_t keys[kExperts + 4];
  float scores[kExperts];
  uint16_t ids[kExperts];
  float chosen_scores[32];
  int chosen[32];
};

// Slot s of `c` gets the one with the s-th largest key, of equal ones the lower id first; keys of 0
// get none. The number of slots that have one.
template <int kPerLane>
__device__ __forceinline__ int choose(const uint32_t (&key)[kPerLane],
                                      const float (&score)[kPerLane], int top_k,
                                      Candidates<32 * kPerLane>& c) {
  const int lane = threadIdx.x % 32;
  uint32_t best = key[0];
#pragma unroll
  for (int i = 1; i < kPerLane; ++i) best = max(best, key[i]);
  int better = 0;  // lanes
#pragma unroll
  for (int other = 0; other < 32; ++other) {
    better += __shfl_sync(kAll, best, other) > best ? 1 : 0;
  }
  uint32_t least = 1;
  if (__popc(__ballot_sync(kAll, best != 0)) >= top_k) {
    least = __reduce_min_sync(kAll, better < top_k ? best : kAll);
  }
  int count = 0;
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) {
    const bool is = key[i] >= least;
    const unsigned mask = __ballot_sync(kAll, is);
    if (is) {
      const int at = count + __popc(mask & ((1u << lane) - 1));
      c.keys[at] = key[i];
      c.scores[at] = score[i];
      c.ids[at] = static_cast<uint16_t>(lane + 32 * i);
    }
    count += __popc(mask);
  }
  if (lane < 4) c.keys[count + lane] = 0;
  __syncwarp();
#pragma unroll 1
  for (int at = lane; at < count; at += 32) {
    const uint32_t own = c.keys[at];
    int slot = 0;
#pragma unroll 2
    for (int first = 0; first < count; first += 4) {
      const uint4 k = *reinterpret_cast<const uint4*>(c.keys + first);
      slot += k.x > own || (k.x == own && first < at) ? 1 : 0;
      slot += k.y > own || (k.y == own && first + 1 < at) ? 1 : 0;
      slot += k.z > own || (k.z == own && first + 2 < at) ? 1 : 0;
      slot += k.w > own || (k.w == own && first + 3 < at) ? 1 : 0;
    }
    if (slot < top_k) {
      c.chosen[slot] = c.ids[at];
      c.chosen_scores[slot] = c.scores[at];
    }
  }
  __syncwarp();
  return min(count, top_k);
}

template <typename T, int kPerLane, bool kGrouped>
__global__ void __launch_bounds__(32 * most_warps(kPerLane)) route_kernel(const Params<T> p) {
  constexpr int kWarps = most_warps(kPerLane);
  __shared__ GroupMemory<32 * kPerLane, kGrouped> group_memory[kWarps];
  __shared__ Candidates<32 * kPerLane> all_candidates[kWarps];
  launch_dependents();
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int64_t token = static_cast<int64_t>(blockIdx.x) * (blockDim.x / 32) + warp;
  if (token >= p.num_tokens) return;
  const T* row = p.logits.row(token);
  Candidates<32 * kPerLane>& candidates = all_candidates[warp];

  // A first pass, of other numbers, brings the code.
#pragma unroll 1
  for (int works = p.few ? 0 : 1; works < 2; ++works) {
    float score[kPerLane];  // the logits at first
    float top = -INFINITY, shared_weight = 1.0f;
    bool padding = false;
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) score[i] = static_cast<float>(lane + 32 * i);
    if (works == 1) {
      wait_for_previous_kernel();
      padding = p.num_rows != nullptr && token >= *p.num_rows;
      if (p.shared_gate) shared_weight = 1.0f / (1.0f + expf(-to_float(row[p.num_experts])));
#pragma unroll
      for (int i = 0; i < kPerLane; ++i) {
        const int expert = lane + 32 * i;
        score[i] = expert < p.num_experts ? to_float(row[expert]) : -INFINITY;
      }
    }
    bool bad = padding;
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) {
      bad |= isnan(score[i]);
      top = fmaxf(top, score[i]);
    }
    if (__any_sync(kAll, bad)) {
      if (lane < p.num_slots) {
        const bool nan = lane == 0 && !padding;
        p.topk_ids[token * p.num_slots + lane] = nan ? 0 : -1;
        p.topk_weights[token * p.num_slots + lane] = nan ? NAN : 0.0f;
      }
      return;
    }
    top = warp_max(top);

    // Scores can round to equal numbers where logits differ, so the choice goes by logits where it
    // can.
    const bool by_score = p.bias != nullptr || (kGrouped && p.scoring == ScoringFunction::kSigmoid);
    float selection[kPerLane];
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) selection[i] = score[i];
    if (p.scoring == ScoringFunction::kSoftmax) {
      float sum = 0.0f;
#pragma unroll
      for (int i = 0; i < kPerLane; ++i) {
        score[i] = expf(score[i] - top);
        sum += lane + 32 * i < p.num_experts ? score[i] : 0.0f;
      }
      sum = warp_sum(sum);
#pragma unroll
      for (int i = 0; i < kPerLane; ++i) score[i] /= sum;
    } else if (p.scoring == ScoringFunction::kSigmoid) {
#pragma unroll
      for (int i = 0; i < kPerLane; ++i) score[i] = 1.0f / (1.0f + expf(-score[i]));
    }
    uint32_t key[kPerLane];
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) {
      const int expert = lane + 32 * i;
      const bool exists = expert < p.num_experts;
      if (by_score) {
        selection[i] = score[i] + (p.bias != nullptr && exists ? p.bias[expert] : 0.0f);
      }
      key[i] = exists ? key_of(selection[i]) : 0;
    }
    if constexpr (kGrouped) {
      auto& groups = group_memory[warp];
#pragma unroll
      for (int i = 0; i < kPerLane; ++i) groups.selection[lane + 32 * i] = selection[i];
      choose_groups(p, groups.selection, groups.scores, groups.stays);
#pragma unroll
      for (int i = 0; i < kPerLane; ++i) {
        const int expert = lane + 32 * i;
        if (expert < p.num_experts && !groups.stays[p.by_group.divide(expert)]) key[i] = 0;
      }
    }
    const int count = choose(key, score, p.top_k, candidates);

    int chosen = lane < count ? candidates.chosen[lane] : -1;
    float weight = lane < count ? candidates.chosen_scores[lane] : 0.0f;
    if (p.scoring == ScoringFunction::kSoftmaxOverSelected) {
      weight = chosen >= 0 ? expf(weight - top) : 0.0f;
      weight /= warp_sum(weight);
    } else if (p.renormalize) {
      float sum = 0.0f;
#pragma unroll 4
      for (int k = 0; k < count; ++k) sum += candidates.chosen_scores[k];
      // Sigmoid scores can all underflow.
      if (p.scoring == ScoringFunction::kSigmoid) sum += 1e-20f;
      weight /= sum;
    }
    weight *= p.scaling_factor;
    if (p.scale != nullptr && chosen >= 0) weight *= p.scale[chosen];
    if (lane >= p.top_k) {
      chosen = p.num_experts + lane - p.top_k;
      weight = shared_weight;
    }
    if (works == 1 && lane < p.num_slots) {
      p.topk_ids[token * p.num_slots + lane] = chosen;
      p.topk_weights[token * p.num_slots + lane] = weight;
    }
  }
}

class CudaRoute final : public Prepared<Route> {
 public:
  CudaRoute(const RouterConfig& problem, const Route::Weights& weights, const OpOptions& options)
      : Prepared(problem), dependent_(options.device.sm >= 90) {
    const DeviceGuard guard(options.device.index);
    bias_ = to_device<float>(weights.correction_bias);
    scale_ = to_device<float>(weights.expert_scale);
    bytes_ = static_cast<int64_t>((weights.correction_bias.size() + weights.expert_scale.size()) *
                                  sizeof(float));
  }

  size_t workspace_size(const Route::Args&) const override { return 0; }
  BatchInvariance batch_invariant() const override { return BatchInvariance::kFull; }
  int64_t weight_bytes() const override { return bytes_; }

  void run(const Route::Args& args, std::span<std::byte>, const Stream& stream) const override {
    if (args.logits.rows == 0) return;
    with_element(args.logits.format, [&](auto element) {
      using T = decltype(element);
      if (problem().num_experts <= 128) {
        start<T, 4>(args, stream);
      } else if (problem().num_experts <= 256) {
        start<T, 8>(args, stream);
      } else if (problem().num_experts <= 512) {
        start<T, 16>(args, stream);
      } else {
        start<T, 32>(args, stream);
      }
    });
  }

 private:
  template <typename T, int kPerLane>
  void start(const Route::Args& args, const Stream& stream) const {
    const RouterConfig& config = problem();
    const Params<T> params{.logits = RowsOf<T>(args.logits),
                           .num_tokens = args.logits.rows,
                           .num_rows = args.num_rows,
                           .topk_ids = args.topk_ids,
                           .topk_weights = args.topk_weights,
                           .bias = bias_.get(),
                           .scale = scale_.get(),
                           .scoring = config.scoring,
                           .renormalize = config.renormalize,
                           .scaling_factor = config.scaling_factor,
                           .num_experts = static_cast<int>(config.num_experts),
                           .top_k = static_cast<int>(config.top_k),
                           .num_slots = static_cast<int>(config.num_slots()),
                           .num_groups = static_cast<int>(config.num_groups),
                           .topk_groups = static_cast<int>(config.topk_groups),
                           .per_group = static_cast<int>(config.num_experts / config.num_groups),
                           .shared_gate = config.shared_gate,
                           .by_group = Divisor(config.num_experts / config.num_groups),
                           .few = args.logits.rows <= kFewTokens};
    const int warps = params.few ? 1 : most_warps(kPerLane);
    launch(
        config.num_groups > 1 ? route_kernel<T, kPerLane, true> : route_kernel<T, kPerLane, false>,
        {.grid = dim3(static_cast<unsigned>(ceil_div(args.logits.rows, warps))),
         .block = dim3(static_cast<unsigned>(32 * warps)),
         .stream = static_cast<cudaStream_t>(stream.handle),
         .dependent = dependent_},
        params);
  }

  DeviceArray<float> bias_, scale_;
  int64_t bytes_ = 0;
  bool dependent_;
};

}  // namespace

template <>
std::unique_ptr<Prepared<Route>> prepare_on_cuda<Route>(const RouterConfig& problem,
                                                        const Route::Weights& weights,
                                                        const OpOptions& options) {
  return std::make_unique<CudaRoute>(problem, weights, options);
}

}  // namespace moe4
