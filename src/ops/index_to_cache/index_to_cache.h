// IndexToCache: the keys of a sparse attention's indexer, from their projection to a cache of their
// own.
#pragma once

#include "ops/batch.h"
#include "ops/op.h"
#include "ops/tensor_ref.h"

namespace moe4 {

/// For every token t (DeepSeek-V3.2's report, section 2.1):
///   key = rotate((k[t] - mean) / sqrt(variance + eps) * norm + norm_bias)      over all of k[t]
/// rotate() turns elements i and i + rotary_dim / 2 of the first rotary_dim by angle i, or with
/// `rotates_pairs` elements 2i and 2i + 1. The key goes, rounded to the cache's dtype (F16
/// saturates at 65504; a key with an infinite element becomes NaN), to slots[t] of the cache: page
/// slots[t] / 64, place slots[t] % 64; slots[t] of -1 stores nothing.
/// Rows are float32; on a GPU k may be BF16 too.
struct IndexToCache {
  static constexpr std::string_view kName = "index_to_cache";
  struct Problem {
    int64_t dim = 0;  ///< index_head_dim
    int64_t rotary_dim = 0;
    bool rotates_pairs = false;
    float eps = 1e-6f;
    DType cache_dtype = DType::kF16;  ///< or kF32

    PagedSpec cache() const {
      return {.num_kv_heads = 1, .key_dim = dim, .value_dim = 0, .dtype = cache_dtype};
    }
  };
  struct Weights {
    TensorRef norm, norm_bias;  ///< [dim]
  };
  struct Args {
    Rows k;                          ///< [T, dim]; overwritten with anything
    Rows angles;                     ///< [T, rotary_dim], see RotaryAngles
    const int32_t* slots = nullptr;  ///< [T]
    LayerCache cache;
  };
  static void check(const Problem& problem, const Args& args);
};

}  // namespace moe4
