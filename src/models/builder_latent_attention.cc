// Multi-head latent attention from a checkpoint's modules.
#include "models/builder.h"

namespace moe4 {

std::unique_ptr<Mixer> Builder::latent_attention(const std::string& module,
                                                 LatentAttentionSpec spec, const BiasRule& bias) {
  const std::string at = full_name(module) + ".";
  spec.cache_dtype = settings_.cache_dtype;
  const LatentAttention::Problem problem = spec.attention();
  LinearSpec q{at + "q_proj", problem.q_width()};
  if (spec.q_latent_dim > 0) q = {at + "q_a_proj", spec.q_latent_dim, bias};
  LatentAttentionParts parts;
  std::vector<LinearSpec> inputs = {
      q, {at + "kv_a_proj_with_mqa", spec.latent_dim + spec.rope_dim, bias}};
  std::vector<LinearSpec> queries = {{at + "q_b_proj", problem.q_width()}};
  const std::string indexer = at + "indexer.";
  if (spec.has_indexer()) {
    // The choice is exact, as a router's.
    inputs.push_back({.module = indexer + "wk", .out_features = spec.index->dim, .exact = true});
    inputs.push_back(
        {.module = indexer + "weights_proj", .out_features = spec.index->num_heads, .exact = true});
    queries.push_back({.module = indexer + "wq_b",
                       .out_features = spec.index->num_heads * spec.index->dim,
                       .exact = true});
  }
  if (spec.index) {
    parts_.num_chosen_keys = spec.index->most;
    if (spec.index->is_shared) ignore(indexer + "*");  // which files have all the same
  }
  parts.inputs =
      linears(spec.has_indexer() ? "down_and_index_proj" : "down_proj", inputs, hidden_size_);
  LatentToCache::Weights norms{.kv_norm = tensor(at + "kv_a_layernorm.weight", spec.latent_dim)};
  if (spec.q_latent_dim > 0) {
    norms.q_norm = tensor(at + "q_a_layernorm.weight", spec.q_latent_dim);
    parts.q_b = linears("q_b_proj", queries, spec.q_latent_dim);
  }
  keeps(spec.latent_to_cache().cache());
  parts.latent_to_cache = prepare<LatentToCache>("latent_to_cache", spec.latent_to_cache(), norms);

  if (spec.has_indexer()) {
    keeps(spec.index_to_cache().cache());
    parts.index_to_cache =
        prepare<IndexToCache>("index_to_cache", spec.index_to_cache(),
                              {.norm = tensor(indexer + "k_norm.weight", spec.index->dim),
                               .norm_bias = tensor(indexer + "k_norm.bias", spec.index->dim)});
    parts.choose_keys = prepare<ChooseKeys>("choose_keys", spec.choose_keys(), {});
  }

  const std::optional<LinearWeights> kv_b =
      linear({.module = at + "kv_b_proj",
              .out_features = spec.num_heads * (spec.nope_dim + spec.value_dim),
              .bias = {.key = "bias of kv_b_proj", .there = false}},
             spec.latent_dim);
  parts.attention =
      prepare<LatentAttention>("attention", problem, {.kv_b = kv_b ? *kv_b : LinearWeights{}});
  if (!is_describing()) packed(*kv_b);
  parts.o_proj = linears("o_proj", {{at + "o_proj", hidden_size_, bias}}, problem.y_width());
  if (is_describing()) return nullptr;
  return std::make_unique<LatentAttentionMixer>(spec, std::move(parts));
}

}  // namespace moe4
