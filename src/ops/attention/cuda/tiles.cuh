// What the kernels of PagedAttention share: tiles of keys and values in shared memory, sums of
// weighted values and how two of them become one, and how a result leaves.
#pragma once

#include "device/cuda/ptx/barrier.cuh"
#include "device/cuda/ptx/copy.cuh"
#include "device/cuda/ptx/mma_f16.cuh"
#include "device/cuda/ptx/warp.cuh"
#include "ops/attention/cuda/params.h"
#include "ops/cuda/row_values.cuh"

namespace moe4::cuda {

// ---- tiles -------------------------------------------------------------------------------------
//
// Rows of 64 F16 elements (128 bytes), a panel, and as many panels one behind the other as a head
// is wide. The 16-byte chunk c of row r lies at chunk c ^ (r % 8): ldmatrix, which takes the same
// chunk of 8 rows, then meets all banks.

constexpr int kRowBytes = 128;
constexpr int kKeyBlock = static_cast<int>(kPageTokens);

__device__ __forceinline__ uint32_t in_panel(int row, int chunk) {
  return static_cast<uint32_t>(row * kRowBytes + ((chunk ^ (row & 7)) << 4));
}

/// Copies rows [first_row, first_row + Rows) of a page's array (rows of row_chunks * 16 bytes) into
/// panels of Rows rows; what lies beyond a row or beyond `valid_rows` becomes zeros, since a weight
/// of 0 times what a page happens to hold need not be 0. Asynchronous: copy_commit(), copy_wait().
template <int Rows, int Threads>
__device__ __forceinline__ void copy_tile(uint32_t tile, const std::byte* from, int row_chunks,
                                          int panels, int valid_rows) {
  static_assert(Rows * 8 % Threads == 0 && Threads % 8 == 0);
  const int chunk = static_cast<int>(threadIdx.x % 8), first = static_cast<int>(threadIdx.x / 8);
  for (int panel = 0; panel < panels; ++panel) {
    const int column = 8 * panel + chunk;
#pragma unroll
    for (int i = 0; i < Rows * 8 / Threads; ++i) {
      const int row = first + i * (Threads / 8);
      const bool wanted = row < valid_rows && column < row_chunks;
      copy16(tile + panel * (Rows * kRowBytes) + in_panel(row, chunk),
             wanted ? from + (row * row_chunks + column) * 16 : from, wanted ? 16 : 0);
    }
  }
}

/// Four elements of a query, scaled and rounded to F16, from column 4 `quarter` of a panel.
__device__ __forceinline__ void put_query(uint32_t panel, int row, int quarter, float4 x,
                                          float scale) {
  store_shared8(panel + in_panel(row, quarter / 2) + quarter % 2 * 8,
                {pack_f16(x.x * scale, x.y * scale), pack_f16(x.z * scale, x.w * scale)});
}

// ---- partial results ---------------------------------------------------------------------------

/// 2^x for weights: within 2^-22, 1 for 0, 0 for -infinity; NaN stays NaN.
__device__ __forceinline__ float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

/// Of the weights 2^(score - top) of some keys; nothing seen: {-infinity, 0}.
struct Weights {
  float top = -INFINITY;
  float sum = 0;
};

/// What a merge multiplies the values of both sides by.
struct MergeFactors {
  float keep, add;
};

/// total <- total with `next`, whose keys follow. Values become scaled_sum() of both.
__device__ __forceinline__ MergeFactors merge(Weights& total, const Weights& next) {
  const float top = fmaxf(total.top, next.top);
  // Where nothing is seen yet there is nothing to scale, and infinity less infinity is no number.
  const float base = top == -INFINITY ? 0.0f : top;
  const MergeFactors factors{exp2_fast(total.top - base), exp2_fast(next.top - base)};
  total.sum = __fmaf_rn(total.sum, factors.keep, __fmul_rn(next.sum, factors.add));
  total.top = top;
  return factors;
}
/// The same rounding wherever it is done.
__device__ __forceinline__ float scaled_sum(float total, float next, const MergeFactors& factors) {
  return __fmaf_rn(total, factors.keep, __fmul_rn(next, factors.add));
}

// ---- results -----------------------------------------------------------------------------------

__device__ __forceinline__ float row_value(const std::byte* row, int64_t i, bool is_bf16) {
  return is_bf16 ? to_float(reinterpret_cast<const __nv_bfloat16*>(row)[i])
                 : reinterpret_cast<const float*>(row)[i];
}

__device__ __forceinline__ float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }
__device__ __forceinline__ float softplus(float x) {
  return x > 20.0f ? x : log1pf(expf(x));  // beyond: less than half a unit of float32
}

/// Writes pairs of elements of one head of one token.
class HeadOutput {
 public:
  /// `weights`: of all keys; a sink is added here.
  __device__ HeadOutput(const AttentionParams& p, int64_t token, int head, const Weights& weights)
      : p_(p), token_(token), head_(head), factor_(1.0f / weights.sum) {
    if (p.sinks != nullptr) {
      const float sink = p.sinks[head], top = fmaxf(weights.top, sink);
      const float keys = exp2f(weights.top - top);
      factor_ = keys / (weights.sum * keys + exp2f(sink - top));
    }
    if (p.output_gate == OutputGate::kSigmoidPerHead) factor_ *= sigmoid(gate(head));
    if (p.output_gate == OutputGate::kSoftplusPerHead) factor_ *= softplus(gate(head));
  }

  /// Elements d, d + 1, d even and below value_dim.
  __device__ void write(int d, float a, float b) const {
    a *= factor_;
    b *= factor_;
    if (p_.output_gate == OutputGate::kSigmoidBesideQuery) {
      const int i = (2 * head_ + 1) * p_.value_dim + d;
      a *= sigmoid(gate(i));
      b *= sigmoid(gate(i + 1));
    } else if (p_.output_gate == OutputGate::kSoftplusPerElement) {
      const int i = head_ * p_.value_dim + d;
      a *= softplus(gate(i));
      b *= softplus(gate(i + 1));
    }
    const int64_t i = token_ * p_.y_stride + head_ * p_.value_dim + d;
    if (p_.y_is_bf16) {
      *reinterpret_cast<__nv_bfloat162*>(reinterpret_cast<__nv_bfloat16*>(p_.y) + i) =
          __floats2bfloat162_rn(a, b);
    } else {
      *reinterpret_cast<float2*>(reinterpret_cast<float*>(p_.y) + i) = {a, b};
    }
  }

 private:
  __device__ float gate(int i) const {
    return row_value(p_.gates, token_ * p_.gate_stride + i, p_.gates_are_bf16);
  }

  const AttentionParams& p_;
  int64_t token_;
  int head_;
  float factor_;
};

/// The first key that a token at `position` sees.
__device__ __forceinline__ int first_key(const AttentionParams& p, int position) {
  return p.window > 0 ? max(0, position + 1 - p.window) : 0;
}

}  // namespace moe4::cuda
