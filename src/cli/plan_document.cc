// Everything that plan knows, as JSON.
#include "cli/plan_document.h"

#include "cli/op_report.h"
#include "models/missing_parts.h"

namespace moe4::cli {
namespace {

// The router is no part of a backend, but ids and weights come from it.
nlohmann::ordered_json router_json(const ModelConfig& config) {
  const RouterConfig& router = config.router;
  nlohmann::ordered_json json = {
      {"scoring", config.router_scoring},
      {"top_k", router.top_k},
      {"renormalize", router.renormalize},
      {"scaling_factor", router.scaling_factor},
      {"num_groups", router.num_groups},
      {"topk_groups", router.topk_groups},
      {"correction_bias", config.router_has_correction_bias},
      {"logit_bias", config.router_has_logit_bias},
      {"expert_scale", config.router_has_expert_scale},
      {"logit_cap", config.router_logit_cap},
      {"hash_layers", nlohmann::ordered_json::array()},
  };
  for (size_t layer = 0; layer < config.is_hash_layer.size(); ++layer) {
    if (config.is_hash_layer[layer]) json["hash_layers"].push_back(layer);
  }
  return json;
}

}  // namespace

nlohmann::ordered_json plan_document(const Checkpoint& checkpoint, const SelectorOptions& options,
                                     const std::vector<PlanGroup>& groups,
                                     const Description& description) {
  const ModelConfig& config = checkpoint.config();
  const std::string no_run = why_not_run(config);
  nlohmann::ordered_json json = {
      {"model", checkpoint.path().string()},
      {"architecture", config.architecture},
      {"model_type", config.model_type},
      {"vocab_size", config.vocab_size},
      {"dialect", checkpoint.dialect()},
      {"device", to_string(options.device)},
      {"moe_backend", options.backend.empty() ? "auto" : options.backend},
      {"activations", to_string(options.activations)},
      {"batch_invariant", options.batch_invariant},
      {"run", {{"possible", description.refusals.empty()}, {"missing", missing_parts(config)}}},
      {"groups", nlohmann::ordered_json::parse(plan_json(groups))},
      {"ops", ops_json(description)},
      {"refusals", nlohmann::ordered_json::array()},
      {"notes", nlohmann::ordered_json::array()},
  };
  for (const CheckpointNote& note : checkpoint.notes()) {
    const bool warning = note.level == CheckpointNote::Level::kWarning;
    json["notes"].push_back({{"level", warning ? "warning" : "info"},
                             {"where", note.where},
                             {"message", note.message}});
  }
  for (const Refusal& refusal : description.refusals) {
    json["refusals"].push_back(
        {{"code", refusal.code}, {"where", refusal.where}, {"message", refusal.message}});
  }
  if (!no_run.empty()) json["run"]["reason"] = no_run;
  if (groups.empty()) {
    json["note"] = kNoExperts;
  } else {
    json["router"] = router_json(config);
  }
  return json;
}

}  // namespace moe4::cli
