// A generated token of one value head of DeltaNet: its arithmetic, the same operations in the same
// order whichever kernel holds the state.
//
// With the n tokens that S does not know yet (DeltaNet::Problem::ring), G = log of all decays since
// and u_j of token j:
//   u = beta (v - e^G k^T S - sum over j of e^(G - G_j) (k k_j) u_j)
//   o = e^G q^T S + sum over j of e^(G - G_j) (q k_j) u_j + (q k) u
// and behind every ring-th token S <- e^G S + sum over j of e^(G - G_j) k_j u_j, its own with them.
//
// Sums over the state's rows: chains over 8 rows; (a + b) + (c + d) of four of them; those of 32
// rows in order. Over tokens: in order. Over columns: chains of 4, then in pairs. Products that
// meet in a sum are written as fmaf() says, so that no compiler chooses.
#pragma once

#include <cmath>

#include "ops/cuda/recurrent_decode.cuh"
#include "ops/delta_net/cuda/kernels.h"
#include "ops/delta_net/cuda/ring.cuh"

namespace moe4::cuda {

/// What the kernels of generated tokens read and write.
template <typename In, typename Y>
struct DeltaDecode {
  RecurrentBatch batch;
  RowsOf<In> qkv, z;
  RowsOf<float> a, b;
  RowsOf<Y> y;
  DeviceConv conv;
  const float *decay_rate, *dt_bias, *norm;
  int num_seqs, num_key_heads, heads_per_key, key_dim, value_dim;
  DeltaRing ring;
  int64_t memory_offset;
  float norm_eps, query_scale;

  explicit DeltaDecode(const DeltaNetCall& call)
      : batch(*call.args.batch, call.args.cache),
        qkv(call.args.qkv),
        z(call.args.z),
        a(call.args.a),
        b(call.args.b),
        y(call.args.y),
        conv{call.weights.conv, nullptr, static_cast<int>(call.problem.channels()),
             static_cast<int>(call.problem.conv_taps)},
        decay_rate(call.weights.decay_rate),
        dt_bias(call.weights.dt_bias),
        norm(call.weights.norm),
        num_seqs(static_cast<int>(call.args.batch->num_decodes)),
        num_key_heads(static_cast<int>(call.problem.num_key_heads)),
        heads_per_key(static_cast<int>(call.problem.num_value_heads / call.problem.num_key_heads)),
        key_dim(static_cast<int>(call.problem.key_dim)),
        value_dim(static_cast<int>(call.problem.value_dim)),
        ring(call.problem),
        memory_offset(call.problem.memory_offset()),
        norm_eps(call.problem.norm.eps),
        query_scale(1.0f / std::sqrt(static_cast<float>(call.problem.key_dim))) {}

  /// S of a value head.
  __device__ float* memory(const RecurrentSequence& sequence, int head) const {
    return sequence.state + memory_offset + static_cast<int64_t>(head) * key_dim * value_dim;
  }
};

inline constexpr int kChainRows = StatePart::kRows;  ///< of the state, side by side in a thread

/// In a block's memory: q, k, v after the convolution.
struct alignas(16) MixedInputs {
  float q[kStateRows], k[kStateRows], v[kStateRows];
};

/// Of one token and value head.
struct DeltaGates {
  float log_decay = 0, beta = 0;
  DeltaGates() = default;
  __device__ DeltaGates(float a, float b, float decay_rate, float dt_bias)
      : log_decay(bounded_log_decay(decay_rate * softplus(a + dt_bias))), beta(sigmoid(b)) {}
};

__device__ __forceinline__ float exact_dot4(float4 a, float4 b) {
  return fmaf(a.w, b.w, fmaf(a.z, b.z, fmaf(a.y, b.y, a.x * b.x)));
}
__device__ __forceinline__ float4 scaled4(float x, float4 a) {
  return {__fmul_rn(x, a.x), __fmul_rn(x, a.y), __fmul_rn(x, a.z), __fmul_rn(x, a.w)};
}
/// a + x b.
__device__ __forceinline__ float4 exact_add_scaled4(float4 a, float x, float4 b) {
  return {fmaf(x, b.x, a.x), fmaf(x, b.y, a.y), fmaf(x, b.z, a.z), fmaf(x, b.w, a.w)};
}

/// What makes q and k unit vectors, and their product then. Whole warps.
struct UnitFactors {
  float k, q, qk;
  __device__ UnitFactors(const MixedInputs& mixed, float query_scale) {
    constexpr float kL2Epsilon = 1e-6f;
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const float4 all_q = load4(mixed.q + lane * 4), all_k = load4(mixed.k + lane * 4);
    k = rsqrtf(sum_of_warp(exact_dot4(all_k, all_k)) + kL2Epsilon);
    q = rsqrtf(sum_of_warp(exact_dot4(all_q, all_q)) + kL2Epsilon) * query_scale;
    qk = sum_of_warp(exact_dot4(all_q, all_k)) * k * q;
  }
};

/// k^T S and q^T S over some rows of four columns, before UnitFactors.
struct DeltaSums {
  float4 k{}, q{};
  /// One chain: rows from `first` on.
  __device__ __forceinline__ DeltaSums(const MixedInputs& mixed, int first,
                                       const float4 (&s)[kChainRows]) {
#pragma unroll
    for (int i = 0; i < kChainRows; i += 4) {
      const float4 ki = load4(mixed.k + first + i), qi = load4(mixed.q + first + i);
      k = exact_add_scaled4(k, ki.x, s[i]), q = exact_add_scaled4(q, qi.x, s[i]);
      k = exact_add_scaled4(k, ki.y, s[i + 1]), q = exact_add_scaled4(q, qi.y, s[i + 1]);
      k = exact_add_scaled4(k, ki.z, s[i + 2]), q = exact_add_scaled4(q, qi.z, s[i + 2]);
      k = exact_add_scaled4(k, ki.w, s[i + 3]), q = exact_add_scaled4(q, qi.w, s[i + 3]);
    }
  }
  __device__ DeltaSums(float4 k, float4 q) : k(k), q(q) {}
};
__device__ __forceinline__ DeltaSums operator+(const DeltaSums& a, const DeltaSums& b) {
  return {add4(a.k, b.k), add4(a.q, b.q)};
}

/// In a block's memory: what of a token and of those that S does not know multiplies vectors.
struct alignas(16) TokenFactors {
  float dots[kMaxRing][2];   ///< k_j with k and with q, before UnitFactors
  float ends[kMaxRing + 1];  ///< e^(G - G_j); at [n] 1, for the token itself
  float decay;               ///< e^G
  float beta;
  float unit_k, unit_q, qk;  ///< UnitFactors
};

/// Whole warps: k_j of the ring with k and q, for the lane's four rows; every lane has the sums.
__device__ __forceinline__ float2 ring_dots(const MixedInputs& mixed, float4 ring_key) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  return {sum_of_warp(exact_dot4(ring_key, load4(mixed.k + lane * 4))),
          sum_of_warp(exact_dot4(ring_key, load4(mixed.q + lane * 4)))};
}

/// All of them but the dots, by a whole warp, while others sum up; `decays`, G_j of the n tokens
/// that S does not know, gets G behind them. Returns the token's k of unit length for the lane's
/// four rows.
__device__ __forceinline__ float4 put_factors(TokenFactors& factors, const MixedInputs& mixed,
                                              float query_scale, const DeltaGates& gates,
                                              float (&decays)[kMaxRing], int n) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const float log_decay = n > 0 ? decays[n - 1] + gates.log_decay : gates.log_decay;
  if (lane < n) factors.ends[lane] = expf(log_decay - decays[lane]);
  const UnitFactors unit(mixed, query_scale);
  if (lane == 0) {
    factors.ends[n] = 1.0f;
    factors.decay = expf(log_decay);
    factors.beta = gates.beta;
    factors.unit_k = unit.k, factors.unit_q = unit.q, factors.qk = unit.qk;
    decays[n] = log_decay;
  }
  __syncwarp();
  return scaled4(unit.k, load4(mixed.k + lane * 4));
}

/// u and o of four columns. `ring_values`: of those columns, rows `stride` apart, n of them.
struct DeltaResult {
  float4 u, o;
  __device__ __forceinline__ DeltaResult(const DeltaSums& sums, float4 v,
                                         const TokenFactors& factors, int n,
                                         const float* ring_values, int stride) {
    float4 told = scaled4(factors.decay * factors.unit_k, sums.k);
    o = scaled4(factors.decay * factors.unit_q, sums.q);
    constexpr int kAhead = 4;  // tokens of which all is read at once
#pragma unroll 1
    for (int from = 0; from < n; from += kAhead) {
      float4 u_j[kAhead];
      float known[kAhead], asked[kAhead];
#pragma unroll
      for (int i = 0; i < kAhead; ++i) {
        if (from + i >= n) continue;
        const int j = from + i;
        u_j[i] = load4(ring_values + j * stride);
        known[i] = factors.ends[j] * factors.dots[j][0] * factors.unit_k;
        asked[i] = factors.ends[j] * factors.dots[j][1] * factors.unit_q;
      }
#pragma unroll
      for (int i = 0; i < kAhead; ++i) {
        if (from + i >= n) continue;
        told = exact_add_scaled4(told, known[i], u_j[i]);
        o = exact_add_scaled4(o, asked[i], u_j[i]);
      }
    }
    const float beta = factors.beta;
    u = {beta * (v.x - told.x), beta * (v.y - told.y), beta * (v.z - told.z),
         beta * (v.w - told.w)};
    o = exact_add_scaled4(o, factors.qk, u);
  }
};

/// S <- e^G S + sum over j of e^(G - G_j) k_j u_j of some rows and four columns. `keys`: of those
/// rows, kStateRows apart; `values`: of those columns, `stride` apart.
template <int kRows>
__device__ __forceinline__ void fold_rows(float4 (&s)[kRows], const TokenFactors& factors, int n,
                                          const float* keys, const float* values, int stride) {
#pragma unroll
  for (float4& x : s) x = scaled4(factors.decay, x);
#pragma unroll 2
  for (int j = 0; j <= n; ++j) {
    const float4 u = scaled4(factors.ends[j], load4(values + j * stride));
#pragma unroll
    for (int i = 0; i < kRows; i += 4) {
      const float4 k = load4(keys + j * kStateRows + i);
      s[i] = exact_add_scaled4(s[i], k.x, u);
      s[i + 1] = exact_add_scaled4(s[i + 1], k.y, u);
      s[i + 2] = exact_add_scaled4(s[i + 2], k.z, u);
      s[i + 3] = exact_add_scaled4(s[i + 3], k.w, u);
    }
  }
}

/// norm(o) silu(z) of four columns; `squares` is the head's.
__device__ __forceinline__ float4 gated_norm(float4 o, float squares, int value_dim, float eps,
                                             float4 norm, float4 z) {
  const float factor = rsqrtf(squares / static_cast<float>(value_dim) + eps);
  return {o.x * factor * norm.x * silu(z.x), o.y * factor * norm.y * silu(z.y),
          o.z * factor * norm.z * silu(z.z), o.w * factor * norm.w * silu(z.w)};
}

}  // namespace moe4::cuda
