// Attention: projections, cache, softmax, output projection.
#include "layers/attention.h"

#include <cmath>

namespace moe4 {

Attention::Attention(const AttentionSpec& spec, AttentionParts parts, const OpOptions& options)
    : spec_(spec), qkv_proj_(std::move(parts.qkv_proj)), o_proj_(std::move(parts.o_proj)) {
  qkv_to_cache_ = prepare<QkvToCache>({.num_heads = spec.num_heads,
                                       .num_kv_heads = spec.num_kv_heads,
                                       .head_dim = spec.head_dim,
                                       .rotary_dim = spec.rotary_dim,
                                       .output_gate = spec.output_gate,
                                       .norm = spec.norm,
                                       .cache_dtype = spec.cache_dtype},
                                      {.q_norm = parts.q_norm, .k_norm = parts.k_norm}, options);
  attention_ =
      prepare<PagedAttention>({.num_heads = spec.num_heads,
                               .num_kv_heads = spec.num_kv_heads,
                               .head_dim = spec.head_dim,
                               .scale = 1.0f / std::sqrt(static_cast<float>(spec.head_dim)),
                               .output_gate = spec.output_gate,
                               .cache_dtype = spec.cache_dtype},
                              {}, options);
}

int64_t Attention::weight_bytes() const {
  return qkv_proj_->weight_bytes() + o_proj_->weight_bytes() + qkv_to_cache_->weight_bytes();
}

void Attention::forward(const LayerStep& step, const Rows& x, std::span<const LayerCache> caches,
                        const Rows& y) const {
  Execution& execution = step.execution;
  Arena& arena = execution.arena;
  Arena::Frame frame(arena);
  const int64_t tokens = x.rows;
  const LayerCache& cache = caches.front();
  const Rows qkv[] = {take_rows(arena, tokens, spec_.q_width() * (spec_.output_gate ? 2 : 1)),
                      take_rows(arena, tokens, spec_.kv_width()),
                      take_rows(arena, tokens, spec_.kv_width())};
  const Rows queries = take_rows(arena, tokens, spec_.q_width());
  const Rows merged = take_rows(arena, tokens, spec_.q_width());
  run(*qkv_proj_, {.x = x, .y = qkv}, execution);
  run(*qkv_to_cache_,
      {.q = qkv[0],
       .k = qkv[1],
       .v = qkv[2],
       .angles = step.angles[spec_.rotary],
       .slots = step.batch.tables[cache.table].slots,
       .cache = cache,
       .queries = queries},
      execution);
  run(*attention_,
      {.queries = queries,
       .gates = spec_.output_gate ? qkv[0] : Rows{},
       .batch = &step.batch,
       .cache = cache,
       .y = merged},
      execution);
  run(*o_proj_, {.x = merged, .y = {&y, 1}}, execution);
}

}  // namespace moe4
