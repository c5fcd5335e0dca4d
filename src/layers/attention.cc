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

QkvToCache::Problem AttentionSpec::index_to_cache() const {
  return {.num_heads = num_kv_heads,
          .num_kv_heads = 1,
          .head_dim = block_index->dim,
          .rotary_dim = rotary_dim,
          .rotates_pairs = rotates_pairs,
          .norm = norm,
          .keys_alone = true,
          .cache_dtype = index_cache_dtype()};
}

ChooseBlocks::Problem AttentionSpec::choose_blocks() const {
  return {.num_heads = num_kv_heads,
          .dim = block_index->dim,
          .block_size = block_index->block_size,
          .most = block_index->most,
          .local = block_index->local,
          .cache_dtype = index_cache_dtype()};
}

BlockAttention::Problem AttentionSpec::block_attention() const {
  return {.num_heads = num_heads,
          .num_kv_heads = num_kv_heads,
          .head_dim = head_dim,
          .scale = attention().scale,
          .block_size = block_index->block_size,
          .num_chosen = block_index->most,
          .cache_dtype = cache_dtype,
          .k_scale = k_scale,
          .v_scale = v_scale};
}

std::vector<CacheSpec> Attention::caches() const {
  std::vector<CacheSpec> specs = {spec_.attention().cache()};
  if (spec_.block_index) specs.emplace_back(spec_.choose_blocks().cache());
  return specs;
}

int64_t Attention::weight_bytes() const {
  const int64_t sinks = parts_.attention != nullptr ? parts_.attention->weight_bytes() : 0;
  const int64_t index =
      parts_.index_to_cache != nullptr ? parts_.index_to_cache->weight_bytes() : 0;
  return parts_.qkv_proj->weight_bytes() + parts_.qkv_to_cache->weight_bytes() + sinks + index +
         parts_.o_proj->weight_bytes();
}

void Attention::forward(const LayerStep& step, const Rows& x, std::span<const LayerCache> caches,
                        const Rows& y) const {
  Execution& execution = step.execution;
  Arena& arena = execution.arena;
  Arena::Frame frame(arena);
  const int64_t tokens = x.rows, decodes = step.num_decode_tokens();
  const RowFormat format = execution.activations();
  const LayerCache& cache = caches.front();
  const PagedAttention::Problem problem = spec_.attention();
  const bool has_gate_proj = spec_.has_gate_proj(), has_index = spec_.block_index.has_value();
  const Rows inputs[] = {
      take_rows(arena, tokens, spec_.q_width() * (spec_.gates_beside_queries() ? 2 : 1), format),
      take_rows(arena, tokens, spec_.k_width(), format),
      take_rows(arena, tokens, spec_.v_width(), format),
      has_gate_proj ? take_rows(arena, tokens, problem.gate_width(), format) : Rows{}};
  const int64_t index_dim = has_index ? spec_.block_index->dim : 0;
  // What decides which blocks are chosen is float32, as a router's logits are.
  const Rows index[] = {
      has_index ? take_rows(arena, tokens, spec_.num_kv_heads * index_dim) : Rows{},
      has_index ? take_rows(arena, tokens, index_dim) : Rows{}};
  const Rows queries = take_rows(arena, tokens, spec_.q_width());  // float32 everywhere
  const Rows merged = take_rows(arena, tokens, spec_.o_width(), format);
  std::array<Rows, 6> outputs = {inputs[0], inputs[1]};
  size_t count = 2;
  if (!spec_.keys_are_values) outputs[count++] = inputs[2];
  if (has_gate_proj) outputs[count++] = inputs[3];
  for (size_t i = 0; has_index && i < 2; ++i) outputs[count++] = index[i];
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
  if (has_index) {
    attend_to_blocks(step, queries, index, caches, merged);
  } else {
    run(*parts_.attention,
        {.queries = queries,
         .gates = spec_.gates_beside_queries() ? inputs[0] : inputs[3],
         .batch = &step.batch,
         .cache = cache,
         .y = merged},
        execution);
  }
  run(*parts_.o_proj, {.x = merged, .y = {&y, 1}, .num_decode_tokens = decodes}, execution);
}

// `index`: queries and keys of the indexer as projected.
void Attention::attend_to_blocks(const LayerStep& step, const Rows& queries,
                                 std::span<const Rows> index, std::span<const LayerCache> caches,
                                 const Rows& y) const {
  Arena& arena = step.execution.arena;
  const int64_t tokens = queries.rows;
  const Rows index_queries = take_rows(arena, tokens, spec_.num_kv_heads * spec_.block_index->dim);
  auto* chosen = arena.take<int32_t>(tokens * spec_.num_kv_heads * spec_.block_index->most);
  run(*parts_.index_to_cache,
      {.q = index[0],
       .k = index[1],
       .angles = spec_.rotary_dim > 0 ? step.angles[spec_.rotary] : Rows{},
       .slots = step.batch.tables[caches[1].table].slots,
       .cache = caches[1],
       .queries = index_queries},
      step.execution);
  run(*parts_.choose_blocks,
      {.q = index_queries, .batch = &step.batch, .cache = caches[1], .chosen = chosen},
      step.execution);
  run(*parts_.block_attention,
      {.queries = queries, .batch = &step.batch, .cache = caches[0], .chosen = chosen, .y = y},
      step.execution);
}

}  // namespace moe4
