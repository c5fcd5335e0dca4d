// Sizes from the published configurations.
#include "moe/layer_presets.h"

#include <fmt/format.h>

#include <charconv>

#include "base/error.h"

namespace moe4 {
namespace {

struct Sizes {
  int64_t hidden_size, intermediate_size, num_experts, top_k;
};

constexpr MoeProblem layer_of(const Sizes& sizes, const ActivationParams& activation = {}) {
  return {.hidden_size = sizes.hidden_size,
          .intermediate_size = sizes.intermediate_size,
          .num_experts = sizes.num_experts,
          .num_local_experts = sizes.num_experts,
          .top_k = sizes.top_k,
          .activation = activation};
}

constexpr ActivationParams kGptOss{.kind = ActivationKind::kSwigluOai, .limit = 7.0f};

// An eighth of Kimi-K2's experts and a quarter of DeepSeek-V3's, so that layers fit small machines.
constexpr MoePreset kPresets[] = {
    {.name = "qwen3.6-35b-a3b", .problem = layer_of({2048, 512, 256, 8})},
    {.name = "qwen3-30b-a3b", .problem = layer_of({2048, 768, 128, 8})},
    {.name = "deepseek-v3", .problem = layer_of({7168, 2048, 64, 8}), .published_experts = 256},
    {.name = "kimi-k2", .problem = layer_of({7168, 2048, 48, 8}), .published_experts = 384},
    {.name = "nemotron-3-nano",
     .problem = layer_of({2688, 1856, 128, 6}, {.kind = ActivationKind::kRelu2})},
    {.name = "glm-4.5-air", .problem = layer_of({4096, 1408, 128, 8})},
    {.name = "minimax-m2", .problem = layer_of({3072, 1536, 256, 8})},
    {.name = "gpt-oss-20b",
     .problem = layer_of({2880, 2880, 32, 4}, kGptOss),
     .scheme = kMxfp4W4A16,
     .has_bias = true},
    {.name = "gpt-oss-120b",
     .problem = layer_of({2880, 2880, 128, 4}, kGptOss),
     .scheme = kMxfp4W4A16,
     .has_bias = true},
    {.name = "gemma-4-26b-a4b",
     .problem = layer_of({2816, 704, 128, 8}, {.kind = ActivationKind::kGeluTanh})},
    {.name = "tiny", .problem = layer_of({256, 128, 32, 4})},
};

// The same with so many of its experts, "32".
MoePreset cut_to(MoePreset preset, std::string_view count) {
  int64_t experts = 0;
  const auto [end, error] = std::from_chars(count.data(), count.data() + count.size(), experts);
  const int64_t all =
      preset.published_experts > 0 ? preset.published_experts : preset.problem.num_experts;
  if (error != std::errc() || end != count.data() + count.size() ||
      experts < preset.problem.top_k || experts > all) {
    throw Error(ErrorCode::kUsage,
                fmt::format("{}/{}: expected {} to {} experts", preset.name,
                            printable(std::string(count)), preset.problem.top_k, all));
  }
  preset.problem.num_experts = preset.problem.num_local_experts = experts;
  preset.published_experts = experts == all ? 0 : all;
  return preset;
}

}  // namespace

std::string MoePreset::title() const {
  if (published_experts == 0) return std::string(name);
  return fmt::format("{}, {} of its {} experts", name, problem.num_experts, published_experts);
}

MoePreset moe_preset(std::string_view name) {
  const size_t slash = name.find('/');
  for (const MoePreset& preset : kPresets) {
    if (preset.name != name.substr(0, slash)) continue;
    return slash == std::string_view::npos ? preset : cut_to(preset, name.substr(slash + 1));
  }
  throw Error(ErrorCode::kUsage,
              fmt::format("unknown preset '{}': expected {}", printable(std::string(name)),
                          fmt::join(moe_preset_names(), ", ")));
}

std::vector<std::string_view> moe_preset_names() {
  std::vector<std::string_view> names;
  for (const MoePreset& preset : kPresets) names.push_back(preset.name);
  return names;
}

}  // namespace moe4
