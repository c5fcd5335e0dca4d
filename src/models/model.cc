// The list of architectures.
#include "models/model.h"

#include <algorithm>
#include <iterator>

#include "base/error.h"
#include "models/architectures.h"
#include "models/decoder.h"
#include "models/refusals.h"

namespace moe4 {
namespace {

// Checked apart, see check_sliding_window().
constexpr std::string_view kQwenSettings[] = {"sliding_window"};
constexpr std::string_view kFullAttention[] = {"full_attention"};
constexpr std::string_view kDeltaNetOrFull[] = {"linear_attention", "full_attention"};

constexpr Architecture kArchitectures[] = {
    {"qwen3_moe", load_qwen3_moe, {kQwenSettings, kFullAttention}, /*has_window_switch=*/true},
    {"qwen3_5_moe", load_qwen3_5_moe, {kQwenSettings, kDeltaNetOrFull}},
    {"qwen3_5_moe_text", load_qwen3_5_moe, {kQwenSettings, kDeltaNetOrFull}},
};

}  // namespace

const Architecture* find_architecture(std::string_view model_type) {
  const auto* const it =
      std::find_if(std::begin(kArchitectures), std::end(kArchitectures),
                   [&](const Architecture& a) { return a.model_type == model_type; });
  return it == std::end(kArchitectures) ? nullptr : it;
}

BadInput unknown_architecture(const Checkpoint& checkpoint) {
  std::string known;
  for (const std::string& name : known_architectures()) {
    known += (known.empty() ? "" : ", ") + name;
  }
  return {.what = "unknown architecture",
          .file = (checkpoint.directory() / "config.json").string(),
          .tensor = "model_type",
          .expected = "one of " + known,
          .found = checkpoint.config().model_type};
}

std::vector<std::string> known_architectures() {
  std::vector<std::string> names;
  for (const Architecture& a : kArchitectures) names.emplace_back(a.model_type);
  return names;
}

std::unique_ptr<Model> Model::load(const Checkpoint& checkpoint, const ModelOptions& options) {
  MOE4_CHECK(options.threads != nullptr);
  if (!options.moe.device.is_cpu() && !options.prepare_on_gpu) {
    throw Error(ErrorCode::kUnavailable, "this program runs models on the CPU only, not on " +
                                             to_string(options.moe.device));
  }
  if (const std::vector<Refusal> found = refusals(checkpoint); !found.empty()) {
    std::string more;
    if (found.size() > 1) {
      more = " (and " + std::to_string(found.size() - 1) + " more, which moe4 plan lists)";
    }
    throw Error(ErrorCode::kBadInput, found.front().message + more);
  }
  ModelLoader loader(checkpoint, options);
  DecoderParts parts = find_architecture(checkpoint.config().model_type)->load(loader);
  loader.done();
  checkpoint.check_unchanged();
  return std::make_unique<Decoder>(std::move(parts), *options.threads);
}

}  // namespace moe4
