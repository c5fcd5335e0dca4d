// The composition of multi-head latent attention.
#include "layers/latent_attention.h"

#include "base/error.h"

namespace moe4 {

LatentToCache::Problem LatentAttentionSpec::latent_to_cache() const {
  return {.q_latent_dim = q_latent_dim,
          .latent_dim = latent_dim,
          .rope_dim = rope_dim,
          .norm = norm,
          .cache_dtype = cache_dtype};
}

IndexToCache::Problem LatentAttentionSpec::index_to_cache() const {
  return {.dim = index->dim,
          .rotary_dim = rope_dim,
          .rotates_pairs = index->rotates_pairs,
          .cache_dtype = cache_dtype};
}

ChooseKeys::Problem LatentAttentionSpec::choose_keys() const {
  return {.num_heads = index->num_heads,
          .dim = index->dim,
          .rotary_dim = rope_dim,
          .rotates_pairs = index->rotates_pairs,
          .most = index->most,
          .cache_dtype = cache_dtype};
}

LatentAttention::Problem LatentAttentionSpec::attention() const {
  return {.num_heads = num_heads,
          .nope_dim = nope_dim,
          .rope_dim = rope_dim,
          .latent_dim = latent_dim,
          .value_dim = value_dim,
          .scale = scale,
          .temperature = temperature,
          .num_chosen = index ? index->most : 0,
          .cache_dtype = cache_dtype};
}

LatentAttentionMixer::LatentAttentionMixer(const LatentAttentionSpec& spec,
                                           LatentAttentionParts parts)
    : spec_(spec), parts_(std::move(parts)) {
  MOE4_CHECK((parts_.q_b != nullptr) == (spec_.q_latent_dim > 0));
  MOE4_CHECK(!spec_.has_indexer() || (parts_.q_b != nullptr && parts_.choose_keys != nullptr));
}

std::vector<CacheSpec> LatentAttentionMixer::caches() const {
  std::vector<CacheSpec> specs = {parts_.latent_to_cache->problem().cache()};
  if (spec_.has_indexer()) specs.emplace_back(spec_.index_to_cache().cache());
  return specs;
}

int64_t LatentAttentionMixer::weight_bytes() const {
  const int64_t q_b = parts_.q_b != nullptr ? parts_.q_b->weight_bytes() : 0;
  return parts_.inputs->weight_bytes() + parts_.latent_to_cache->weight_bytes() + q_b +
         parts_.attention->weight_bytes() + parts_.o_proj->weight_bytes();
}

void LatentAttentionMixer::forward(const LayerStep& step, const Rows& x,
                                   std::span<const LayerCache> caches, const Rows& y) const {
  Execution& execution = step.execution;
  Arena& arena = execution.arena;
  Arena::Frame frame(arena);
  const int64_t tokens = x.rows, decodes = step.num_decode_tokens();
  const RowFormat format = execution.activations();
  const LayerCache& cache = caches.front();
  const Rows& angles = step.angles[spec_.rotary];
  const LatentAttention::Problem& problem = parts_.attention->problem();
  const bool has_q_latent = parts_.q_b != nullptr, has_indexer = spec_.has_indexer();
  MOE4_CHECK(!spec_.index || execution.is_measuring() || step.chosen_keys != nullptr);

  // What decides which keys are chosen is float32, as a router's logits are.
  const Rows inputs[] = {
      take_rows(arena, tokens, has_q_latent ? spec_.q_latent_dim : problem.q_width(), format),
      take_rows(arena, tokens, spec_.latent_dim + spec_.rope_dim, format),
      has_indexer ? take_rows(arena, tokens, spec_.index->dim) : Rows{},
      has_indexer ? take_rows(arena, tokens, spec_.index->num_heads) : Rows{}};
  Rows q = inputs[0];
  run(*parts_.inputs,
      {.x = x, .y = std::span(inputs).first(has_indexer ? 4 : 2), .num_decode_tokens = decodes},
      execution);
  run(*parts_.latent_to_cache,
      {.q_latent = has_q_latent ? inputs[0] : Rows{},
       .kv = inputs[1],
       .angles = angles,
       .slots = step.batch.tables[cache.table].slots,
       .cache = cache},
      execution);
  if (has_q_latent) {
    q = take_rows(arena, tokens, problem.q_width(), format);
    const Rows queries[] = {
        q,
        has_indexer ? take_rows(arena, tokens, spec_.index->num_heads * spec_.index->dim) : Rows{}};
    run(*parts_.q_b,
        {.x = inputs[0],
         .y = std::span(queries).first(has_indexer ? 2 : 1),
         .num_decode_tokens = decodes},
        execution);
    if (has_indexer) choose(step, queries[1], inputs[2], inputs[3], caches[1]);
  }
  const Rows merged = take_rows(arena, tokens, problem.y_width(), format);
  run(*parts_.attention,
      {.q = q,
       .angles = angles,
       .batch = &step.batch,
       .cache = cache,
       .chosen = step.chosen_keys,
       .y = merged},
      execution);
  run(*parts_.o_proj, {.x = merged, .y = {&y, 1}, .num_decode_tokens = decodes}, execution);
}

void LatentAttentionMixer::choose(const LayerStep& step, const Rows& q_index, const Rows& k_index,
                                  const Rows& weights, const LayerCache& cache) const {
  const Rows& angles = step.angles[spec_.rotary];
  run(*parts_.index_to_cache,
      {.k = k_index,
       .angles = angles,
       .slots = step.batch.tables[cache.table].slots,
       .cache = cache},
      step.execution);
  run(*parts_.choose_keys,
      {.q = q_index,
       .weights = weights,
       .angles = angles,
       .batch = &step.batch,
       .cache = cache,
       .chosen = step.chosen_keys},
      step.execution);
}

}  // namespace moe4
