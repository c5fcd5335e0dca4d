// The composition of DeepSeek-V4's attention.
#include "layers/compressed_attention.h"

#include <array>
#include <cmath>

#include "base/error.h"

namespace moe4 {

QkvToCache::Problem CompressedAttentionSpec::qkv_to_cache() const {
  return {.num_heads = num_heads,
          .num_kv_heads = 1,
          .head_dim = head_dim,
          .rotary_dim = rotary_dim,
          .rotates_pairs = true,
          .rotates_end = true,
          .norm = norm,
          .plain_queries = true,
          .keys_alone = true,
          .cache_dtype = cache_dtype};
}

CompressToCache::Problem CompressedAttentionSpec::compress() const {
  return {.dim = head_dim,
          .ratio = ratio,
          .overlaps = overlaps,
          .rotary_dim = rotary_dim,
          .norm = norm,
          .cache_dtype = cache_dtype};
}

CompressToCache::Problem CompressedAttentionSpec::compress_index() const {
  CompressToCache::Problem problem = compress();
  problem.dim = index->dim;
  return problem;
}

ChooseKeys::Problem CompressedAttentionSpec::choose_keys() const {
  return {.num_heads = index->num_heads,
          .dim = index->dim,
          .rotary_dim = rotary_dim,
          .rotates_pairs = true,
          .rotates_end = true,
          .ratio = ratio,
          .most = index->most,
          .cache_dtype = cache_dtype};
}

CompressedAttention::Problem CompressedAttentionSpec::attention() const {
  return {.num_heads = num_heads,
          .head_dim = head_dim,
          .rotary_dim = rotary_dim,
          .scale = 1.0f / std::sqrt(static_cast<float>(head_dim)),
          .window = window,
          .ratio = ratio,
          .num_chosen = index ? index->most : 0,
          .cache_dtype = cache_dtype};
}

std::vector<CacheSpec> CompressedAttentionMixer::caches() const {
  std::vector<CacheSpec> specs = {spec_.attention().cache()};
  if (spec_.ratio > 0) {
    specs.emplace_back(spec_.attention().entries());
    specs.emplace_back(spec_.compress().state());
  }
  if (spec_.index) {
    specs.emplace_back(spec_.choose_keys().cache());
    specs.emplace_back(spec_.compress_index().state());
  }
  return specs;
}

int64_t CompressedAttentionMixer::weight_bytes() const {
  int64_t bytes = parts_.inputs->weight_bytes() + parts_.q_norm->weight_bytes() +
                  parts_.queries->weight_bytes() + parts_.qkv_to_cache->weight_bytes() +
                  parts_.attention->weight_bytes() + parts_.o_proj->weight_bytes();
  for (const auto* compress : {&parts_.compress, &parts_.compress_index}) {
    if (*compress != nullptr) bytes += (*compress)->weight_bytes();
  }
  for (const auto& group : parts_.group_proj) bytes += group->weight_bytes();
  return bytes;
}

void CompressedAttentionMixer::forward(const LayerStep& step, const Rows& x,
                                       std::span<const LayerCache> caches, const Rows& y) const {
  Execution& execution = step.execution;
  Arena& arena = execution.arena;
  Arena::Frame frame(arena);
  const int64_t tokens = x.rows, decodes = step.num_decode_tokens();
  const RowFormat format = execution.activations();
  const Rows& angles = step.angles[spec_.rotary];

  // What decides which keys are chosen is float32, as a router's logits are; so are the weights of
  // tokens in shared keys.
  const Rows q_latent = take_rows(arena, tokens, spec_.q_latent_dim, format);
  std::array<Rows, 7> inputs = {q_latent, take_rows(arena, tokens, spec_.head_dim, format)};
  size_t count = 2;
  const auto take_compressed = [&](const CompressToCache::Problem& problem) {
    for (int i = 0; i < 2; ++i) inputs[count++] = take_rows(arena, tokens, problem.width());
  };
  if (spec_.ratio > 0) take_compressed(spec_.compress());
  if (spec_.index) {
    take_compressed(spec_.compress_index());
    inputs[count++] = take_rows(arena, tokens, spec_.index->num_heads);
  }
  run(*parts_.inputs, {.x = x, .y = std::span(inputs).first(count), .num_decode_tokens = decodes},
      execution);

  const Rows normed = take_rows(arena, tokens, spec_.q_latent_dim, format);
  run(*parts_.q_norm, {.residual = q_latent, .y = normed}, execution);
  const Rows projected[] = {
      take_rows(arena, tokens, spec_.q_width(), format),
      spec_.index ? take_rows(arena, tokens, spec_.index->num_heads * spec_.index->dim) : Rows{}};
  run(*parts_.queries,
      {.x = normed,
       .y = std::span(projected).first(spec_.index ? 2 : 1),
       .num_decode_tokens = decodes},
      execution);

  const Rows queries = take_rows(arena, tokens, spec_.q_width());
  run(*parts_.qkv_to_cache,
      {.q = projected[0],
       .k = inputs[1],
       .angles = angles,
       .slots = step.batch.tables[caches[0].table].slots,
       .cache = caches[0],
       .queries = queries},
      execution);
  if (spec_.ratio > 0) {
    run(*parts_.compress,
        {.kv = inputs[2],
         .gate = inputs[3],
         .angles = step.angles[spec_.entry_rotary],
         .batch = &step.batch,
         .cache = caches[1],
         .state = caches[2]},
        execution);
  }
  int32_t* chosen = nullptr;
  if (spec_.index) {
    run(*parts_.compress_index,
        {.kv = inputs[4],
         .gate = inputs[5],
         .angles = step.angles[spec_.entry_rotary],
         .batch = &step.batch,
         .cache = caches[3],
         .state = caches[4]},
        execution);
    chosen = arena.take<int32_t>(tokens * spec_.index->most);
    run(*parts_.choose_keys,
        {.q = projected[1],
         .weights = inputs[6],
         .angles = angles,
         .batch = &step.batch,
         .cache = caches[3],
         .chosen = chosen},
        execution);
  }
  const Rows attended = take_rows(arena, tokens, spec_.q_width(), format);
  run(*parts_.attention,
      {.queries = queries,
       .angles = angles,
       .batch = &step.batch,
       .cache = caches[0],
       .entries = spec_.ratio > 0 ? caches[1] : LayerCache{},
       .chosen = chosen,
       .y = attended},
      execution);
  project(step, attended, y);
}

// Every group of heads has a projection of its own; one more brings them together.
void CompressedAttentionMixer::project(const LayerStep& step, const Rows& attended,
                                       const Rows& y) const {
  Execution& execution = step.execution;
  const int64_t tokens = y.rows, decodes = step.num_decode_tokens();
  const int64_t width = spec_.q_width() / spec_.num_groups;
  const Rows grouped = take_rows(execution.arena, tokens, spec_.num_groups * spec_.o_latent_dim,
                                 execution.activations());
  for (int64_t g = 0; g < spec_.num_groups; ++g) {
    const Rows part = grouped.columns(g * spec_.o_latent_dim, spec_.o_latent_dim);
    run(*parts_.group_proj[g],
        {.x = attended.columns(g * width, width), .y = {&part, 1}, .num_decode_tokens = decodes},
        execution);
  }
  run(*parts_.o_proj, {.x = grouped, .y = {&y, 1}, .num_decode_tokens = decodes}, execution);
}

}  // namespace moe4
