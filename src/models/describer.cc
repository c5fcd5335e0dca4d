// Names, sizes and verdicts from headers.
#include "models/describer.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <utility>

#include "base/error.h"
#include "checkpoint/ignored_tensors.h"
#include "checkpoint/module_names.h"
#include "checkpoint/name_matcher.h"
#include "moe/selector.h"

namespace moe4 {

Describer::Describer(const Checkpoint& checkpoint, const Device& device, DType cache_dtype)
    : Builder(checkpoint, {.ops = {.device = device}, .cache_dtype = cache_dtype}) {}

void Describer::refuse(const std::string& where, const Error& error) {
  if (error.code() != ErrorCode::kBadInput) throw error;
  // A tensor of an absent shard is not missing.
  if (checkpoint().is_partial()) return;
  const bool is_missing = dynamic_cast<const MissingTensor*>(&error) != nullptr;
  wrong_tensors_.push_back(
      {is_missing ? "missing-tensor" : "unusable-tensor", where, error.what()});
}

// What is there in some unusable form is not unexpected as well.
void Describer::ask_all_below(const std::string& prefix) {
  const std::vector<std::string>& names = checkpoint().tensor_names();
  for (auto it = std::lower_bound(names.begin(), names.end(), prefix);
       it != names.end() && it->starts_with(prefix); ++it) {
    tensors_.insert(*it);
  }
}

TensorRef Describer::tensor(const std::string& name, int64_t num_elements) {
  tensors_.insert(name);
  try {
    const TensorView view = checkpoint().tensor_header(name);
    if (view.num_elements() != num_elements) {
      throw_bad_input({.what = "wrong shape",
                       .file = checkpoint().file_of(name).string(),
                       .tensor = name,
                       .expected = std::to_string(num_elements) + " elements",
                       .found = shape_to_string(view.shape)});
    }
    op_bytes_ += view.num_bytes();
  } catch (const Error& error) {
    refuse(name, error);
  }
  return {name, {}};
}

std::optional<LinearWeights> Describer::linear(const LinearSpec& spec, int64_t in_features) {
  try {
    for (std::string& name : checkpoint().tensors_of_linear(spec.module)) {
      tensors_.insert(std::move(name));
    }
    check_bias(spec);
    LinearWeights weights = checkpoint().linear_header(spec.module, spec.out_features, in_features);
    for (const TensorView* view : {&weights.weight, &weights.scale, &weights.bias}) {
      if (!view->shape.empty()) op_bytes_ += view->num_bytes();
    }
    if (weights.scheme.is_ggml() && !device().is_cpu()) {
      // Sums of three BF16 numbers there.
      op_bytes_ += 6 * weights.out_features * weights.in_features - weights.weight.num_bytes();
    }
    layer_values_ += weights.in_features + weights.out_features;
    return weights;
  } catch (const Error& error) {
    refuse(spec.module, error);
    ask_all_below(spec.module + ".");
    return std::nullopt;
  }
}

// A bias that the configuration asks for and nobody stored, or the other way round.
void Describer::check_bias(const LinearSpec& spec) {
  if (!spec.bias.there) return;
  const bool wanted = *spec.bias.there;
  const std::string bias = spec.module + ".bias";
  if (checkpoint().has_tensor(bias) == wanted) return;
  if (!disagreeing_keys_.insert(spec.bias.key).second) return;
  const std::string& key = spec.bias.key;
  settings_.push_back(
      Refusal::from("unsupported-setting",
                    {.what = "configuration and tensors disagree about a bias",
                     .file = checkpoint().config_file().string(),
                     .tensor = "tensor " + bias,
                     .expected = (wanted ? "a bias" : "none") +
                                 (key.empty() ? "" : fmt::format(" ({} is {})", key, wanted)),
                     .found = wanted ? "none" : "one",
                     .hint = "moe4 plan and inspect still work on this checkpoint"}));
}

std::optional<Builder::ExpertsKind> Describer::experts_kind(const std::string& module,
                                                            const MoeProblem& problem,
                                                            int64_t num_shared) {
  try {
    const QuantScheme scheme = checkpoint().experts_header(module, problem).scheme;
    const Selection selection = select_backend(with_shared_experts(problem, num_shared), scheme,
                                               {.device = device(), .says_phase = true});
    return ExpertsKind{scheme, selection.device, selection.precision};
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kBadInput && error.code() != ErrorCode::kUnavailable) throw;
    return std::nullopt;  // experts() and plans say what is wrong
  }
}

std::unique_ptr<RoutedExperts> Describer::experts(const std::string& module,
                                                  const MoeProblem& problem,
                                                  std::span<const ExpertWeights> shared) {
  LayerExperts experts{
      .layer = layer_number(),
      .problem = with_shared_experts(problem, static_cast<int64_t>(shared.size()))};
  try {
    for (const std::string& name : checkpoint().tensors_of_experts(module, problem)) {
      // Of fused experts each has the same tensors.
      if (!tensors_.insert(name).second || !checkpoint().has_tensor(name)) continue;
      experts.bytes += checkpoint().tensor_header(name).num_bytes();
    }
    sizes_.experts.push_back(experts);
    // Shared experts among them were asked for since the layer chose so.
    const auto choice = std::find_if(pending_.begin(), pending_.end(),
                                     [](const OpChoice& c) { return c.op == "shared_expert"; });
    if (!shared.empty() && choice != pending_.end()) {
      sizes_.weight_bytes += op_bytes_;
      choice->weight_bytes += std::exchange(op_bytes_, 0);
    }
  } catch (const Error& error) {
    refuse(module, error);
    ask_all_below(checkpoint().layer_name(layer_number(), ""));
  }
  return nullptr;
}

void Describer::chose(OpChoice choice) {
  if (choice.implementation.empty()) {
    try {
      internal::nobody_can(choice.op, device(), choice.verdicts);
    } catch (const Error& error) {
      if (reasons_.insert(choice.role + error.what()).second) {
        const std::string where = fmt::format("layer {}, {}", layer_number(), choice.role);
        impossible_.push_back({"unsupported-problem", where, where + ": " + error.what()});
      }
    }
  }
  // Its tensors were asked for before it was.
  choice.weight_bytes = std::exchange(op_bytes_, 0);
  sizes_.weight_bytes += choice.weight_bytes;
  pending_.push_back(std::move(choice));
}

void Describer::complete(Whole whole) {
  if (whole == Whole::kLayer) {
    layers_.push_back(std::move(pending_));
    sizes_.layer_values = std::max(sizes_.layer_values, layer_values_);
    layer_values_ = 0;
  } else {
    outside_.insert(outside_.end(), pending_.begin(), pending_.end());
  }
  pending_.clear();
}

std::vector<Refusal> Describer::unread() const {
  struct Kind {
    int64_t count = 0;
    std::string first;
  };
  std::map<std::string, Kind> kinds;  // "model.layers.*.self_attn.sinks"
  const ModelConfig& config = checkpoint().config();
  const auto is_ignored = [&](const std::string& name) {
    return ignored_because(name, config.num_layers) != nullptr ||
           std::any_of(ignored().begin(), ignored().end(),
                       [&](const std::string& glob) { return glob_matches(glob, name); });
  };
  for (const std::string& name : checkpoint().tensor_names()) {
    if (tensors_.contains(name) || is_ignored(name)) continue;
    Kind& kind = kinds[generic_module(name)];
    if (kind.count++ == 0) kind.first = name;
  }
  std::vector<Refusal> found;
  for (const auto& [generic, kind] : kinds) {
    const std::string count =
        kind.count == 1 ? "a tensor" : fmt::format("{} tensors ({})", kind.count, generic);
    found.push_back(Refusal::from(
        "unexpected-tensor",
        {.what = count + " that " + config.model_type + " does not read",
         .file = checkpoint().file_of(kind.first).string(),
         .tensor = kind.first,
         .hint = "leaving them out would change the numbers; moe4 plan and inspect still work"}));
  }
  return found;
}

Description Describer::description() const {
  Description description{
      .refusals = settings_, .layers = layers_, .outside = outside_, .sizes = sizes_};
  if (!settings_.empty()) return description;
  for (const std::vector<Refusal>& found : {wrong_tensors_, impossible_, unread()}) {
    description.refusals.insert(description.refusals.end(), found.begin(), found.end());
  }
  return description;
}

}  // namespace moe4
