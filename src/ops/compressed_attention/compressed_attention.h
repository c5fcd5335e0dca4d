// CompressedAttention: attention to a window of keys and to keys that many tokens share.
#pragma once

#include "ops/batch.h"
#include "ops/op.h"
#include "ops/tensor_ref.h"

namespace moe4 {

/// For token t of a sequence and head h, with keys that are their own values (DeepSeek-V4's report,
/// section 2.3): the keys of the last `window` positions up to its own, and with a `ratio` those of
/// the entries j < (positions[t] + 1) / ratio that CompressToCache keeps, of which with num_chosen
/// only those that ChooseKeys lists for the token:
///   p_k = exp(scale * query . key_k) / (sum_k exp(scale * query . key_k) + exp(sink[h]))
///   y[t, h] = rotate_back(sum_k p_k key_k)
/// rotate_back() turns elements 2i and 2i + 1 of the last rotary_dim by minus the angles of the
/// token, since keys were turned by theirs. Rows of y that belong to no sequence (padding) mean
/// nothing.
/// Rows are float32; on a GPU y may be BF16 too. There the scaled queries and the weights (relative
/// to the largest of 64 keys) are rounded to F16 for the tensor cores, everything else is float32.
struct CompressedAttention {
  static constexpr std::string_view kName = "compressed_attention";
  struct Problem {
    int64_t num_heads = 0;
    int64_t head_dim = 0;
    int64_t rotary_dim = 0;  ///< even
    float scale = 1.0f;
    int64_t window = 0;               ///< above 0
    int64_t ratio = 0;                ///< tokens of an entry; 0: there are none
    int64_t num_chosen = 0;           ///< entries a token of Args::chosen; 0: all
    DType cache_dtype = DType::kF16;  ///< or kF32

    PagedSpec cache() const {
      return {.num_kv_heads = 1,
              .key_dim = head_dim,
              .value_dim = 0,
              .dtype = cache_dtype,
              .window = window};
    }
    PagedSpec entries() const {
      return {.num_kv_heads = 1,
              .key_dim = head_dim,
              .value_dim = 0,
              .dtype = cache_dtype,
              .ratio = ratio};
    }
  };
  struct Weights {
    TensorRef sinks;  ///< [num_heads], finite
  };
  struct Args {
    Rows queries;  ///< [T, num_heads * head_dim]
    Rows angles;   ///< [T, rotary_dim], see RotaryAngles
    const Batch* batch = nullptr;
    LayerCache cache;    ///< of cache()
    LayerCache entries;  ///< of entries(); not read without a ratio
    /// [T, num_chosen]: min((positions[t] + 1) / ratio, num_chosen) entries, rising; then -1. Not
    /// read where that is 0.
    const int32_t* chosen = nullptr;
    Rows y;  ///< [T, num_heads * head_dim]; may not alias queries
  };
  static void check(const Problem& problem, const Args& args);
};

}  // namespace moe4
