// Which architectures there are.
#include <algorithm>

#include "models/architecture.h"
#include "models/model.h"

namespace moe4 {

extern const Architecture kDeepseekV3;
extern const Architecture kDeepseekV32;
extern const Architecture kDeepseekV4;
extern const Architecture kErnie45Moe;
extern const Architecture kGemma4;
extern const Architecture kGlm4Moe;
extern const Architecture kGlm4MoeLite;
extern const Architecture kGlmMoeDsa;
extern const Architecture kGptOss;
extern const Architecture kHyV3;
extern const Architecture kLaguna;
extern const Architecture kLlama4;
extern const Architecture kMimoV2Flash;
extern const Architecture kMinimaxM2;
extern const Architecture kMinimaxM3;
extern const Architecture kMistral4;
extern const Architecture kMixtral;
extern const Architecture kNemotronH;
extern const Architecture kQwen3Moe;
extern const Architecture kQwen3Next;
extern const Architecture kQwen3VlMoe;
extern const Architecture kQwen35Moe;
extern const Architecture kStep3p7;

namespace {

constexpr const Architecture* kArchitectures[] = {
    &kDeepseekV3,  &kDeepseekV32, &kDeepseekV4, &kErnie45Moe, &kGemma4,  &kGlm4Moe,
    &kGlm4MoeLite, &kGlmMoeDsa,   &kGptOss,     &kHyV3,       &kLaguna,  &kLlama4,
    &kMimoV2Flash, &kMinimaxM2,   &kMinimaxM3,  &kMistral4,   &kMixtral, &kNemotronH,
    &kQwen3Moe,    &kQwen3Next,   &kQwen3VlMoe, &kQwen35Moe,  &kStep3p7,
};

}  // namespace

const Architecture* find_architecture(std::string_view model_type) {
  for (const Architecture* architecture : kArchitectures) {
    const auto& types = architecture->model_types;
    if (std::find(types.begin(), types.end(), model_type) != types.end()) return architecture;
  }
  return nullptr;
}

BadInput unknown_architecture(const Checkpoint& checkpoint) {
  std::string known;
  for (const std::string& name : known_architectures()) {
    known += (known.empty() ? "" : ", ") + name;
  }
  return {.what = "unknown architecture",
          .file = checkpoint.config_file().string(),
          .tensor = "model_type",
          .expected = "one of " + known,
          .found = checkpoint.config().model_type};
}

std::vector<std::string> known_architectures() {
  std::vector<std::string> names;
  for (const Architecture* architecture : kArchitectures) {
    names.insert(names.end(), architecture->model_types.begin(), architecture->model_types.end());
  }
  return names;
}

}  // namespace moe4
