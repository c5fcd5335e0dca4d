// What the kernels of PagedAttention share: tiles of keys and values in shared memory, sums of
// weighted values and how two of them become one, and how a result leaves.
#pragma once

#include <cuda_fp8.h>

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

/// Two E4M3 numbers as F16, exactly.
__device__ __forceinline__ uint32_t f16_of_fp8(uint32_t pair) {
  const __half2_raw h =
      __nv_cvt_fp8x2_to_halfraw2(static_cast<__nv_fp8x2_storage_t>(pair), __NV_E4M3);
  return static_cast<uint32_t>(h.x) | static_cast<uint32_t>(h.y) << 16;
}
/// The same of eight.
__device__ __forceinline__ uint4 f16_of_fp8(uint2 x) {
  return {f16_of_fp8(x.x & 0xffff), f16_of_fp8(x.x >> 16), f16_of_fp8(x.y & 0xffff),
          f16_of_fp8(x.y >> 16)};
}

/// Copies `Rows` rows of `width` elements of a page's array into panels of Rows rows, E4M3 elements
/// as F16; what lies
/// beyond a row or beyond `valid_rows` becomes zeros, since a weight of 0 times what a page happens
/// to hold need not be 0. F16 asynchronously: copy_commit(), copy_wait().
template <int Rows, int Threads>
__device__ __forceinline__ void copy_tile(const AttentionParams& p, uint32_t tile,
                                          const std::byte* from, int width, int panels,
                                          int valid_rows) {
  static_assert(Rows * 4 % Threads == 0 && Threads % 8 == 0);
  const int row_bytes = width * p.element_bytes;
  if (p.element_bytes == 1) {
    constexpr int kLoads = Rows * 4 / Threads;   // of 16 elements, a panel's
    constexpr int kPanels = kLoads > 1 ? 2 : 4;  // on their way at once
    const int quarter = static_cast<int>(threadIdx.x % 4);
    const int first = static_cast<int>(threadIdx.x / 4);
    for (int from_panel = 0; from_panel < panels; from_panel += kPanels) {
      uint4 x[kPanels][kLoads];
#pragma unroll
      for (int j = 0; j < kPanels; ++j) {
#pragma unroll
        for (int i = 0; i < kLoads; ++i) {
          const int row = first + i * (Threads / 4), column = (from_panel + j) * 64 + quarter * 16;
          const bool wanted = row < valid_rows && column < width;
          x[j][i] =
              wanted ? *reinterpret_cast<const uint4*>(from + row * row_bytes + column) : uint4{};
        }
      }
#pragma unroll
      for (int j = 0; j < kPanels; ++j) {
        if (from_panel + j >= panels) continue;
#pragma unroll
        for (int i = 0; i < kLoads; ++i) {
          const int row = first + i * (Threads / 4);
          const uint32_t panel = tile + (from_panel + j) * (Rows * kRowBytes);
          store_shared16(panel + in_panel(row, 2 * quarter), f16_of_fp8({x[j][i].x, x[j][i].y}));
          store_shared16(panel + in_panel(row, 2 * quarter + 1),
                         f16_of_fp8({x[j][i].z, x[j][i].w}));
        }
      }
    }
    return;
  }
  const int chunk = static_cast<int>(threadIdx.x % 8), first = static_cast<int>(threadIdx.x / 8);
  for (int panel = 0; panel < panels; ++panel) {
    const int column = 16 * (8 * panel + chunk);  // bytes
#pragma unroll
    for (int i = 0; i < Rows * 8 / Threads; ++i) {
      const int row = first + i * (Threads / 8);
      const bool wanted = row < valid_rows && column < row_bytes;
      copy16(tile + panel * (Rows * kRowBytes) + in_panel(row, chunk),
             wanted ? from + row * row_bytes + column : from, wanted ? 16 : 0);
    }
  }
}

/// Where the rows of a page's place among chosen keys are, of a thread that copies them: blocks of
/// tables and positions are loaded ahead, since each load's address depends on the one before.
template <int Threads, SeenKeys Seen>
class ChosenRows {
 public:
  /// `list`: of the token and KV head; it stands for num_keys keys.
  __device__ ChosenRows(const AttentionParams& p, const int32_t* list, int num_keys,
                        const int32_t* blocks, int first_page)
      : list_(list),
        blocks_(blocks),
        num_keys_(num_keys),
        page_(first_page),
        block_size_(p.block_size),
        is_fp8_(kMayBeFp8 && p.element_bytes == 1) {
    load_keys();
    advance();
  }

  /// copy_tile() of the page: rows of `width` elements that lie behind `from` in theirs.
  __device__ __forceinline__ void copy(const AttentionParams& p, uint32_t tile,
                                       const std::byte* from, int width, int panels) const {
    if (is_fp8_) return copy_fp8(p, tile, from, width, panels);
    const int chunk = static_cast<int>(threadIdx.x % 8), row_bytes = 2 * width;
    const std::byte* rows[kRows];
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      rows[i] = from + block_[i] * p.page_bytes + place_[i] * row_bytes + 16 * chunk;
    }
    for (int panel = 0; panel < panels; ++panel) {
      const bool is_in_row = 16 * (8 * panel + chunk) < row_bytes;
#pragma unroll
      for (int i = 0; i < kRows; ++i) {
        const bool wanted = is_in_row && place_[i] >= 0;
        copy16(tile + panel * (kKeyBlock * kRowBytes) + in_panel(row(i), chunk),
               wanted ? rows[i] + panel * kRowBytes : p.pages, wanted ? 16 : 0);
      }
    }
  }
  /// To the next page.
  __device__ __forceinline__ void advance() {
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      block_[i] = key_[i] >= 0 ? blocks_[key_[i] / kKeyBlock] : 0;
      place_[i] = key_[i] >= 0 ? key_[i] % kKeyBlock : -1;
    }
    load_keys();
  }

 private:
  static constexpr bool kMayBeFp8 = Seen == SeenKeys::kChosenBlocks;
  static constexpr int kRows = kKeyBlock * 8 / Threads;  // that a thread copies; half of them E4M3

  // In the page.
  __device__ __forceinline__ int row(int i) const {
    const int threads_of_row = is_fp8_ ? 4 : 8;
    return static_cast<int>(threadIdx.x) / threads_of_row + i * (Threads / threads_of_row);
  }
  __device__ __forceinline__ void load_keys() {
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      const int at = page_ * kKeyBlock + row(i);
      key_[i] = at < num_keys_ && row(i) < kKeyBlock ? key_at(at) : -1;
    }
    ++page_;
  }
  __device__ __forceinline__ int key_at(int i) const {
    if constexpr (Seen == SeenKeys::kChosenBlocks) {
      return list_[i / block_size_] * block_size_ + i % block_size_;
    } else {
      return list_[i];
    }
  }
  __device__ __forceinline__ void copy_fp8(const AttentionParams& p, uint32_t tile,
                                           const std::byte* from, int width, int panels) const {
    constexpr int kLoads = kRows / 2;  // of 16 elements, a panel's
    const int quarter = static_cast<int>(threadIdx.x % 4);
    for (int panel = 0; panel < panels; ++panel) {
      const int column = 64 * panel + 16 * quarter;
      const uint32_t to = tile + panel * (kKeyBlock * kRowBytes);
      uint4 x[kLoads];
#pragma unroll
      for (int i = 0; i < kLoads; ++i) {
        const std::byte* at = from + block_[i] * p.page_bytes + place_[i] * width + column;
        x[i] = column < width && place_[i] >= 0 ? *reinterpret_cast<const uint4*>(at) : uint4{};
      }
#pragma unroll
      for (int i = 0; i < kLoads; ++i) {
        store_shared16(to + in_panel(row(i), 2 * quarter), f16_of_fp8({x[i].x, x[i].y}));
        store_shared16(to + in_panel(row(i), 2 * quarter + 1), f16_of_fp8({x[i].z, x[i].w}));
      }
    }
  }

  const int32_t *list_, *blocks_;
  int num_keys_, page_, block_size_;
  bool is_fp8_;
  int key_[kRows];                   // of the page behind the next
  int block_[kRows], place_[kRows];  // of the next page's keys; -1: there is none
};

/// Four elements of a query, scaled and rounded to F16, from column 4 `quarter` of a panel.
__device__ __forceinline__ void put_query(uint32_t panel, int row, int quarter, float4 x,
                                          float scale) {
  store_shared8(panel + in_panel(row, quarter / 2) + quarter % 2 * 8,
                {pack_f16(x.x * scale, x.y * scale), pack_f16(x.z * scale, x.w * scale)});
}

/// The 64 positions from first_position on of some heads, each head's panels one behind the other;
/// zeros for what is not in [start, end), positions of the sequence's tokens in this step.
template <int Heads, int Panels, int Threads>
__device__ __forceinline__ void put_queries(const AttentionParams& p, uint32_t queries,
                                            int first_head, int first_token, int first_position,
                                            int start, int end) {
  constexpr int kAhead = 2;  // rows whose loads are on their way
  static_assert(Heads * kKeyBlock * 16 % (Threads * kAhead) == 0);
  for (int i = static_cast<int>(threadIdx.x); i < Heads * kKeyBlock * 16; i += kAhead * Threads) {
    float4 x[kAhead][Panels];
#pragma unroll
    for (int j = 0; j < kAhead; ++j) {
      const int item = i + j * Threads;
      const int row = item / 16 % kKeyBlock, head = item / 16 / kKeyBlock;
      const int position = first_position + row;
      const bool in_piece = position >= start && position < end;
      const float* query = p.queries + (first_token + position - start) * p.query_stride +
                           (first_head + head) * p.head_dim;
#pragma unroll
      for (int panel = 0; panel < Panels; ++panel) {
        const int d = 64 * panel + item % 16 * 4;
        x[j][panel] =
            in_piece && d < p.head_dim ? *reinterpret_cast<const float4*>(query + d) : float4{};
      }
    }
#pragma unroll
    for (int j = 0; j < kAhead; ++j) {
      const int item = i + j * Threads;
      const int row = item / 16 % kKeyBlock, head = item / 16 / kKeyBlock;
#pragma unroll
      for (int panel = 0; panel < Panels; ++panel) {
        put_query(queries + (head * Panels + panel) * (kKeyBlock * kRowBytes), row, item % 16,
                  x[j][panel], p.scale);
      }
    }
  }
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

/// Of elements d, d + 1, d even, of a head's result, where every element has a gate; else anything.
__device__ __forceinline__ float2 element_gates(const AttentionParams& p, int64_t token, int head,
                                                int d) {
  int first;
  if (p.output_gate == OutputGate::kSigmoidBesideQuery) {
    first = (2 * head + 1) * p.value_dim;
  } else if (p.output_gate == OutputGate::kSoftplusPerElement) {
    first = head * p.value_dim;
  } else {
    return {};
  }
  if (d >= p.value_dim) return {};
  const int64_t i = token * p.gate_stride + first + d;
  if (!p.gates_are_bf16) {
    return *reinterpret_cast<const float2*>(reinterpret_cast<const float*>(p.gates) + i);
  }
  return __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162*>(
      reinterpret_cast<const __nv_bfloat16*>(p.gates) + i));
}

/// Writes pairs of elements of one head of one token, scaled and gated.
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
    factor_ *= p.v_scale;
    if (p.output_gate == OutputGate::kSigmoidPerHead) factor_ *= sigmoid(gate(head));
    if (p.output_gate == OutputGate::kSoftplusPerHead) factor_ *= softplus(gate(head));
  }

  /// Elements d and d + 1, d even, with their element_gates().
  __device__ __forceinline__ void write(int d, float2 x, float2 gates) const { put(d, x, gates); }
  /// value_at(i) to elements d and d + 1, d = first + i * step, of i < Count; past value_dim
  /// nothing is written.
  template <int Count, class ValueAt>
  __device__ __forceinline__ void write_every(int first, int step, const ValueAt& value_at) const {
    // Gates some ahead: behind a store to y each would be waited for.
    constexpr int kAhead = Count < 8 ? Count : 8;
    static_assert(Count % kAhead == 0);
#pragma unroll
    for (int begin = 0; begin < Count; begin += kAhead) {
      float2 gates[kAhead];
#pragma unroll
      for (int i = 0; i < kAhead; ++i) {
        gates[i] = element_gates(p_, token_, head_, first + (begin + i) * step);
      }
#pragma unroll
      for (int i = 0; i < kAhead; ++i) {
        put(first + (begin + i) * step, value_at(begin + i), gates[i]);
      }
    }
  }

 private:
  __device__ __forceinline__ float gate(int i) const {
    return row_value(p_.gates, token_ * p_.gate_stride + i, p_.gates_are_bf16);
  }
  __device__ __forceinline__ void put(int d, float2 x, float2 gates) const {
    if (d >= p_.value_dim) return;
    x = {x.x * factor_, x.y * factor_};
    if (p_.output_gate == OutputGate::kSigmoidBesideQuery) {
      x = {x.x * sigmoid(gates.x), x.y * sigmoid(gates.y)};
    } else if (p_.output_gate == OutputGate::kSoftplusPerElement) {
      x = {x.x * softplus(gates.x), x.y * softplus(gates.y)};
    }
    const int64_t i = token_ * p_.y_stride + head_ * p_.value_dim + d;
    if (p_.y_is_bf16) {
      *reinterpret_cast<__nv_bfloat162*>(reinterpret_cast<__nv_bfloat16*>(p_.y) + i) =
          __floats2bfloat162_rn(x.x, x.y);
    } else {
      *reinterpret_cast<float2*>(reinterpret_cast<float*>(p_.y) + i) = x;
    }
  }

  const AttentionParams& p_;
  int64_t token_;
  int head_;
  float factor_;
};

/// The first key that a token at `position` sees.
__device__ __forceinline__ int first_key(const AttentionParams& p, int position) {
  if (p.chunk > 0) return position / p.chunk * p.chunk;
  return p.window > 0 ? max(0, position + 1 - p.window) : 0;
}

}  // namespace moe4::cuda
