// Settings of compressed-tensors beside its quantisation: transforms, sparsity.
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "models/settings.h"

namespace moe4 {
namespace {

const char* const kHint =
    "use a quantisation whose transforms are all in the weights; moe4 plan and inspect still work";

bool is_in_weights(const Json& location) {
  return location == "weight_input" || location == "weight_output";
}

std::string targets_of(const Json& apply) {
  std::string text;
  const auto targets = apply.find("targets");
  if (targets == apply.end() || !targets->is_array()) return "unnamed modules";
  for (const Json& target : *targets) {
    text += (text.empty() ? "" : ", ") + (target.is_string() ? target.get<std::string>() : "?");
  }
  return text;
}

}  // namespace

void check_transforms(const Checkpoint& checkpoint, const RefuseSetting& refuse) {
  const std::optional<JsonReader> quantization = checkpoint.quantization_config();
  if (!quantization) return;
  const auto complain = [&](const std::string& key, const std::string& expected,
                            const std::string& found) {
    refuse({.what = "transforms that are not in the weights are not computed",
            .file = quantization->file(),
            .tensor = "key " + quantization->path_of(key),
            .expected = expected,
            .found = found,
            .hint = kHint});
  };
  if (const Json* sparsity = quantization->get("sparsity_config"); sparsity != nullptr) {
    const auto format = sparsity->is_object() ? sparsity->find("format") : sparsity->end();
    if (sparsity->is_object() && !sparsity->empty() &&
        (format == sparsity->end() || (*format != "dense" && !format->is_null()))) {
      refuse({.what = "sparse weights are not decoded",
              .file = quantization->file(),
              .tensor = "key " + quantization->path_of("sparsity_config.format"),
              .expected = "dense",
              .found = format == sparsity->end() ? "nothing" : describe(*format)});
    }
  }
  const Json* config = quantization->get("transform_config");
  if (config == nullptr || (config->is_object() && config->empty())) return;
  const auto groups = config->is_object() ? config->find("config_groups") : config->end();
  if (!config->is_object() || groups == config->end() || !groups->is_object()) {
    complain("transform_config", "config_groups", describe(*config));
    return;
  }
  for (const auto& [name, group] : groups->items()) {
    const std::string key = "transform_config.config_groups." + name;
    const auto apply = group.is_object() ? group.find("apply") : group.end();
    if (!group.is_object() || apply == group.end() || !apply->is_array()) {
      complain(key, "a list of places to apply it", describe(group));
      continue;
    }
    for (const Json& place : *apply) {
      const auto location = place.is_object() ? place.find("location") : place.end();
      if (!place.is_object() || location == place.end()) {
        complain(key + ".apply", "a location", describe(place));
      } else if (!is_in_weights(*location)) {
        complain(
            key + ".apply", "location weight_input or weight_output",
            fmt::format("location {} of {}",
                        location->is_string() ? location->get<std::string>() : describe(*location),
                        targets_of(place)));
      }
    }
  }
}

}  // namespace moe4
