// The list of architectures.
#include "models/model.h"

#include "base/error.h"
#include "models/decoder.h"
#include "models/loader.h"

namespace moe4 {
namespace {

struct Architecture {
  const char* model_type;
  DecoderParts (*load)(ModelLoader&);
};

constexpr Architecture kArchitectures[] = {
    {"qwen3_moe", load_qwen3_moe},
    {"qwen3_5_moe", load_qwen3_5_moe},
    {"qwen3_5_moe_text", load_qwen3_5_moe},
};

}  // namespace

std::vector<std::string> known_architectures() {
  std::vector<std::string> names;
  for (const Architecture& a : kArchitectures) names.emplace_back(a.model_type);
  return names;
}

std::unique_ptr<Model> Model::load(const Checkpoint& checkpoint, const ModelOptions& options) {
  MOE4_CHECK(options.threads != nullptr);
  const std::string& type = checkpoint.config().model_type;
  if (!options.moe.device.is_cpu() && !options.prepare_on_gpu) {
    throw Error(ErrorCode::kUnavailable, "this program runs models on the CPU only, not on " +
                                             to_string(options.moe.device));
  }
  for (const Architecture& a : kArchitectures) {
    if (type != a.model_type) continue;
    ModelLoader loader(checkpoint, options);
    DecoderParts parts = a.load(loader);
    loader.done();
    checkpoint.check_unchanged();
    return std::make_unique<Decoder>(std::move(parts), options);
  }
  std::string known;
  for (const std::string& name : known_architectures()) {
    known += (known.empty() ? "" : ", ") + name;
  }
  throw_bad_input({.what = "unknown architecture",
                   .file = (checkpoint.directory() / "config.json").string(),
                   .tensor = "model_type",
                   .expected = "one of " + known,
                   .found = type});
}

}  // namespace moe4
