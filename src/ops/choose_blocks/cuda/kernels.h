// What the kernels of ChooseBlocks are given, and who launches them.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#include "ops/batch.h"

namespace moe4::cuda {

/// A problem and some tokens of its call as kernels see them.
struct ChooseBlocksParams {
  const float* q;  // [T, num_heads * dim]
  int64_t q_stride;
  const int32_t *positions, *query_start, *blocks;
  int num_seqs;
  int64_t max_blocks;
  const std::byte* pages;
  int64_t page_bytes;
  int num_heads, dim;
  int block_size, most, local;
  int run_keys;                // keys of a run: divides block_size and kKeysOfRun
  int first_token, end_token;  // of the call's, those whose ranks are there at once
  /// Of token first_token + i and its head: of run r the rank of the largest score, a number that
  /// rises with the score; 0 for what lies behind the token. None of tokens that see all blocks.
  uint32_t* runs;  // [end_token - first_token, num_heads, run_stride]
  int64_t run_stride;
  uint32_t* ranks;  // [end_token - first_token, num_heads, rank_stride]: the same of blocks
  int64_t rank_stride;
  int32_t* chosen;  // [T, num_heads, most]
};

struct ChooseBlocksLaunch {
  cudaStream_t stream;
  bool dependent;
};

inline constexpr int kKeysOfRun = 32;        // at most
inline constexpr int kKeysOfRunBlock = 128;  // at once
inline constexpr int kMostIndexHeads = 64;

/// Some sequences whose runs are ranked by one launch.
struct RankedSequences {
  int first_sequence, num_sequences;
  int max_tokens;       // of a sequence
  int64_t max_context;  // of a sequence
  int span;             // keys of a block: a multiple of kKeysOfRunBlock
};

/// Tokens of a sequence that a block of rank_runs() does at once.
constexpr int tokens_of_run_block(int num_heads) { return kMostIndexHeads / num_heads; }
/// Writes runs of those tokens that see more blocks than `most`.
void rank_runs(const ChooseBlocksParams& params, const RankedSequences& sequences,
               const ChooseBlocksLaunch& how);
/// Writes chosen from runs.
void take_blocks(const ChooseBlocksParams& params, const ChooseBlocksLaunch& how);

}  // namespace moe4::cuda
