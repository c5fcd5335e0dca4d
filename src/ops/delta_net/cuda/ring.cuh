// Where a sequence's state has the tokens that S does not know yet (DeltaNet::Problem::ring).
#pragma once

#include "ops/cuda/recurrent.cuh"
#include "ops/delta_net/delta_net.h"

namespace moe4::cuda {

inline constexpr int kMaxRing = static_cast<int>(DeltaNet::kMaxRing);

struct DeltaRing {
  int tokens, key_dim, value_dim;  // tokens: a power of two; 1: there is no ring
  int64_t keys, values, decays;    // floats from the beginning of a state

  explicit DeltaRing(const DeltaNet::Problem& problem)
      : tokens(static_cast<int>(problem.ring)),
        key_dim(static_cast<int>(problem.key_dim)),
        value_dim(static_cast<int>(problem.value_dim)),
        keys(problem.ring_offset()),
        values(keys + problem.ring * problem.keys()),
        decays(values + problem.ring * problem.values()) {}

  /// Tokens before this position that S does not know.
  __device__ int unknown(int position) const { return position & (tokens - 1); }
  /// k [tokens, key_dim] of a key head,
  __device__ float* keys_of(const RecurrentSequence& sequence, int key_head) const {
    return sequence.state + keys + static_cast<int64_t>(key_head) * tokens * key_dim;
  }
  /// u [tokens, value_dim] and the logarithms of decays [tokens] of a value head.
  __device__ float* values_of(const RecurrentSequence& sequence, int head) const {
    return sequence.state + values + static_cast<int64_t>(head) * tokens * value_dim;
  }
  __device__ float* decays_of(const RecurrentSequence& sequence, int head) const {
    return sequence.state + decays + static_cast<int64_t>(head) * tokens;
  }
};

}  // namespace moe4::cuda
