// QkvToCache: from the projections of attention to normalised, rotated queries and cached keys and
// values. Norm and rotation are options.
#pragma once

#include <optional>

#include "ops/attention/query_temperature.h"
#include "ops/batch.h"
#include "ops/norm/add_norm.h"
#include "ops/op.h"

namespace moe4 {

/// For every token t and head h:
///   queries[t, h] = rotate(norm(q[t, h]))      norm: over head_dim, with q_norm, or none
///                                              times the temperature of the token's position
///   key = rotate(norm(k[t, h])), value = v[t, h], or value_norm(v[t, h])
/// With `keys_are_values`, v[t, h] is k[t, h] as it came, before norm and rotation; with
/// `keys_alone` there are no values, and the cache has none.
/// rotate() turns elements i and i + rotary_dim/2 of the first `rotary_dim` (with `rotates_end` the
/// last) by the angles of the token, or with `rotates_pairs` elements 2i and 2i + 1; with a
/// rotary_dim of 0 there are none.
/// A norm without weights over a head is the same before and after its rotation (Llama-4).
/// Key and value go, rounded to the cache's dtype (F16 saturates at 65504, F8E4M3 at 448; a head
/// with an infinite element becomes NaN), to slots[t] of the cache: page slots[t] / 64, place
/// slots[t] % 64, laid out as PagedSpec says; slots[t] of -1 stores nothing. Rows are float32; on a
/// GPU q, k and v may be BF16 too, each of its own. Queries are float32 everywhere, since attention
/// rounds them to more bits than BF16 has.
struct QkvToCache {
  static constexpr std::string_view kName = "qkv_to_cache";
  struct Problem {
    int64_t num_heads = 0;
    int64_t num_kv_heads = 0;
    int64_t head_dim = 0;
    int64_t rotary_dim = 0;    ///< even, at most head_dim; 0: queries and keys stay as they are
    bool output_gate = false;  ///< rows of q are [query | gate] per head; gates are not read here
    bool rotates_pairs = false;
    bool rotates_end = false;
    int64_t value_width = 0;  ///< of a head of v, at most head_dim, a multiple of 16; 0: head_dim
    QueryTemperature temperature;
    std::optional<NormSpec> norm;  ///< of every head of q and k; none: they are taken as they are
    bool plain_queries = false;    ///< the norm of q has no weights, whatever that of k has
    /// The norm's mean and weights are over all heads of q, and over all of k, together.
    bool norm_over_heads = false;
    std::optional<NormSpec> value_norm;  ///< of every head of v; it has no weight
    bool keys_are_values = false;
    bool keys_alone = false;
    DType cache_dtype = DType::kF16;  ///< or kF32, kF8E4M3
    /// kF8E4M3: keys and values are divided by these before they are rounded.
    float k_scale = 1.0f, v_scale = 1.0f;

    /// Its window is the affair of the attention that reads it.
    PagedSpec cache() const {
      return {.num_kv_heads = num_kv_heads,
              .key_dim = head_dim,
              .value_dim = value_dim(),
              .dtype = cache_dtype};
    }
    int64_t value_dim() const { return keys_alone ? 0 : value_width > 0 ? value_width : head_dim; }
    /// Width of a row of q.
    int64_t q_width() const { return num_heads * head_dim * (output_gate ? 2 : 1); }
    /// Elements that one norm of queries, or of keys, is over.
    int64_t q_norm_width() const { return norm_over_heads ? num_heads * head_dim : head_dim; }
    int64_t k_norm_width() const { return norm_over_heads ? num_kv_heads * head_dim : head_dim; }
  };
  struct Weights {
    /// [q_norm_width], [k_norm_width]; not read without Problem::norm, or where it has no weight;
    /// of plain_queries the first is not
    TensorRef q_norm, k_norm;
  };
  struct Args {
    Rows q;  ///< [T, q_width]
    /// [T, num_kv_heads * head_dim] and [T, num_kv_heads * value_dim]; overwritten with anything. v
    /// is not read with keys_are_values, and empty with keys_alone.
    Rows k, v;
    Rows angles;  ///< [T, rotary_dim], see RotaryAngles; not read where that is 0
    const int32_t* slots = nullptr;      ///< [T]
    const int32_t* positions = nullptr;  ///< [T]; not read where the temperature is one
    LayerCache cache;
    Rows queries;  ///< out [T, num_heads * head_dim]
  };
  static void check(const Problem& problem, const Args& args);
};

}  // namespace moe4
