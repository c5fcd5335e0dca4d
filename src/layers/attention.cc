// Attention: projections, cache, softmax, output projection.
#include "layers/attention.h"

#include <array>
#include <cmath>

namespace moe4 {

QkvToCache::Problem AttentionSpec::qkv_to_cache() const {
  return {.num_heads = num_heads,
          .num_kv_heads = num_kv_heads,
          .head_dim = head_dim,
          .rotary_dim = rotary_dim,
          .output_gate = gates_beside_queries(),
          .rotates_pairs = rotates_pairs,
          .value_width = value_width,
          .temperature = temperature,
          .norm = norm,
          .norm_over_heads = norm_over_heads,
          .value_norm = value_norm,
          .keys_are_values = keys_are_values,
          .cache_dtype = cache_dtype,
          .k_scale = k_scale,
          .v_scale = v_scale};
}

PagedAttention::Problem AttentionSpec::attention() const {
  return {.num_heads = num_heads,
          .num_kv_heads = num_kv_heads,
          .head_dim = head_dim,
          .value_width = value_width,
          .scale = scale != 0 ? scale : 1.0f / std::sqrt(static_cast<float>(head_dim)),
          .value_scale = value_scale,
          .window = window,
          .chunk = chunk,
          .sinks = sinks,
          .output_gate = output_gate,
          .cache_dtype = cache_dtype,
          .k_scale = k_scale,
          .v_scale = v_scale};
}

int64_t Attention::weight_bytes() const {
  return parts_.qkv_proj->weight_bytes() + parts_.qkv_to_cache->weight_bytes() +
         parts_.attention->weight_bytes() + parts_.o_proj->weight_bytes();
}

void Attention::forward(const LayerStep& step, const Rows& x, std::span<const LayerCache> caches,
                        const Rows& y) const {
  Execution& execution = step.execution;
  Arena& arena = execution.arena;
  Arena::Frame frame(arena);
  const int64_t tokens = x.rows, decodes = step.num_decode_tokens();
  const RowFormat format = execution.activations();
  const LayerCache& cache = caches.front();
  const PagedAttention::Problem& problem = parts_.attention->problem();
  const bool has_gate_proj = spec_.has_gate_proj();
  const Rows inputs[] = {
      take_rows(arena, tokens, spec_.q_width() * (spec_.gates_beside_queries() ? 2 : 1), format),
      take_rows(arena, tokens, spec_.k_width(), format),
      take_rows(arena, tokens, spec_.v_width(), format),
      has_gate_proj ? take_rows(arena, tokens, problem.gate_width(), format) : Rows{}};
  const Rows queries = take_rows(arena, tokens, spec_.q_width());  // float32 everywhere
  const Rows merged = take_rows(arena, tokens, spec_.o_width(), format);
  std::array<Rows, 4> outputs = {inputs[0], inputs[1]};
  size_t count = 2;
  if (!spec_.keys_are_values) outputs[count++] = inputs[2];
  if (has_gate_proj) outputs[count++] = inputs[3];
  run(*parts_.qkv_proj,
      {.x = x, .y = std::span(outputs).first(count), .num_decode_tokens = decodes}, execution);
  run(*parts_.qkv_to_cache,
      {.q = inputs[0],
       .k = inputs[1],
       .v = inputs[2],
       .angles = spec_.rotary_dim > 0 ? step.angles[spec_.rotary] : Rows{},
       .slots = step.batch.tables[cache.table].slots,
       .positions = step.batch.positions,
       .cache = cache,
       .queries = queries},
      execution);
  run(*parts_.attention,
      {.queries = queries,
       .gates = spec_.gates_beside_queries() ? inputs[0] : inputs[3],
       .batch = &step.batch,
       .cache = cache,
       .y = merged},
      execution);
  run(*parts_.o_proj, {.x = merged, .y = {&y, 1}, .num_decode_tokens = decodes}, execution);
}

}  // namespace moe4
