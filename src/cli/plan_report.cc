// Grouping and wording of plans.
#include "cli/plan_report.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "base/error.h"

namespace moe4::cli {
namespace {

using nlohmann::ordered_json;

bool same_verdict(const Support& a, const Support& b) {
  return a.has_value() == b.has_value() && (!a || (a->kind == b->kind && a->message == b->message));
}

// An error without the file, tensor or module at fault: layers that fail alike are one group.
std::string_view kind_of_error(const PlanGroup& group) {
  return std::string_view(group.error).substr(0, group.error.find(" (file "));
}

bool same(const PlanGroup& a, const PlanGroup& b) {
  const MoeProblem &p = a.problem, &q = b.problem;
  const bool shape = p.hidden_size == q.hidden_size && p.intermediate_size == q.intermediate_size &&
                     p.num_experts == q.num_experts && p.top_k == q.top_k &&
                     p.activation == q.activation && p.weight_on_input == q.weight_on_input;
  if (!shape || scheme_text(a) != scheme_text(b)) return false;
  if (kind_of_error(a) != kind_of_error(b)) return false;
  const Selection &s = a.selection, &t = b.selection;
  if (s.backend != t.backend || s.precision != t.precision || s.reason != t.reason) return false;
  if (s.candidates.size() != t.candidates.size()) return false;
  for (size_t i = 0; i < s.candidates.size(); ++i) {
    if (!same_verdict(s.candidates[i].verdict, t.candidates[i].verdict)) return false;
  }
  return true;
}

void append(std::vector<PlanGroup>& groups, PlanGroup next) {
  if (!groups.empty() && same(groups.back(), next)) {
    groups.back().layers.push_back(next.layers.front());
  } else {
    groups.push_back(std::move(next));
  }
}

// What became of a candidate, for people and for --json.
std::string_view status(const Selection& selection, const Candidate& candidate) {
  if (candidate.backend == selection.backend) return "selected";
  if (!candidate.verdict) return "available";
  return candidate.verdict->kind == Rejection::Kind::kNotSelected ? "only by name" : "rejected";
}

// What a token's bits depend on, and what it costs to change that.
std::string batch_remark(const BatchBehavior& batch) {
  switch (batch.invariance) {
    case BatchInvariance::kFull:
      return "a token's bits do not depend on what shares its call";
    case BatchInvariance::kByPhase:
      return fmt::format(
          "a token's bits depend on whether it is generated or of the prompt, not on what shares "
          "its call, since {}{}{}",
          batch.why, batch.cost.empty() ? "" : "; that costs ", batch.cost);
    case BatchInvariance::kNone:
      break;
  }
  return fmt::format(
      "a token's bits depend on how many tokens share its call, since {}; "
      "--batch-invariant takes {}",
      batch.why, batch.cost.empty() ? "a backend where they do not" : batch.cost);
}

std::string remark(const Selection& selection, const Candidate& candidate) {
  if (candidate.verdict) {
    return fmt::format("{} ({}): {}", status(selection, candidate),
                       to_string(candidate.verdict->kind), candidate.verdict->message);
  }
  return fmt::format("available: it could run this too (activations: {}), but ranks after {}",
                     to_string(candidate.precision), selection.backend->name());
}

}  // namespace

std::vector<PlanGroup> make_plan(const Checkpoint& checkpoint, SelectorOptions options,
                                 int64_t cpu_moe) {
  options.says_phase = true;  // as models do
  SelectorOptions on_cpu = options;
  on_cpu.device = Device::cpu();
  std::vector<PlanGroup> groups;
  const ModelConfig& config = checkpoint.config();
  for (int64_t layer = 0; layer < config.num_layers; ++layer) {
    if (!config.is_moe_layer[layer]) continue;
    const bool is_left = cpu_moe-- > 0;
    const MoeLayerSummary experts = checkpoint.moe_layer_summary(layer);
    PlanGroup group{.layers = {layer},
                    .scheme = experts.scheme,
                    .weight_dtype = unquantised_dtype(checkpoint, layer, experts),
                    .problem = experts.problem,
                    .unsupported = experts.unsupported};
    if (!experts.error.empty()) {
      group.error = experts.error;
      group.error_code = ErrorCode::kBadInput;
    } else {
      try {
        group.selection =
            select_backend(experts.problem, experts.scheme, is_left ? on_cpu : options);
      } catch (const Error& error) {
        if (error.code() != ErrorCode::kUnavailable) throw;
        group.error = error.what();
      }
    }
    append(groups, std::move(group));
  }
  return groups;
}

std::optional<DType> unquantised_dtype(const Checkpoint& checkpoint, int64_t layer,
                                       const MoeLayerSummary& experts) {
  if (experts.scheme != kUnquantized || !experts.unsupported.empty() || !experts.error.empty()) {
    return std::nullopt;
  }
  const MoeLayerWeights weights = checkpoint.moe_layer(layer);
  // Without a shape where the shard is absent.
  if (weights.experts.empty() || weights.experts.front().up.weight.shape.empty()) {
    return std::nullopt;
  }
  return weights.experts.front().up.weight.dtype;
}

std::string scheme_text(const PlanGroup& group) {
  if (!group.unsupported.empty()) return group.unsupported;
  return group.weight_dtype ? std::string(to_string(*group.weight_dtype)) : to_string(group.scheme);
}

std::vector<PlanGroup> group_plan(const std::vector<MoeLayerPlan>& layers) {
  std::vector<PlanGroup> groups;
  for (const MoeLayerPlan& plan : layers) {
    append(groups, {.layers = {plan.layer},
                    .scheme = plan.scheme,
                    .problem = plan.problem,
                    .selection = plan.selection});
  }
  return groups;
}

std::string layer_ranges(const std::vector<int64_t>& layers) {
  std::string text;
  for (size_t i = 0; i < layers.size();) {
    size_t end = i;
    while (end + 1 < layers.size() && layers[end + 1] == layers[end] + 1) ++end;
    if (!text.empty()) text += ", ";
    text += end == i ? fmt::format("{}", layers[i]) : fmt::format("{}-{}", layers[i], layers[end]);
    i = end + 1;
  }
  return text;
}

std::string plan_summary(const std::vector<PlanGroup>& groups) {
  std::string text;
  for (const PlanGroup& group : groups) {
    text += fmt::format("{} {}: {} -> ", group.layers.size() == 1 ? "layer" : "layers",
                        layer_ranges(group.layers), scheme_text(group));
    if (group.selection.backend == nullptr) {
      text += "none\n";
      continue;
    }
    const Selection& selection = group.selection;
    text += fmt::format("{} on {}, activations: {}, batch invariant: {}\n",
                        selection.backend->name(), to_string(selection.device),
                        to_string(selection.precision), to_string(selection.batch.invariance));
  }
  return text;
}

std::string plan_text(const std::vector<PlanGroup>& groups) {
  std::string text;
  for (const PlanGroup& group : groups) {
    text += plan_summary({group});
    const MoeProblem& problem = group.problem;
    text +=
        fmt::format("  experts     {} of {} -> {} ({}), top {}{}\n", problem.num_experts,
                    problem.hidden_size, problem.intermediate_size, to_string(problem.activation),
                    problem.top_k, problem.weight_on_input ? ", weights on the input" : "");
    if (group.selection.backend == nullptr) {
      text += fmt::format("  why         {}\n", group.error);
      continue;
    }
    text += fmt::format("  why         {}\n", group.selection.reason);
    text += fmt::format("  batch       {}\n", batch_remark(group.selection.batch));
    for (const Candidate& candidate : group.selection.candidates) {
      if (candidate.backend == group.selection.backend) continue;
      text += fmt::format("  {:<11} {}\n", candidate.backend->name(),
                          remark(group.selection, candidate));
    }
  }
  return text;
}

std::string plan_json(const std::vector<PlanGroup>& groups) {
  ordered_json json = ordered_json::array();
  for (const PlanGroup& group : groups) {
    const Selection& selection = group.selection;
    ordered_json entry = {
        {"layers", group.layers},
        {"scheme", scheme_text(group)},
        {"weight_key", group.unsupported.empty() ? ordered_json(to_string(group.scheme.weight))
                                                 : ordered_json(nullptr)},
        {"activation_key", group.unsupported.empty() && group.scheme.activation
                               ? ordered_json(to_string(*group.scheme.activation))
                               : ordered_json(nullptr)},
        {"hidden_size", group.problem.hidden_size},
        {"intermediate_size", group.problem.intermediate_size},
        {"num_experts", group.problem.num_experts},
        {"top_k", group.problem.top_k},
        {"activation", to_string(group.problem.activation)},
        {"weight_on_input", group.problem.weight_on_input},
    };
    if (selection.backend == nullptr) {
      entry["backend"] = nullptr;
      entry["error"] = group.error;
    } else {
      entry["backend"] = selection.backend->name();
      entry["runs_on"] = to_string(selection.device);
      entry["activations"] = to_string(selection.precision);
      entry["batch_invariant"] = to_string(selection.batch.invariance);
      if (!selection.batch.why.empty()) entry["batch_dependence"] = selection.batch.why;
      if (!selection.batch.cost.empty()) entry["batch_invariant_cost"] = selection.batch.cost;
      entry["reason"] = selection.reason;
    }
    entry["candidates"] = ordered_json::array();
    for (const Candidate& candidate : selection.candidates) {
      ordered_json row = {{"backend", candidate.backend->name()},
                          {"status", status(selection, candidate)}};
      if (candidate.verdict) {
        row["kind"] = to_string(candidate.verdict->kind);
        row["reason"] = candidate.verdict->message;
      }
      entry["candidates"].push_back(std::move(row));
    }
    json.push_back(std::move(entry));
  }
  return json.dump();
}

}  // namespace moe4::cli
