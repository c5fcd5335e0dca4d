// A generated token of one value head of DeltaNet: its arithmetic, the same operations in the same
// order whichever kernel holds the state.
//
// Sums over the state's rows: chains over 8 rows; (a + b) + (c + d) of four of them; those of 32
// rows in order. Over columns: chains of 4, then in pairs. Products that meet in a sum are written
// as fmaf() says, so that no compiler chooses.
#pragma once

#include <cmath>

#include "ops/cuda/recurrent_decode.cuh"
#include "ops/delta_net/cuda/kernels.h"

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
struct MixedInputs {
  float q[kStateRows], k[kStateRows], v[kStateRows];
};

/// Of one token and value head.
struct DeltaGates {
  float decay, beta;
  __device__ DeltaGates(float a, float b, float decay_rate, float dt_bias)
      : decay(expf(decay_rate * softplus(a + dt_bias))), beta(sigmoid(b)) {}
};

__device__ __forceinline__ float exact_dot4(float4 a, float4 b) {
  return fmaf(a.w, b.w, fmaf(a.z, b.z, fmaf(a.y, b.y, a.x * b.x)));
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

/// u = beta (v - decay k^T S) and o = decay q^T S + (q k) u of four columns.
struct DeltaResult {
  float4 u, o;
  __device__ __forceinline__ DeltaResult(const DeltaSums& sums, float4 v, const DeltaGates& gates,
                                         const UnitFactors& unit) {
    const float known = -gates.decay * unit.k, asked = gates.decay * unit.q;
    u = exact_add_scaled4(v, known, sums.k);
    u = {gates.beta * u.x, gates.beta * u.y, gates.beta * u.z, gates.beta * u.w};
    o = {unit.qk * u.x, unit.qk * u.y, unit.qk * u.z, unit.qk * u.w};
    o = exact_add_scaled4(o, asked, sums.q);
  }
};

/// S <- decay S + k u of rows from `first` on.
__device__ __forceinline__ void update_rows(float4 (&s)[kChainRows], const MixedInputs& mixed,
                                            int first, float k_factor, float decay, float4 u) {
  u = {k_factor * u.x, k_factor * u.y, k_factor * u.z, k_factor * u.w};
#pragma unroll
  for (int i = 0; i < kChainRows; i += 4) {
    const float4 k = load4(mixed.k + first + i);
    const float rows[4] = {k.x, k.y, k.z, k.w};
#pragma unroll
    for (int n = 0; n < 4; ++n) {
      const float4 ku{rows[n] * u.x, rows[n] * u.y, rows[n] * u.z, rows[n] * u.w};
      s[i + n] = exact_add_scaled4(ku, decay, s[i + n]);
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
