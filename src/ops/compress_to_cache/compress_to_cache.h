// CompressToCache: keys that several tokens share, from their projections to a cache of their own.
#pragma once

#include "ops/batch.h"
#include "ops/norm/add_norm.h"
#include "ops/op.h"

namespace moe4 {

/// Every `ratio` tokens of a sequence become one key (DeepSeek-V4's report, section 2.3). Of token
/// t at position p, with i = p % ratio and elements d of [0, dim):
///   weight_t[d] = gate[t, d] + bias[i, d]
///   entry_j[d] = sum_t kv[t, d] softmax_t(weight_t[d])     over its own tokens, p / ratio == j
///   key_j = rotate(norm(entry_j))
/// With `overlaps`, kv, gate and bias are twice as wide and an entry is a sum over 2 ratio tokens:
/// the second halves of its own and the first halves of the ratio before them (of entry 0 there are
/// none). rotate() turns elements 2i and 2i + 1 of the last rotary_dim by the angles of the token
/// that completes the entry, which are to be those of the entry's first position
/// (RotarySpec::step). A key goes to the cache as PagedSpec says of its ratio, rounded to the
/// cache's dtype (F16 saturates at 65504; a key with an infinite element becomes NaN).
///
/// The state keeps, for each element, what is summed so far: the largest weight, the sum of
/// exp(weight - largest), and that of kv with those factors; with `overlaps` a second time for the
/// next entry. Tokens join in their order, so that bits do not depend on how steps cut them.
/// Rows are float32; on a GPU kv and gate may be BF16 too, each of its own.
struct CompressToCache {
  static constexpr std::string_view kName = "compress_to_cache";
  struct Problem {
    int64_t dim = 0;
    int64_t ratio = 0;
    bool overlaps = false;
    int64_t rotary_dim = 0;  ///< even
    NormSpec norm;
    DType cache_dtype = DType::kF16;  ///< or kF32

    int64_t width() const { return overlaps ? 2 * dim : dim; }
    PagedSpec cache() const {
      return {
          .num_kv_heads = 1, .key_dim = dim, .value_dim = 0, .dtype = cache_dtype, .ratio = ratio};
    }
    RecurrentSpec state() const { return {.floats = {3 * width()}}; }
  };
  struct Weights {
    TensorRef bias;  ///< [ratio, width()]
    TensorRef norm;  ///< [dim]
  };
  struct Args {
    Rows kv, gate;  ///< [T, width()]
    Rows angles;    ///< [T, rotary_dim], see RotaryAngles
    const Batch* batch = nullptr;
    LayerCache cache;  ///< of cache()
    LayerCache state;  ///< of state()
  };
  static void check(const Problem& problem, const Args& args);
};

}  // namespace moe4
