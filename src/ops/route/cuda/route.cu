// Route on NVIDIA GPUs: a warp a token.
//
// With few tokens a warp waits for every step, and most code runs once: a pass over other numbers
// while the kernel before is at work brings it to the instruction cache.
#include "device/cuda/launch.h"
#include "device/cuda/ptx/launch.cuh"
#include "ops/cuda/device_values.h"
#include "ops/cuda/implementation.h"
#include "ops/cuda/row_values.cuh"
#include "ops/route/cuda/cuda_route.h"
#include "ops/route/cuda/route_token.cuh"

namespace moe4 {
namespace {

using namespace cuda;

// Tokens a block at most: what they need of shared memory is below 48 KB.
constexpr int most_warps(int per_lane) { return per_lane <= 16 ? 4 : 2; }
constexpr int64_t kFewTokens = 128;  // a multiprocessor each

template <typename T>
struct Params {
  RowsOf<T> logits;
  int64_t num_tokens, first_row;
  const int32_t* num_rows;  // null: all
  int32_t* topk_ids;
  float* topk_weights;
  RouteRule rule;
  bool few;  // tokens: of their latency
};

template <typename T, int kPerLane, bool kGrouped>
__global__ void __launch_bounds__(32 * most_warps(kPerLane)) route_kernel(const Params<T> p) {
  __shared__ RouteMemory<kPerLane, kGrouped> memory[most_warps(kPerLane)];
  launch_dependents();
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int64_t token = static_cast<int64_t>(blockIdx.x) * (blockDim.x / 32) + warp;
  if (token >= p.num_tokens) return;
  const T* row = p.logits.row(token);

  // A first pass, of other numbers, brings the code.
#pragma unroll 1
  for (int works = p.few ? 0 : 1; works < 2; ++works) {
    float logit[kPerLane], shared_weight = 1.0f;
    bool padding = false;
    int32_t* ids = nullptr;
    float* weights = nullptr;
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) logit[i] = static_cast<float>(lane + 32 * i);
    if (works == 1) {
      wait_for_previous_kernel();
      ids = p.topk_ids + token * p.rule.num_slots;
      weights = p.topk_weights + token * p.rule.num_slots;
      padding = p.num_rows != nullptr && p.first_row + token >= *p.num_rows;
      if (p.rule.shared_gate) shared_weight = sigmoid_of(to_float(row[p.rule.num_experts]));
#pragma unroll
      for (int i = 0; i < kPerLane; ++i) {
        const int expert = lane + 32 * i;
        logit[i] = expert < p.rule.num_experts ? to_float(row[expert]) : -INFINITY;
      }
    }
    route_token(p.rule, logit, shared_weight, padding, memory[warp], ids, weights);
  }
}

constexpr int kGivenWarps = 4;

// Experts that a token's id gives: lane k has the k-th.
template <typename T>
__global__ void __launch_bounds__(32 * kGivenWarps)
    given_kernel(const Params<T> p, const int32_t* token_ids, const int32_t* experts_of_token) {
  wait_for_previous_kernel();
  launch_dependents();
  const int lane = threadIdx.x % 32;
  const int64_t token = int64_t{blockIdx.x} * kGivenWarps + threadIdx.x / 32;
  if (token >= p.num_tokens) return;
  const RouteRule& rule = p.rule;
  const T* row = p.logits.row(token);
  int32_t* ids = p.topk_ids + token * rule.num_slots;
  float* weights = p.topk_weights + token * rule.num_slots;
  const int64_t id = token_ids[token];
  const bool padding = id < 0 || (p.num_rows != nullptr && p.first_row + token >= *p.num_rows);
  bool bad = padding;
  float top = -INFINITY;
  for (int e = lane; e < rule.num_experts; e += 32) {
    bad |= isnan(to_float(row[e]));
    top = fmaxf(top, to_float(row[e]));
  }
  if (__any_sync(kAllLanes, bad)) return write_nothing(rule, padding, ids, weights);
  RouteScore score{rule.scoring, number_of(__reduce_max_sync(kAllLanes, key_of(top))), 1.0f};
  if (rule.scoring == ScoringFunction::kSoftmax) {
    float sum = 0.0f;
    for (int e = lane; e < rule.num_experts; e += 32) sum += expf(to_float(row[e]) - score.top);
    score.sum = warp_sum(sum);
  }
  const bool is_chosen = lane < rule.top_k;
  const int chosen = is_chosen ? experts_of_token[id * rule.top_k + lane] : -1;
  write_chosen(
      rule, score, rule.top_k, chosen, is_chosen ? to_float(row[chosen]) : 0.0f,
      [&] { return rule.shared_gate ? sigmoid_of(to_float(row[rule.num_experts])) : 1.0f; }, ids,
      weights);
}

template <typename T>
Params<T> make_params(const Route::Args& args, const RouteRule& rule) {
  return {.logits = RowsOf<T>(args.logits),
          .num_tokens = args.logits.rows,
          .first_row = args.first_row,
          .num_rows = args.num_rows,
          .topk_ids = args.topk_ids,
          .topk_weights = args.topk_weights,
          .rule = rule,
          .few = args.logits.rows <= kFewTokens};
}

template <typename T, int kPerLane>
void start(const Route::Args& args, const RouteRule& rule, const Stream& stream, bool dependent) {
  const Params<T> params = make_params<T>(args, rule);
  const int warps = params.few ? 1 : most_warps(kPerLane);
  launch(rule.num_groups > 1 ? route_kernel<T, kPerLane, true> : route_kernel<T, kPerLane, false>,
         {.grid = dim3(static_cast<unsigned>(ceil_div(args.logits.rows, warps))),
          .block = dim3(static_cast<unsigned>(32 * warps)),
          .stream = static_cast<cudaStream_t>(stream.handle),
          .dependent = dependent},
         params);
}

}  // namespace

CudaRoute::CudaRoute(const RouterConfig& problem, const Route::Weights& weights,
                     const OpOptions& options)
    : Prepared(problem), dependent_(options.device.sm >= 90) {
  const DeviceGuard guard(options.device.index);
  bias_ = to_device<float>(weights.correction_bias);
  scale_ = to_device<float>(weights.expert_scale);
  bytes_ = static_cast<int64_t>((weights.correction_bias.size() + weights.expert_scale.size()) *
                                sizeof(float));
  if (!problem.by_token) return;
  of_token_ = to_device<int32_t>(weights.experts_of_token);
  bytes_ += problem.top_k * int64_t{sizeof(int32_t)};
}

void CudaRoute::run(const Route::Args& args, std::span<std::byte>, const Stream& stream) const {
  if (args.logits.rows == 0) return;
  with_element(args.logits.format, [&](auto element) {
    using T = decltype(element);
    const RouteRule rule(problem(), bias(), scale());
    if (problem().by_token) {
      const int64_t blocks = ceil_div(args.logits.rows, int64_t{kGivenWarps});
      return launch(given_kernel<T>,
                    {.grid = dim3(static_cast<unsigned>(blocks)),
                     .block = dim3(32 * kGivenWarps),
                     .stream = static_cast<cudaStream_t>(stream.handle),
                     .dependent = dependent_},
                    make_params<T>(args, rule), args.token_ids,
                    static_cast<const int32_t*>(of_token_.get()));
    }
    const int64_t experts = problem().num_experts;
    const auto chosen = experts <= 128   ? start<T, 4>
                        : experts <= 256 ? start<T, 8>
                        : experts <= 512 ? start<T, 16>
                                         : start<T, 32>;
    chosen(args, rule, stream, dependent_);
  });
}

template <>
std::unique_ptr<Prepared<Route>> prepare_on_cuda<Route>(const RouterConfig& problem,
                                                        const Route::Weights& weights,
                                                        const OpOptions& options) {
  return std::make_unique<CudaRoute>(problem, weights, options);
}

}  // namespace moe4
