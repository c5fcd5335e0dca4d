// What kernels of recurrent ops have in common: their sequences' tokens and states, chunks of
// prompts, gates, and the short causal convolution.
#pragma once

#include <cstdint>

#include "ops/batch.h"
#include "ops/cuda/row_values.cuh"

namespace moe4::cuda {

/// log(1 + e^x), linear where the sum cannot be told from x.
__device__ __forceinline__ float softplus(float x) { return x > 20.0f ? x : log1pf(expf(x)); }
__device__ __forceinline__ float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }
__device__ __forceinline__ float silu(float x) { return x / (1.0f + expf(-x)); }

/// 4 values side by side as they are stored, aligned to their size. Kernels that wait for many
/// fetch all of them before they look at the first.
template <typename T>
struct Stored4 {
  uint4 bits{};
  __device__ void fetch_if(bool wanted, const float* p) {
    if (wanted) bits = *reinterpret_cast<const uint4*>(p);
  }
  __device__ float4 values() const {
    return {__uint_as_float(bits.x), __uint_as_float(bits.y), __uint_as_float(bits.z),
            __uint_as_float(bits.w)};
  }
};
template <>
struct Stored4<__nv_bfloat16> {
  uint2 bits{};
  __device__ void fetch_if(bool wanted, const __nv_bfloat16* p) {
    if (wanted) bits = *reinterpret_cast<const uint2*>(p);
  }
  __device__ float4 values() const {
    return {__uint_as_float(bits.x << 16), __uint_as_float(bits.x & 0xffff0000u),
            __uint_as_float(bits.y << 16), __uint_as_float(bits.y & 0xffff0000u)};
  }
};
/// 2 values side by side, likewise.
template <typename T>
struct Stored2 {
  uint2 bits{};
  __device__ void fetch_if(bool wanted, const float* p) {
    if (wanted) bits = *reinterpret_cast<const uint2*>(p);
  }
  __device__ float2 values() const { return {__uint_as_float(bits.x), __uint_as_float(bits.y)}; }
};
template <>
struct Stored2<__nv_bfloat16> {
  uint32_t bits = 0;
  __device__ void fetch_if(bool wanted, const __nv_bfloat16* p) {
    if (wanted) bits = *reinterpret_cast<const uint32_t*>(p);
  }
  __device__ float2 values() const {
    return {__uint_as_float(bits << 16), __uint_as_float(bits & 0xffff0000u)};
  }
};
__device__ __forceinline__ float4 load4(const float* p) {
  return *reinterpret_cast<const float4*>(p);
}
__device__ __forceinline__ void store4(float* p, float4 v) { *reinterpret_cast<float4*>(p) = v; }
__device__ __forceinline__ void store4(__nv_bfloat16* p, float4 v) {
  __nv_bfloat162 pairs[2] = {__floats2bfloat162_rn(v.x, v.y), __floats2bfloat162_rn(v.z, v.w)};
  *reinterpret_cast<uint2*>(p) = *reinterpret_cast<const uint2*>(pairs);
}

/// One sequence's part of a step.
struct RecurrentSequence {
  int64_t first = 0;   ///< its first token
  int tokens = 0;      ///< 0: nothing to do
  int start = 0;       ///< position of its first token
  bool fresh = false;  ///< it begins in this step: its state counts as zeros
  float* state = nullptr;
};

/// Sequences of a step with their states in one layer's cache.
struct RecurrentBatch {
  const int32_t *query_start, *context_len, *slots;
  std::byte* states;
  int64_t unit_bytes;

  RecurrentBatch(const Batch& batch, const LayerCache& cache)
      : query_start(batch.query_start),
        context_len(batch.context_len),
        slots(batch.tables[static_cast<size_t>(cache.table)].state),
        states(cache.data),
        unit_bytes(cache.unit_bytes) {}

  __device__ RecurrentSequence sequence(int s) const {
    const int first = query_start[s], end = query_start[s + 1], slot = slots[s];
    const int tokens = slot < 0 ? 0 : end - first;
    const int start = context_len[s] - (end - first);
    return {first, tokens, start, start == 0, reinterpret_cast<float*>(states + slot * unit_bytes)};
  }
};

/// Logarithms of decays are no smaller, so that sums of 64 keep their digits; exp(-100) is no
/// normal float32.
__device__ __forceinline__ float bounded_log_decay(float x) {
  return x < -100.0f ? -100.0f : x;  // in this order a NaN stays
}

// ---- chunks of prompts --------------------------------------------------------------------------

/// Tokens of prompts that are computed together, counted from where the piece begins. Pieces begin
/// at multiples of it, so that a prompt's chunks do not depend on how it was cut.
inline constexpr int kChunkTokens = 64;
static_assert(kPageTokens % kChunkTokens == 0);

/// The prompts among a step's sequences. Chunk i of sequence s has the number query_start[s] / 64 +
/// (s - first) + i: numbers are unique, some stand for nothing, and their bound is a host number.
struct PromptChunks {
  int first = 0, num_seqs = 0;  ///< sequences [first, num_seqs)
  int bound = 0;                ///< of chunk numbers

  explicit PromptChunks(const Batch& batch)
      : PromptChunks(batch, batch.num_decodes, batch.num_seqs) {}
  PromptChunks(const Batch& batch, int64_t first, int64_t num_seqs)
      : first(static_cast<int>(first)),
        num_seqs(static_cast<int>(num_seqs)),
        bound(static_cast<int>(batch.num_tokens / kChunkTokens + num_seqs - first)) {}
};

struct Chunk {
  RecurrentSequence sequence;
  int begin = 0;   ///< its first token, counted from the sequence's first
  int tokens = 0;  ///< 1 .. 64; 0: there is no such chunk
};

/// The whole block calls it.
__device__ __forceinline__ Chunk find_chunk(const RecurrentBatch& batch,
                                            const PromptChunks& prompts, int number) {
  int begun = 0;  // sequences whose chunks begin at or before `number`
  for (int from = prompts.first; from < prompts.num_seqs; from += static_cast<int>(blockDim.x)) {
    const int s = from + static_cast<int>(threadIdx.x);
    begun += __syncthreads_count(s < prompts.num_seqs &&
                                 batch.query_start[s] / kChunkTokens + s - prompts.first <= number);
  }
  if (begun == 0) return {};
  const int s = prompts.first + begun - 1;
  Chunk chunk{batch.sequence(s)};
  const int first = static_cast<int>(chunk.sequence.first);
  chunk.begin = (number - first / kChunkTokens - begun + 1) * kChunkTokens;
  chunk.tokens = max(0, min(kChunkTokens, chunk.sequence.tokens - chunk.begin));
  return chunk;
}

// ---- the convolution ----------------------------------------------------------------------------

/// out[t, c] = silu(sum over j < taps of weight[c, j] x[t - taps + 1 + j, c] + bias[c]) along each
/// sequence, whose state begins with the last inputs [taps - 1, channels], oldest first.
struct DeviceConv {
  static constexpr int kMaxTaps = 4;
  const float* weight;  ///< [taps, channels]: of the newest input first
  const float* bias;    ///< [channels], or null
  int channels, taps;

  /// Where input `t` < 0 of channel c is, counted from the sequence's first token of this step;
  /// t > -taps, the sequence not fresh.
  __device__ const float* past(const RecurrentSequence& sequence, int t, int c) const {
    return sequence.state + static_cast<int64_t>(taps - 1 + t) * channels + c;
  }
  /// Input `t` > -taps of channel c.
  template <typename In>
  __device__ float input(const RecurrentSequence& sequence, const RowsOf<In>& x, int t,
                         int c) const {
    if (t >= 0) return to_float(x.row(sequence.first + t)[c]);
    if (sequence.fresh) return 0.0f;
    return *past(sequence, t, c);
  }
  /// Keeps the last inputs of channel c for the next step, once nobody reads the former ones.
  template <typename In>
  __device__ void keep_inputs(const RecurrentSequence& sequence, const RowsOf<In>& x, int c) const {
    float last[kMaxTaps - 1];
#pragma unroll
    for (int j = 0; j < kMaxTaps - 1; ++j) {
      if (j < taps - 1) last[j] = input(sequence, x, sequence.tokens - 1 - j, c);
    }
#pragma unroll
    for (int j = 0; j < kMaxTaps - 1; ++j) {
      if (j < taps - 1) {
        sequence.state[static_cast<int64_t>(taps - 2 - j) * channels + c] = last[j];
      }
    }
  }
};

}  // namespace moe4::cuda
