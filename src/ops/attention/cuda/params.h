// What the kernels of PagedAttention are given, and who launches them.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#include "ops/attention/paged_attention.h"

namespace moe4::cuda {

/// A problem and its call as kernels see them. Scores are in units of log 2: exponentials are
/// powers of 2.
struct AttentionParams {
  const float* queries;  // [T, num_heads * head_dim]
  int64_t query_stride;
  const std::byte* gates;  // [T, gate_width]
  int64_t gate_stride;
  std::byte* y;  // [T, num_heads * value_dim]
  int64_t y_stride;
  bool gates_are_bf16, y_is_bf16;

  const int32_t *query_start, *context_len, *blocks;
  int64_t max_blocks;
  const std::byte* pages;
  int64_t page_bytes;
  int64_t values_in_page;  // bytes to the first head's values; latent: 0

  const float* sinks;  // times log2 e; null: none
  int num_heads, num_kv_heads, group;
  int head_dim, value_dim;
  int element_bytes;      // of the cache: 2 F16, 1 E4M3
  float v_scale;          // of results: that of E4M3 values times value_scale
  bool latent;            // values are the beginning of keys
  int window, chunk;      // 0: none
  int num_chosen;         // 0: all keys
  int block_size;         // of chosen blocks of keys; 0: keys are chosen
  const int32_t* chosen;  // [T, num_chosen], of blocks [T, num_kv_heads, num_chosen]
  // attend_prompts(), attend_prompts_sm90(): tokens from this position on are not theirs.
  int end_of_prompts;
  OutputGate output_gate;

  // Of a row of keys, of values in a page.
  __host__ __device__ int key_bytes() const { return head_dim * element_bytes; }
  __host__ __device__ int value_bytes() const { return value_width() * element_bytes; }
  // Elements of a row of values in a page, of which value_dim are used.
  __host__ __device__ int value_width() const { return latent ? head_dim : value_dim; }
  // Of the keys that a token at a position sees how many there are, where chosen ones are counted
  // in their order; of those before it all that a window or a chunk leaves out too.
  __device__ int num_keys(int64_t token, int kv_head, int position) const {
    if (num_chosen == 0) return position + 1;
    if (block_size == 0) return position < num_chosen ? position + 1 : num_chosen;
    // Blocks before a token's own are whole.
    const int own = position / block_size, count = own < num_chosen ? own + 1 : num_chosen;
    const int last = list(token, kv_head)[count - 1];
    const int in_last = last < own ? block_size : position + 1 - own * block_size;
    return (count - 1) * block_size + in_last;
  }
  // What is chosen for a token and KV head.
  __device__ const int32_t* list(int64_t token, int kv_head) const {
    return chosen + (block_size > 0 ? token * num_kv_heads + kv_head : token) * num_chosen;
  }
  // Whether tokens do not see all keys before them.
  __host__ __device__ bool is_limited() const { return window > 0 || chunk > 0; }

  float scale;  // of scores, times log2 e
};

/// Attention of one split: keys of a span, for `group` heads times some tokens, 16 rows a block.
///
/// The order in which keys are summed up is fixed: 64 keys (a page) make a partial result, four of
/// them are merged in order to a group, four groups to a super-group of 1024 keys, and those in
/// order to the result. A block does one page, one group or one super-group of a sequence and
/// leaves a partial result, as many as make a step of few sequences fill the machine; whichever it
/// is, the bits are the same.
struct SplitShape {
  int first_sequence;
  int num_sequences;
  int max_tokens;  // of a sequence
  // Tokens before this position are not done: those of prompts that see all keys though blocks
  // are chosen.
  int first_position;
  int span_shift;  // 6, 8, 10: keys of a block are a power of two; kAllKeys
  int num_spans;   // blocks of a sequence along the keys
  // Partial results where num_spans > 1, with i = ((s * num_kv_heads +
  // kv_head) * max_tokens * group + row) * num_spans + span: values [i, value_dim] and [i] {largest
  // score, sum}
  float* values;
  float2* sums;
  // Zeros, one for each 16 rows [s, row tile, kv_head], and zeros again behind the launch: who
  // draws the last one of a tile merges its partial results. Null: merge_splits() does.
  int32_t* tickets;
};
inline constexpr int kAllKeys = 31;  // a block does all keys of its rows

struct KernelLaunch {
  cudaStream_t stream;
  bool dependent;
};

inline constexpr int kMaxKeyPanels = 9;  // head_dim up to 576

/// Which of the keys before it a token sees.
enum class SeenKeys : uint8_t { kAll, kChosenKeys, kChosenBlocks };

/// How a problem is run on a device: chosen when prepared.
struct AttentionShape {
  // Of 64 elements: 1, 2, 4 of both, or kMaxKeyPanels and 8.
  int key_panels, value_panels;
  int split_tiles;  // tiles of keys or values that a block of attend_split() holds: 1, 2
  SeenKeys seen;
  // Heads of a block of attend_prompts(), 1 or 2; when prepared: at most so many. 0: attend_split()
  // does prompts too.
  int prompt_heads;
  int prompt_keys;    // keys of its tiles: 64, 32
  bool prompts_sm90;  // attend_prompts_sm90() does prompts
};

/// Choose what a kernel's blocks hold at once and let it have so much shared memory. False: there
/// is not enough.
bool prepare_split(AttentionShape& shape, int max_shared_bytes);
bool prepare_prompts(AttentionShape& shape, int max_shared_bytes);
/// On a device of SM90. False: this program has no code for it.
bool prepare_prompts_sm90(const AttentionShape& shape);

/// Blocks of attend_split() that have the `group` heads of so many tokens; where keys are chosen, a
/// block's rows are of one token.
constexpr int64_t split_row_tiles(int64_t tokens, int64_t group, SeenKeys seen) {
  return seen == SeenKeys::kAll ? (tokens * group + 15) / 16 : tokens * ((group + 15) / 16);
}
/// Writes y, or partial results where there are several spans and no tickets.
void attend_split(const AttentionShape& shape, const AttentionParams& params,
                  const SplitShape& split, const KernelLaunch& how);
/// Merges partial results to y.
void merge_splits(const AttentionParams& params, const SplitShape& split, const KernelLaunch& how);
/// Prompts: pieces of sequences from first_sequence on.
void attend_prompts(const AttentionShape& shape, const AttentionParams& params, int first_sequence,
                    int num_sequences, int max_tokens, const KernelLaunch& how);
void attend_prompts_sm90(const AttentionShape& shape, const AttentionParams& params,
                         int first_sequence, int num_sequences, int max_tokens,
                         const KernelLaunch& how);

}  // namespace moe4::cuda
