// Runs an architecture's file against names instead of weights, and collects what it says.
#include "models/refusals.h"

#include <fmt/format.h>

#include <map>

#include "checkpoint/ignored_tensors.h"
#include "checkpoint/module_names.h"
#include "models/architectures.h"
#include "models/loader.h"

namespace moe4 {
namespace {

// Tensors that the architecture did not ask for, a refusal a kind.
void report_unread(const Checkpoint& checkpoint, const TensorsAsked& asked,
                   std::vector<Refusal>& refusals) {
  struct Kind {
    int64_t count = 0;
    std::string first;
  };
  std::map<std::string, Kind> kinds;  // "model.layers.*.self_attn.sinks"
  const int64_t num_layers = checkpoint.config().num_layers;
  for (const std::string& name : checkpoint.tensor_names()) {
    if (asked.contains(name) || ignored_because(name, num_layers) != nullptr) continue;
    Kind& kind = kinds[generic_module(name)];
    if (kind.count++ == 0) kind.first = name;
  }
  for (const auto& [generic, kind] : kinds) {
    const std::string count =
        kind.count == 1 ? "a tensor" : fmt::format("{} tensors ({})", kind.count, generic);
    refusals.push_back(Refusal::from(
        "unexpected-tensor",
        {.what = count + " that " + checkpoint.config().model_type + " does not read",
         .file = checkpoint.file_of(kind.first).string(),
         .tensor = kind.first,
         .hint = "leaving them out would change the numbers; moe4 plan and inspect still work"}));
  }
}

}  // namespace

Refusal Refusal::from(std::string code, const BadInput& details) {
  try {
    throw_bad_input(details);
  } catch (const Error& error) {
    return {std::move(code), details.tensor, error.what()};
  }
}

std::vector<Refusal> refusals(const Checkpoint& checkpoint) {
  std::vector<Refusal> found;
  const Architecture* architecture = find_architecture(checkpoint.config().model_type);
  if (architecture == nullptr) {
    found.push_back(Refusal::from("unknown-architecture", unknown_architecture(checkpoint)));
    return found;
  }
  const auto refuse_setting = [&](const BadInput& details) {
    found.push_back(Refusal::from("unsupported-setting", details));
  };
  check_transforms(checkpoint, [&](const BadInput& details) {
    found.push_back(Refusal::from("unsupported-transform", details));
  });
  check_settings(checkpoint, architecture->computed, refuse_setting);
  check_sliding_window(checkpoint, architecture->has_window_switch, refuse_setting);
  if (!found.empty()) return found;  // the tensors may well be those of another model

  TensorsAsked asked;
  try {
    ModelLoader loader(checkpoint, asked, found);
    architecture->load(loader);
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kBadInput) throw;
    found.push_back({"unsupported-setting", "config.json", error.what()});
    return found;
  }
  report_unread(checkpoint, asked, found);
  return found;
}

}  // namespace moe4
