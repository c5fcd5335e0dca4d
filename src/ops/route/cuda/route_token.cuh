// The choice of a token's experts by a warp, for all kernels that make it: they give the same bits.
//
// Lane l keeps the experts l, l + 32, ... in registers: their logit and a 32-bit key that orders
// them for the choice; a key of 0 is an expert out of the race. No rounds, each of which would wait
// for the one before: the top_k-th largest of the lanes' best keys bounds the chosen from below,
// the few experts from there on go to shared memory in order of id, and each counts how many of
// them go before it. That is its slot. Sums that the CPU takes in the order of the choice are taken
// in that order here. Scores are made of all experts only where the choice goes by them.
//
// Groups are few and only some models have them: their two best keys are looked for by one lane a
// group, through shared memory.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "device/cuda/divisor.h"
#include "moe/routing.h"

namespace moe4::cuda {

inline constexpr unsigned kAllLanes = 0xffffffff;

/// A RouterConfig as kernels take it.
struct RouteRule {
  const float* bias = nullptr;   ///< [num_experts]; null: none
  const float* scale = nullptr;  ///< [num_experts]; null: none
  ScoringFunction scoring = ScoringFunction::kSoftmax;
  bool renormalize = true;
  float scaling_factor = 1.0f;
  int num_experts = 0, top_k = 0, num_slots = 0, num_groups = 1, topk_groups = 1, per_group = 0;
  bool shared_gate = false;
  Divisor by_group;  ///< of an expert's id: its group

  RouteRule() = default;
  RouteRule(const RouterConfig& config, const float* bias, const float* scale)
      : bias(bias),
        scale(scale),
        scoring(config.scoring),
        renormalize(config.renormalize),
        scaling_factor(config.scaling_factor),
        num_experts(static_cast<int>(config.num_experts)),
        top_k(static_cast<int>(config.top_k)),
        num_slots(static_cast<int>(config.num_slots())),
        num_groups(static_cast<int>(config.num_groups)),
        topk_groups(static_cast<int>(config.topk_groups)),
        per_group(static_cast<int>(config.num_experts / config.num_groups)),
        shared_gate(config.shared_gate),
        by_group(config.num_experts / config.num_groups) {}
};

/// Larger numbers have larger keys; both zeros the same; none is 0.
__device__ __forceinline__ uint32_t key_of(float x) {
  const uint32_t bits = __float_as_uint(x + 0.0f);
  return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
}

/// The number of a key.
__device__ __forceinline__ float number_of(uint32_t key) {
  return __uint_as_float((key & 0x80000000u) != 0 ? key & 0x7fffffffu : ~key);
}

__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) x += __shfl_xor_sync(kAllLanes, x, offset);
  return x;
}

/// Which groups stay: `stays`[g], from `selection` [num_experts], both of this warp alone.
__device__ inline void choose_groups(const RouteRule& p, const float* selection, float* scores,
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

/// What groups need of shared memory, a warp: nothing where there are none.
template <int kExperts, bool kGrouped>
struct GroupMemory {
  float selection[kExperts];
  float scores[kExperts];
  bool stays[kExperts];
};
template <int kExperts>
struct GroupMemory<kExperts, false> {};

/// The candidates of a warp in order of id, and the chosen in their order.
template <int kExperts>
struct Candidates {
  alignas(16) uint32_t keys[kExperts + 4];
  float logits[kExperts];
  uint16_t ids[kExperts];
  float chosen_logits[32];
  int chosen[32];
};

/// Slot s of `c` gets the one with the s-th largest key, of equal ones the lower id first; keys of
/// 0 get none. The number of slots that have one.
template <int kPerLane>
__device__ __forceinline__ int choose(const uint32_t (&key)[kPerLane],
                                      const float (&logit)[kPerLane], int top_k,
                                      Candidates<32 * kPerLane>& c) {
  const int lane = threadIdx.x % 32;
  uint32_t best = key[0];
#pragma unroll
  for (int i = 1; i < kPerLane; ++i) best = max(best, key[i]);
  int better = 0;  // lanes
#pragma unroll
  for (int other = 0; other < 32; ++other) {
    better += __shfl_sync(kAllLanes, best, other) > best ? 1 : 0;
  }
  uint32_t least = 1;
  if (__popc(__ballot_sync(kAllLanes, best != 0)) >= top_k) {
    least = __reduce_min_sync(kAllLanes, better < top_k ? best : kAllLanes);
  }
  int count = 0;
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) {
    const bool is = key[i] >= least;
    const unsigned mask = __ballot_sync(kAllLanes, is);
    if (is) {
      const int at = count + __popc(mask & ((1u << lane) - 1));
      c.keys[at] = key[i];
      c.logits[at] = logit[i];
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
      c.chosen_logits[slot] = c.logits[at];
    }
  }
  __syncwarp();
  return min(count, top_k);
}

/// Memory of a warp.
template <int kPerLane, bool kGrouped>
struct RouteMemory {
  GroupMemory<32 * kPerLane, kGrouped> groups;
  Candidates<32 * kPerLane> candidates;
};

__device__ __forceinline__ float sigmoid_of(float x) { return 1.0f / (1.0f + expf(-x)); }

/// Whether a score is of its own logit alone, not of others.
__device__ __forceinline__ bool is_of_one_logit(ScoringFunction scoring) {
  return scoring == ScoringFunction::kSigmoid || scoring == ScoringFunction::kSqrtSoftplus;
}

/// From a logit to its score, `top` being the largest and `sum` that of all exp(logit - top).
struct RouteScore {
  ScoringFunction scoring;
  float top, sum;
  __device__ float operator()(float logit) const {
    switch (scoring) {
      case ScoringFunction::kSoftmax:
        return expf(logit - top) / sum;
      case ScoringFunction::kSigmoid:
        return sigmoid_of(logit);
      case ScoringFunction::kSoftmaxOverSelected:
        return logit;
      case ScoringFunction::kSqrtSoftplus:
        return sqrtf(fmaxf(logit, 0.0f) + log1pf(expf(-fabsf(logit))));
    }
    return logit;
  }
};

/// Of a token with a NaN, or of padding. Null: nowhere.
__device__ __forceinline__ void write_nothing(const RouteRule& p, bool padding, int32_t* topk_ids,
                                              float* topk_weights) {
  const int lane = threadIdx.x % 32;
  if (lane >= p.num_slots || topk_ids == nullptr) return;
  const bool nan = lane == 0 && !padding;
  topk_ids[lane] = nan ? 0 : -1;
  topk_weights[lane] = nan ? NAN : 0.0f;
}

/// Writes a token's num_slots ids and weights; lane k < count has the k-th that was chosen and its
/// logit. `shared_weight()` is that of shared experts. Null: nowhere. All lanes of a warp.
template <class SharedWeight>
__device__ __forceinline__ void write_chosen(const RouteRule& p, const RouteScore& score, int count,
                                             int chosen, float logit,
                                             const SharedWeight& shared_weight, int32_t* topk_ids,
                                             float* topk_weights) {
  const int lane = threadIdx.x % 32;
  const bool is_chosen = lane < count;
  float weight = is_chosen ? score(logit) : 0.0f;
  if (p.scoring == ScoringFunction::kSoftmaxOverSelected) {
    weight = is_chosen ? expf(weight - score.top) : 0.0f;
    weight /= warp_sum(weight);
  } else if (p.renormalize) {
    float all = 0.0f;
#pragma unroll 4
    for (int k = 0; k < count; ++k) all += __shfl_sync(kAllLanes, weight, k);
    // Scores that are each an expert's own can all underflow.
    if (is_of_one_logit(p.scoring)) all += 1e-20f;
    weight /= all;
  }
  weight *= p.scaling_factor;
  if (p.scale != nullptr && is_chosen) weight *= p.scale[chosen];
  if (!is_chosen) chosen = -1;
  if (lane >= p.top_k) {
    chosen = p.num_experts + lane - p.top_k;
    weight = shared_weight();
  }
  if (lane < p.num_slots && topk_ids != nullptr) {
    topk_ids[lane] = chosen;
    topk_weights[lane] = weight;
  }
}

/// Chooses for a token with these logits, -INFINITY where there is no expert, and writes its ids
/// and weights; null: nowhere. Padding gets ids of -1. All lanes of a warp.
template <int kPerLane, bool kGrouped>
__device__ __forceinline__ void route_token(const RouteRule& p, const float (&logit)[kPerLane],
                                            float shared_weight, bool padding,
                                            RouteMemory<kPerLane, kGrouped>& memory,
                                            int32_t* topk_ids, float* topk_weights) {
  const int lane = threadIdx.x % 32;
  bool bad = padding;
  uint32_t top_key = 0;
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) {
    bad |= isnan(logit[i]);
    top_key = max(top_key, key_of(logit[i]));
  }
  if (__any_sync(kAllLanes, bad)) return write_nothing(p, padding, topk_ids, topk_weights);
  RouteScore score{p.scoring, number_of(__reduce_max_sync(kAllLanes, top_key)), 1.0f};
  if (p.scoring == ScoringFunction::kSoftmax) {
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) sum += expf(logit[i] - score.top);  // 0 without an expert
    score.sum = warp_sum(sum);
  }

  // Scores can round to equal numbers where logits differ, so the choice goes by logits where it
  // can.
  const bool by_score = p.bias != nullptr || (kGrouped && is_of_one_logit(p.scoring));
  uint32_t key[kPerLane];
  {
    float selection[kPerLane];
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) {
      const int expert = lane + 32 * i;
      const bool exists = expert < p.num_experts;
      selection[i] = logit[i];
      if (by_score) {
        selection[i] = score(logit[i]) + (p.bias != nullptr && exists ? p.bias[expert] : 0.0f);
      }
      key[i] = exists ? key_of(selection[i]) : 0;
    }
    if constexpr (kGrouped) {
      auto& groups = memory.groups;
#pragma unroll
      for (int i = 0; i < kPerLane; ++i) groups.selection[lane + 32 * i] = selection[i];
      choose_groups(p, groups.selection, groups.scores, groups.stays);
#pragma unroll
      for (int i = 0; i < kPerLane; ++i) {
        const int expert = lane + 32 * i;
        if (expert < p.num_experts && !groups.stays[p.by_group.divide(expert)]) key[i] = 0;
      }
    }
  }
  const int count = choose(key, logit, p.top_k, memory.candidates);
  const bool is_chosen = lane < count;
  write_chosen(
      p, score, count, is_chosen ? memory.candidates.chosen[lane] : -1,
      is_chosen ? memory.candidates.chosen_logits[lane] : 0.0f, [&] { return shared_weight; },
      topk_ids, topk_weights);
}

// ---- a block for a token, a thread an expert ---------------------------------------------------
//
// Each warp finds the top_k of its 32 experts, the best first: lists that lie one after the other,
// of equal keys the lower id first. An entry's slot is how many of all entries go before it.

template <int kWarps>
struct BlockRouteMemory {
  float logits[32 * kWarps];
  alignas(16) uint32_t keys[32 * kWarps];  // of the lists
  float list_logits[32 * kWarps];
  uint16_t list_ids[32 * kWarps];
  uint32_t tops[kWarps];
  float sum;
  float chosen_logits[32];
  int chosen[32];
};

/// The same by a block of kWarps warps, without groups. `logit` is that of expert threadIdx.x.
template <int kWarps, class SharedWeight>
__device__ __forceinline__ void route_token_in_block(const RouteRule& p, float logit,
                                                     const SharedWeight& shared_weight,
                                                     bool padding, BlockRouteMemory<kWarps>& memory,
                                                     int32_t* topk_ids, float* topk_weights) {
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, warp = thread / 32;
  const bool exists = thread < p.num_experts, by_score = p.bias != nullptr;
  const bool is_softmax = p.scoring == ScoringFunction::kSoftmax;
  const int lists = (p.num_experts + 31) / 32, entries = lists * p.top_k;
  const int padded = (entries + 7) / 8 * 8;
  memory.logits[thread] = logit;
  const uint32_t warp_top = __reduce_max_sync(kAllLanes, key_of(logit));
  if (lane == 0) memory.tops[warp] = warp_top;
  if (thread < padded - entries) memory.keys[entries + thread] = 0;
  const auto make_list = [&](float selection) {
    if (warp >= lists) return;
    const uint32_t key = exists ? key_of(selection) : 0;
    int better = 0;
#pragma unroll
    for (int other = 0; other < 32; ++other) {
      const uint32_t k = __shfl_sync(kAllLanes, key, other);
      better += k > key || (k == key && other < lane) ? 1 : 0;
    }
    if (better < p.top_k) {
      const int at = warp * p.top_k + better;
      memory.keys[at] = key;
      memory.list_logits[at] = logit;
      memory.list_ids[at] = static_cast<uint16_t>(thread);
    }
  };
  if (!by_score) make_list(logit);
  if (__syncthreads_or(isnan(logit) || padding ? 1 : 0) != 0) {
    if (warp == 0) write_nothing(p, padding, topk_ids, topk_weights);
    return;
  }
  uint32_t top_key = 0;
#pragma unroll
  for (int w = 0; w < kWarps; ++w) top_key = max(top_key, memory.tops[w]);
  RouteScore score{p.scoring, number_of(top_key), 1.0f};
  const auto sum_of_exps = [&] {  // in the order of route_token()
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < kWarps; ++i) sum += expf(memory.logits[lane + 32 * i] - score.top);
    return warp_sum(sum);
  };
  if (by_score) {
    if (is_softmax) score.sum = sum_of_exps();
    make_list(score(logit) + (exists ? p.bias[thread] : 0.0f));
    __syncthreads();
  }
  // Two lanes an entry, each for half of the others; the last warp has the sum.
  if (warp < kWarps - 1) {
    for (int first = warp * 32; first < 2 * entries; first += 32 * (kWarps - 1)) {
      const int at = min((first + lane) / 2, entries - 1), part = lane % 2;
      const uint32_t own = memory.keys[at];
      int slot = 0;
#pragma unroll 4
      for (int i = part * (padded / 2); i < (part + 1) * (padded / 2); i += 4) {
        const uint4 k = *reinterpret_cast<const uint4*>(memory.keys + i);
        slot += k.x > own || (k.x == own && i < at) ? 1 : 0;
        slot += k.y > own || (k.y == own && i + 1 < at) ? 1 : 0;
        slot += k.z > own || (k.z == own && i + 2 < at) ? 1 : 0;
        slot += k.w > own || (k.w == own && i + 3 < at) ? 1 : 0;
      }
      slot += __shfl_xor_sync(kAllLanes, slot, 1);
      if (part == 0 && own != 0 && slot < p.top_k) {
        memory.chosen[slot] = memory.list_ids[at];
        memory.chosen_logits[slot] = memory.list_logits[at];
      }
    }
  } else if (is_softmax && !by_score) {
    const float sum = sum_of_exps();
    if (lane == 0) memory.sum = sum;
  }
  __syncthreads();
  if (warp > 0) return;
  if (is_softmax && !by_score) score.sum = memory.sum;
  const int count = min(p.top_k, p.num_experts);
  const bool is_chosen = lane < count;
  write_chosen(p, score, count, is_chosen ? memory.chosen[lane] : -1,
               is_chosen ? memory.chosen_logits[lane] : 0.0f, shared_weight, topk_ids,
               topk_weights);
}

}  // namespace moe4::cuda
