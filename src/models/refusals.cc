// Runs an architecture's file against a Describer, and collects what is wrong.
#include "models/refusals.h"

#include <optional>

#include "models/architecture.h"
#include "models/describer.h"
#include "models/settings.h"

namespace moe4 {
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
  check_transforms(checkpoint, [&](const BadInput& details) {
    found.push_back(Refusal::from("unsupported-transform", details));
  });
  const ConfigReader config(checkpoint);
  Describer describer(checkpoint);
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
    return found;  // what it would have read is not known
  }
  check_settings(checkpoint, config, [&](const BadInput& details) {
    found.push_back(Refusal::from("unsupported-setting", details));
  });
  // With other settings, the tensors may well be those of another model.
  const std::vector<Refusal> described = describer.refusals();
  if (found.empty() || (!described.empty() && described.front().code == "unsupported-setting")) {
    found.insert(found.end(), described.begin(), described.end());
  }
  return found;
}

}  // namespace moe4
