// What the kernels of ChooseKeys are given, and who launches them.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#include "device/cuda/divisor.h"
#include "ops/batch.h"
#include "ops/cuda/shared_keys.h"

namespace moe4::cuda {

/// A problem and some tokens of its call as kernels see them.
struct ChooseParams {
  const std::byte* q;  // [T, num_heads * dim]
  int64_t q_stride;
  const std::byte* weights;  // [T, num_heads]
  int64_t weight_stride;
  bool q_is_bf16, weights_are_bf16;
  const float* angles;  // [T, 2 * half]
  int64_t angle_stride;
  const int32_t *positions, *query_start, *blocks;
  int num_seqs;
  int64_t max_blocks;
  const std::byte* pages;
  int64_t page_bytes;
  int num_heads, dim, half;
  int turned;  // the 2 half elements of a head from this one on turn
  bool rotates_pairs;
  bool are_shared;  // each key by several tokens
  Divisor by_ratio;
  SharedKeyPlaces places;
  int most;
  int first_token;
  /// Of token first_token + i and key j: a number that rises with the score. None of tokens that
  /// attend to all keys.
  uint32_t* ranks;  // [num_tokens, rank_stride]
  int64_t rank_stride;
  int32_t* chosen;  // [T, most]

#ifdef __CUDACC__
  // Keys that the token at a position may see.
  __device__ int num_keys(int position) const {
    return static_cast<int>(by_ratio.divide(static_cast<uint32_t>(position + 1)));
  }
#endif
};

struct ChooseLaunch {
  int num_tokens;
  cudaStream_t stream;
  bool dependent;
};

inline constexpr int kKeysOfScoreBlock = 128;  // at once

/// Lets rank_keys() have the shared memory that so many heads take.
void prepare_ranks(int num_heads);
/// Writes ranks of keys up to the tokens' own, `span` of them a block: a multiple of
/// kKeysOfScoreBlock; no token sees more than max_keys.
void rank_keys(const ChooseParams& params, int span, int64_t max_keys, const ChooseLaunch& how);
/// Writes chosen from ranks.
void take_largest(const ChooseParams& params, const ChooseLaunch& how);

}  // namespace moe4::cuda
