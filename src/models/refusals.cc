// Runs an architecture file against a Describer, and adds what its configuration alone refuses.
#include "models/refusals.h"

#include <optional>

#include "models/architecture.h"
#include "models/describer.h"
#include "models/description.h"
#include "models/settings.h"

namespace moe4 {

Refusal Refusal::from(std::string code, const BadInput& details) {
  return {std::move(code), details.tensor, to_string(details)};
}

Description describe(const Checkpoint& checkpoint, const Device& device, DType cache_dtype) {
  const Architecture* architecture = find_architecture(checkpoint.config().model_type);
  if (architecture == nullptr) {
    return {.refusals = {Refusal::from("unknown-architecture", unknown_architecture(checkpoint))}};
  }
  std::vector<Refusal> found;
  check_transforms(checkpoint, [&](const BadInput& details) {
    found.push_back(Refusal::from("unsupported-transform", details));
  });
  const ConfigReader config(checkpoint);
  Describer describer(checkpoint, device, cache_dtype);
  std::optional<Refusal> broken;  // what is wrong with a value stops the architecture file
  try {
    architecture->build(config, describer);
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kBadInput) throw;
    broken = {"unsupported-setting", "config.json", error.what()};
  }
  found.insert(found.end(), config.refusals().begin(), config.refusals().end());
  if (broken) {
    found.push_back(*std::move(broken));
    return {.refusals = std::move(found)};  // what it would have read is not known
  }
  check_settings(checkpoint, config, [&](const BadInput& details) {
    found.push_back(Refusal::from("unsupported-setting", details));
  });
  Description description = describer.description();
  if (found.empty()) return description;
  // With other settings, the tensors may well be those of another model.
  std::erase_if(description.refusals,
                [](const Refusal& refusal) { return refusal.code != "unsupported-setting"; });
  description.refusals.insert(description.refusals.begin(), found.begin(), found.end());
  return description;
}

std::vector<Refusal> refusals(const Checkpoint& checkpoint, const Device& device) {
  return describe(checkpoint, device).refusals;
}

}  // namespace moe4
