// Adds up caches and weights.
#include "models/model_needs.h"

#include <algorithm>
#include <memory>

#include "ops/sample/sample.h"

namespace moe4 {
namespace {

void add_caches(const std::vector<CacheSpec>& caches, ModelNeeds& needs) {
  for (const CacheSpec& spec : caches) {
    const bool paged = std::holds_alternative<PagedSpec>(spec);
    (paged ? needs.page_bytes : needs.state_bytes) += cache_unit_bytes(spec);
  }
}

// Activations that are alive at once, all float32 (on a GPU most are BF16, and what ops take for
// themselves fits into the rest): the residual and three rows beside it, all rows of the largest
// layer's linears, and of each chosen expert its intermediates and its part of the sum.
int64_t workspace_estimate(const ModelSizes& sizes, int64_t hidden, const StepLimits& limits) {
  int64_t expert_values = 0;
  for (const LayerExperts& layer : sizes.experts) {
    const MoeProblem& p = layer.problem;
    expert_values = std::max(expert_values, p.top_k * (3 * p.intermediate_size + p.hidden_size));
  }
  const int64_t values = 4 * hidden + sizes.layer_values + expert_values;
  return 4 * (limits.max_tokens * values + limits.max_logits * hidden);
}

}  // namespace

int64_t ModelNeeds::device_weights() const {
  int64_t bytes = other_weights;
  for (size_t i = 0; i < experts.size(); ++i) {
    const bool here =
        device.is_cpu() || (static_cast<int64_t>(i) >= cpu_moe && !experts[i].only_cpu);
    if (here) bytes += experts[i].bytes;
  }
  return bytes;
}

int64_t ModelNeeds::host_weights() const {
  int64_t bytes = other_weights - device_weights();
  for (const Experts& layer : experts) bytes += layer.bytes;
  return bytes;
}

ModelNeeds needs_of(const Description& description, const ModelConfig& config, const Device& device,
                    std::span<const int64_t> only_cpu, int64_t cpu_moe) {
  const ModelSizes& sizes = description.sizes;
  ModelNeeds needs{.device = device,
                   .other_weights = sizes.weight_bytes,
                   .cpu_moe = cpu_moe,
                   .vocab_size = config.vocab_size,
                   .max_context = config.max_position_embeddings,
                   .num_layers = config.num_layers};
  add_caches(sizes.caches, needs);
  for (const LayerExperts& layer : sizes.experts) {
    const bool on_cpu = std::find(only_cpu.begin(), only_cpu.end(), layer.layer) != only_cpu.end();
    needs.experts.push_back({.bytes = layer.bytes, .only_cpu = on_cpu});
  }
  needs.workspace = [sizes, hidden = config.hidden_size](const StepLimits& limits) {
    return workspace_estimate(sizes, hidden, limits);
  };
  return needs;
}

ModelNeeds needs_of(const Model& model) {
  ModelNeeds needs{.device = model.stream().device,
                   .vocab_size = model.config().vocab_size,
                   .max_context = model.config().max_position_embeddings,
                   .num_layers = model.config().num_layers};
  add_caches(model.caches(), needs);
  // Tokens are chosen in the same workspace.
  const std::shared_ptr<const Prepared<Sample>> sampler =
      prepare<Sample>({.vocab_size = needs.vocab_size}, {},
                      {.device = needs.device, .threads = model.stream().threads});
  needs.workspace = [&model, sampler](const StepLimits& limits) {
    const Rows logits =
        Rows::dense(static_cast<float*>(nullptr), limits.max_logits, model.config().vocab_size);
    const size_t sampling = sampler->workspace_size({.logits = logits,
                                                     .num_edited = limits.max_masked,
                                                     .any_sampled = true,
                                                     .any_truncated = true});
    return static_cast<int64_t>(std::max(model.workspace_size(limits), sampling));
  };
  return needs;
}

}  // namespace moe4
