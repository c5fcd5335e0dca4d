// ChooseKeys: the indexer of sparse attention, from its queries to the positions that a token
// attends to.
#pragma once

#include "ops/batch.h"
#include "ops/op.h"

namespace moe4 {

/// For token t and the keys j in [0, positions[t]] that IndexToCache keeps of its sequence
/// (DeepSeek-V3.2's report, section 2.1), or with a `ratio` the keys j < (positions[t] + 1) / ratio
/// that CompressToCache keeps, each of so many tokens:
///   score_j = sum_a weights[t, a] relu(rotate(q[t, a]) . key_j)
///   chosen[t] = the `most` positions with the largest scores, or all where there are no more,
///               rising; then -1
/// Equal scores go to the lower position, a score that is no number is the largest. Constants that
/// multiply all scores change nothing and are left out. rotate() is IndexToCache's, or with
/// `rotates_end` the same of the last rotary_dim elements. Rows of chosen that belong to no
/// sequence (padding) are not written.
/// Rows are float32; on a GPU q and weights may be BF16 too, each of its own. There a turned query
/// is the sum of two F16 numbers, 22 bits of its head's largest element; sums are float32.
struct ChooseKeys {
  static constexpr std::string_view kName = "choose_keys";
  struct Problem {
    int64_t num_heads = 0;  ///< index_n_heads
    int64_t dim = 0;        ///< index_head_dim
    int64_t rotary_dim = 0;
    bool rotates_pairs = false;
    bool rotates_end = false;
    int64_t ratio = 1;                ///< tokens of a key, see PagedSpec
    int64_t most = 0;                 ///< index_topk
    DType cache_dtype = DType::kF16;  ///< or kF32; of IndexToCache's keys

    PagedSpec cache() const {
      return {
          .num_kv_heads = 1, .key_dim = dim, .value_dim = 0, .dtype = cache_dtype, .ratio = ratio};
    }
    /// Keys that the token at `position` may attend to.
    int64_t num_keys(int64_t position) const { return (position + 1) / ratio; }
  };
  struct Weights {};
  struct Args {
    Rows q;        ///< [T, num_heads * dim]; overwritten with anything
    Rows weights;  ///< [T, num_heads]
    Rows angles;   ///< [T, rotary_dim], see RotaryAngles
    const Batch* batch = nullptr;
    LayerCache cache;
    int32_t* chosen = nullptr;  ///< out [T, most]
  };
  static void check(const Problem& problem, const Args& args);
};

}  // namespace moe4
