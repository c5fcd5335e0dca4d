// ChooseBlocks: the indexer of block-sparse attention, from its queries to the blocks of keys that
// every head of it lets a token attend to.
#pragma once

#include "ops/batch.h"
#include "ops/op.h"

namespace moe4 {

/// For token t, head a and the keys j in [0, positions[t]] of its sequence (MiniMax-M3):
///   score_b = max over the keys j of block b = j / block_size of q[t, a] . key_j
/// the blocks of the last `local` ones up to the token's own counting as infinite;
///   chosen[t, a] = the `most` blocks with the largest scores, or all where there are no more,
///                  rising; then -1
/// Equal scores go to the lower block, a score that is no number is the largest. Queries and keys
/// are rotated already (QkvToCache); queries are float32. Rows of chosen that belong to no sequence
/// (padding) are not written.
struct ChooseBlocks {
  static constexpr std::string_view kName = "choose_blocks";
  struct Problem {
    int64_t num_heads = 0;
    int64_t dim = 0;
    int64_t block_size = 0;           ///< keys of a block, of which the last may have fewer
    int64_t most = 0;                 ///< blocks of a head and token
    int64_t local = 0;                ///< at most `most`
    DType cache_dtype = DType::kF16;  ///< or kF32

    PagedSpec cache() const {
      return {.num_kv_heads = 1, .key_dim = dim, .value_dim = 0, .dtype = cache_dtype};
    }
  };
  struct Weights {};
  struct Args {
    Rows q;  ///< [T, num_heads * dim]
    const Batch* batch = nullptr;
    LayerCache cache;
    int32_t* chosen = nullptr;  ///< out [T, num_heads, most]
  };
  static void check(const Problem& problem, const Args& args);
};

}  // namespace moe4
