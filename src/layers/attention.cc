// Attention: projections, cache, scores in fixed segments of keys, output gate.
#include "layers/attention.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/error.h"

namespace moe4 {
namespace {

// Keys are attended to in segments of this many, merged in order; long contexts spread their
// segments over threads in decode. Part of the arithmetic: changing it changes the last bits.
constexpr int64_t kSegment = 1024;
static_assert(kSegment % kKeyBlock == 0);

// Queries of one KV head worked on together: two tiles of the widest kernel.
constexpr int64_t kQueryTile = 12;
static_assert(kQueryTile <= kMaxQueries);

constexpr float kLargest = std::numeric_limits<float>::max();

// Unnormalised attention of some queries over some keys.
struct Partial {
  float* accumulators;  // [kQueryTile, head_dim]
  float* max_score;     // [kQueryTile]
  float* sum;           // [kQueryTile]

  static int64_t floats(int64_t head_dim) { return kQueryTile * (head_dim + 2); }
  static Partial at(float* memory, int64_t head_dim) {
    float* max_score = memory + kQueryTile * head_dim;
    return {memory, max_score, max_score + kQueryTile};
  }
};

// into <- into merged with `next`, whose keys follow.
void merge(const Partial& into, const Partial& next, int64_t num_queries, int64_t head_dim) {
  for (int64_t q = 0; q < num_queries; ++q) {
    if (next.sum[q] == 0.0f) continue;  // sees no key of that segment
    const float top = std::max(into.max_score[q], next.max_score[q]);
    const float keep = std::exp(into.max_score[q] - top);
    const float add = std::exp(next.max_score[q] - top);
    float* a = into.accumulators + q * head_dim;
    const float* b = next.accumulators + q * head_dim;
    for (int64_t d = 0; d < head_dim; ++d) a[d] = a[d] * keep + b[d] * add;
    into.sum[q] = into.sum[q] * keep + next.sum[q] * add;
    into.max_score[q] = top;
  }
}

}  // namespace

class Attention::Cache final : public MixerState {
 public:
  Cache(const AttentionShape& shape, int64_t capacity, DType dtype)
      : dtype_(dtype),
        capacity_(capacity),
        head_dim_(shape.head_dim),
        keys_(static_cast<size_t>(shape.num_kv_heads * capacity * row_bytes())),
        values_(keys_.size()) {}

  DType dtype() const { return dtype_; }
  int64_t capacity() const { return capacity_; }
  int64_t row_bytes() const { return head_dim_ * size_of(dtype_); }
  std::byte* key(int64_t head, int64_t position) {
    return keys_.data() + (head * capacity_ + position) * row_bytes();
  }
  std::byte* value(int64_t head, int64_t position) {
    return values_.data() + (head * capacity_ + position) * row_bytes();
  }
  const std::byte* keys_of(int64_t head) const {
    return keys_.data() + head * capacity_ * row_bytes();
  }
  const std::byte* values_of(int64_t head) const {
    return values_.data() + head * capacity_ * row_bytes();
  }

 private:
  DType dtype_;
  int64_t capacity_, head_dim_;
  AlignedBuffer keys_, values_;
};

// Outputs of the projections, rows dense; queries become [kv_head][token][group][head_dim].
struct Attention::Projections {
  float* q;        // [T, heads * head_dim] or twice that with gates
  float* k;        // [T, kv_heads * head_dim]
  float* v;        // [T, kv_heads * head_dim]
  float* queries;  // normalised and rotated
};

Attention::Attention(const AttentionShape& shape, const Rotary& rotary, AttentionWeights weights)
    : shape_(shape), rotary_(rotary), weights_(std::move(weights)) {
  MOE4_CHECK(shape_.head_dim % 16 == 0 && shape_.num_heads % shape_.num_kv_heads == 0);
}

std::unique_ptr<MixerState> Attention::new_state(int64_t capacity, DType kv_dtype) const {
  return std::make_unique<Cache>(shape_, capacity, kv_dtype);
}

int64_t Attention::weight_bytes() const {
  return weights_.q_proj.weight_bytes() + weights_.k_proj.weight_bytes() +
         weights_.v_proj.weight_bytes() + weights_.o_proj.weight_bytes();
}

void Attention::forward(LayerContext& context, const Activations& x, const Positions& positions,
                        MixerState& state, float* out) const {
  Scratch::Frame frame(context.scratch);
  const int64_t tokens = positions.num_tokens;
  const int64_t q_width = shape_.num_heads * shape_.head_dim * (shape_.output_gate ? 2 : 1);
  const int64_t kv_width = shape_.num_kv_heads * shape_.head_dim;
  Projections p{};
  p.q = context.scratch.take<float>(tokens * q_width);
  p.k = context.scratch.take<float>(tokens * kv_width);
  p.v = context.scratch.take<float>(tokens * kv_width);
  p.queries = context.scratch.take<float>(tokens * shape_.num_heads * shape_.head_dim);
  const LinearCall calls[] = {{&weights_.q_proj, x.data, x.stride, p.q, q_width},
                              {&weights_.k_proj, x.data, x.stride, p.k, kv_width},
                              {&weights_.v_proj, x.data, x.stride, p.v, kv_width}};
  apply_linears(context, calls, tokens);

  auto& cache = static_cast<Cache&>(state);
  MOE4_CHECK(positions.start + tokens <= cache.capacity());
  store_heads(context, positions, p, cache);
  const Activations merged = take_activations(context, tokens, shape_.num_heads * shape_.head_dim);
  attend(context, positions, p, cache, merged);
  apply_linear(context, {&weights_.o_proj, merged.data, merged.stride, out, shape_.hidden_size},
               tokens);
}

// Norm and rotation of every query and key head; keys and values go to the cache.
void Attention::store_heads(LayerContext& context, const Positions& positions, const Projections& p,
                            Cache& cache) const {
  const int64_t dim = shape_.head_dim, heads = shape_.num_heads, kv_heads = shape_.num_kv_heads;
  const int64_t group = heads / kv_heads, tokens = positions.num_tokens;
  const int64_t q_stride = dim * (shape_.output_gate ? 2 : 1);
  const auto store = [&](const float* head, std::byte* to) {
    if (cache.dtype() == DType::kF16) {
      auto* row = reinterpret_cast<F16*>(to);
      context.kernels.to_f16(head, dim, row);
      // The conversion saturates, and infinity must not pass for a large number.
      bool infinite = false;
      for (int64_t d = 0; d < dim; ++d) infinite |= std::abs(head[d]) > kLargest;
      if (infinite) std::fill_n(row, dim, to_f16(std::numeric_limits<float>::quiet_NaN()));
    } else {
      std::copy(head, head + dim, reinterpret_cast<float*>(to));
    }
  };
  const int64_t bytes = 4 * (heads + kv_heads) * dim * int64_t{sizeof(float)};
  context.threads.parallel_for(
      tokens, parallel_grain(tokens, bytes), [&](int64_t begin, int64_t end, int) {
        for (int64_t t = begin; t < end; ++t) {
          const float* cos = positions.cos + t * rotary_.half();
          const float* sin = positions.sin + t * rotary_.half();
          for (int64_t h = 0; h < heads; ++h) {
            float* query = p.queries + (((h / group) * tokens + t) * group + h % group) * dim;
            weights_.q_norm.apply(context.kernels, p.q + (t * heads + h) * q_stride, query);
            rotary_.apply(cos, sin, query);
          }
          for (int64_t h = 0; h < kv_heads; ++h) {
            float* key = p.k + (t * kv_heads + h) * dim;
            weights_.k_norm.apply(context.kernels, key, key);
            rotary_.apply(cos, sin, key);
            store(key, cache.key(h, positions.start + t));
            store(p.v + (t * kv_heads + h) * dim, cache.value(h, positions.start + t));
          }
        }
      });
}

void Attention::attend(LayerContext& context, const Positions& positions, const Projections& p,
                       const Cache& cache, const Activations& merged) const {
  const int64_t dim = shape_.head_dim, heads = shape_.num_heads, kv_heads = shape_.num_kv_heads;
  const int64_t group = heads / kv_heads, tokens = positions.num_tokens;
  const int64_t queries = tokens * group;  // of one KV head, index t * group + g
  const int64_t tiles = ceil_div(queries, kQueryTile);
  const int64_t num_keys = positions.start + tokens;
  const int64_t segments = ceil_div(num_keys, kSegment);
  // Few tiles and long contexts: segments run in parallel and are merged afterwards.
  const bool split = segments > 1 && kv_heads * tiles < 4 * context.threads.size();
  const int64_t partial_floats = Partial::floats(dim);
  auto* partials = context.scratch.take<float>(
      partial_floats *
      (split ? kv_heads * tiles * segments : 2 * static_cast<int64_t>(context.threads.size())));

  const auto run = [&](int64_t head, int64_t tile, int64_t segment, const Partial& into) {
    const int64_t first = tile * kQueryTile;
    const int64_t n = std::min(kQueryTile, queries - first);
    int64_t position[kQueryTile];
    for (int64_t i = 0; i < n; ++i) position[i] = positions.start + (first + i) / group;
    context.kernels.attend({.queries = p.queries + (head * queries + first) * dim,
                            .positions = position,
                            .num_queries = n,
                            .keys = cache.keys_of(head),
                            .values = cache.values_of(head),
                            .kv_dtype = cache.dtype(),
                            .head_dim = dim,
                            .scale = 1.0f / std::sqrt(static_cast<float>(dim)),
                            .key_begin = segment * kSegment,
                            .key_end = std::min((segment + 1) * kSegment, num_keys),
                            .accumulators = into.accumulators,
                            .max_score = into.max_score,
                            .sum = into.sum});
  };
  // Divides by the sum, applies the gate and stores the heads in token order.
  const auto finish = [&](int64_t head, int64_t tile, const Partial& total) {
    const int64_t first = tile * kQueryTile;
    for (int64_t i = 0; i < std::min(kQueryTile, queries - first); ++i) {
      const int64_t t = (first + i) / group, h = head * group + (first + i) % group;
      float* out = merged.row(t) + h * dim;
      const float* from = total.accumulators + i * dim;
      const float inverse = 1.0f / total.sum[i];
      for (int64_t d = 0; d < dim; ++d) out[d] = from[d] * inverse;
      if (shape_.output_gate) {
        context.kernels.sigmoid_mul(out, p.q + ((t * heads + h) * 2 + 1) * dim, dim);
      }
    }
  };

  const auto partial_at = [&](int64_t i) {
    return Partial::at(partials + i * partial_floats, dim);
  };
  if (split) {
    context.threads.parallel_for(
        kv_heads * tiles * segments, 1, [&](int64_t begin, int64_t end, int) {
          for (int64_t i = begin; i < end; ++i) {
            run(i / segments / tiles, i / segments % tiles, i % segments, partial_at(i));
          }
        });
    for (int64_t i = 0; i < kv_heads * tiles; ++i) {
      const Partial total = partial_at(i * segments);
      const int64_t n = std::min(kQueryTile, queries - i % tiles * kQueryTile);
      for (int64_t s = 1; s < segments; ++s) merge(total, partial_at(i * segments + s), n, dim);
      finish(i / tiles, i % tiles, total);
    }
    return;
  }
  // Every query of a tile passes over the keys and values.
  const int64_t bytes = num_keys * 2 * cache.row_bytes() * std::min(kQueryTile, queries);
  context.threads.parallel_for(
      kv_heads * tiles, parallel_grain(kv_heads * tiles, bytes),
      [&](int64_t begin, int64_t end, int thread) {
        const Partial total = partial_at(2 * thread), next = partial_at(2 * thread + 1);
        for (int64_t i = begin; i < end; ++i) {
          const int64_t head = i / tiles, tile = i % tiles;
          const int64_t n = std::min(kQueryTile, queries - tile * kQueryTile);
          const int64_t last = (positions.start + (tile * kQueryTile + n - 1) / group) / kSegment;
          run(head, tile, 0, total);
          for (int64_t s = 1; s <= last; ++s) {
            run(head, tile, s, next);
            merge(total, next, n, dim);
          }
          finish(head, tile, total);
        }
      });
}

}  // namespace moe4
