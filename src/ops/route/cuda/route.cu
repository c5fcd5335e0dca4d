// Route on NVIDIA GPUs: a warp a token.
//
// Lane l keeps the experts l, l + 32, ... in registers: their score (the weight of one that is
// chosen) and a 32-bit key that orders them for the choice. Each of the top_k rounds takes the
// largest key of the warp, and of equal ones the lowest id; a key of 0 is an expert out of the
// race. Round k's result stays in lane k. Sums that the CPU takes in the order of the choice are
// taken in that order here.
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

constexpr int kWarps = 4;  // tokens a block
constexpr unsigned kAll = 0xffffffff;

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
  int num_experts, top_k, num_groups, topk_groups, per_group;
  Divisor by_group;  // of an expert's id: its group
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

// What groups need of shared memory: nothing where there are none.
template <int kExperts, bool kGrouped>
struct GroupMemory {
  float selection[kWarps][kExperts];
  float scores[kWarps][kExperts];
  bool stays[kWarps][kExperts];
};
template <int kExperts>
struct GroupMemory<kExperts, false> {};

template <typename T, int kPerLane, bool kGrouped>
__global__ void __launch_bounds__(kWarps * 32) route_kernel(const Params<T> p) {
  __shared__ GroupMemory<32 * kPerLane, kGrouped> groups;
  wait_for_previous_kernel();
  launch_dependents();
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int64_t token = static_cast<int64_t>(blockIdx.x) * kWarps + warp;
  if (token >= p.num_tokens) return;
  const T* row = p.logits.row(token);

  float score[kPerLane];  // the logits at first
  float top = -INFINITY;
  const bool padding = p.num_rows != nullptr && token >= *p.num_rows;
  bool bad = padding;
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) {
    const int expert = lane + 32 * i;
    score[i] = expert < p.num_experts ? to_float(row[expert]) : -INFINITY;
    bad |= isnan(score[i]);
    top = fmaxf(top, score[i]);
  }
  if (__any_sync(kAll, bad)) {
    if (lane < p.top_k) {
      const bool nan = lane == 0 && !padding;
      p.topk_ids[token * p.top_k + lane] = nan ? 0 : -1;
      p.topk_weights[token * p.top_k + lane] = nan ? NAN : 0.0f;
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
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) groups.selection[warp][lane + 32 * i] = selection[i];
    choose_groups(p, groups.selection[warp], groups.scores[warp], groups.stays[warp]);
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) {
      const int expert = lane + 32 * i;
      if (expert < p.num_experts && !groups.stays[warp][p.by_group.divide(expert)]) key[i] = 0;
    }
  }

  int chosen = -1;      // of round `lane`
  float weight = 0.0f;  // its own
  float sum = 0.0f;
  for (int k = 0; k < p.top_k; ++k) {
    uint32_t best_key = 0, best = 0;
    float best_score = 0.0f;
#pragma unroll
    for (int i = kPerLane - 1; i >= 0; --i) {
      if (key[i] < best_key) continue;
      best_key = key[i];
      best = lane + 32 * i;
      best_score = score[i];
    }
    const uint32_t most = __reduce_max_sync(kAll, best_key);
    if (most == 0) break;  // fewer candidates than top_k
    const uint32_t id = __reduce_min_sync(kAll, best_key == most ? best : kAll);
    const float its_score = __shfl_sync(kAll, best_score, id % 32);
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) {
      if (lane + 32 * i == static_cast<int>(id)) key[i] = 0;
    }
    sum += its_score;
    if (lane == k) {
      chosen = static_cast<int>(id);
      weight = its_score;
    }
  }
  if (p.scoring == ScoringFunction::kSoftmaxOverSelected) {
    weight = chosen >= 0 ? expf(weight - top) : 0.0f;
    weight /= warp_sum(weight);
  } else if (p.renormalize) {
    // Sigmoid scores can all underflow.
    if (p.scoring == ScoringFunction::kSigmoid) sum += 1e-20f;
    weight /= sum;
  }
  weight *= p.scaling_factor;
  if (p.scale != nullptr && chosen >= 0) weight *= p.scale[chosen];
  if (lane < p.top_k) {
    p.topk_ids[token * p.top_k + lane] = chosen;
    p.topk_weights[token * p.top_k + lane] = weight;
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
                           .num_groups = static_cast<int>(config.num_groups),
                           .topk_groups = static_cast<int>(config.topk_groups),
                           .per_group = static_cast<int>(config.num_experts / config.num_groups),
                           .by_group = Divisor(config.num_experts / config.num_groups)};
    launch(
        config.num_groups > 1 ? route_kernel<T, kPerLane, true> : route_kernel<T, kPerLane, false>,
        {.grid = dim3(static_cast<unsigned>(ceil_div(args.logits.rows, kWarps))),
         .block = dim3(kWarps * 32),
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
