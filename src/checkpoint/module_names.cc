// Spellings of module names.
#include "checkpoint/module_names.h"

#include <algorithm>
#include <array>
#include <optional>
#include <utility>

namespace moe4 {
namespace {

// What checkpoints call a projection -> what configs written for inference engines call it, alone
// or fused with its neighbours.
constexpr std::array<std::pair<std::string_view, std::string_view>, 20> kAliases = {{
    {"w1", "gate_proj"},
    {"w3", "up_proj"},
    {"w2", "down_proj"},
    {"w1", "gate_up_proj"},
    {"w3", "gate_up_proj"},
    {"gate_proj", "w1"},
    {"up_proj", "w3"},
    {"down_proj", "w2"},
    {"gate_proj", "gate_up_proj"},
    {"up_proj", "gate_up_proj"},
    {"q_proj", "qkv_proj"},
    {"k_proj", "qkv_proj"},
    {"v_proj", "qkv_proj"},
    {"in_proj_qkv", "in_proj_qkvz"},
    {"in_proj_z", "in_proj_qkvz"},
    {"in_proj_b", "in_proj_ba"},
    {"in_proj_a", "in_proj_ba"},
    {"wq_a", "fused_wqa_wkv"},
    {"wkv", "fused_wqa_wkv"},
    {"kv_a_proj_with_mqa", "fused_qkv_a_proj"},
}};

constexpr std::array<std::string_view, 5> kPrefixes = {
    "model.language_model.", "language_model.model.", "model.", "backbone.", ""};

bool is_number(std::string_view text) {
  return !text.empty() &&
         std::all_of(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; });
}

template <typename F>
void for_each_component(std::string_view module, F&& f) {
  while (true) {
    const size_t dot = module.find('.');
    f(module.substr(0, dot));
    if (dot == std::string_view::npos) return;
    module.remove_prefix(dot + 1);
  }
}

// "layers.3.mlp.experts.17.up_proj" -> "layers.3.mlp.experts.up_proj".
std::optional<std::string> without_expert_number(const std::string& name) {
  const size_t last = name.rfind('.');
  if (last == std::string::npos || last == 0) return std::nullopt;
  const size_t before = name.rfind('.', last - 1);
  if (before == std::string::npos ||
      !is_number(std::string_view(name).substr(before + 1, last - before - 1))) {
    return std::nullopt;
  }
  const std::string_view parent = std::string_view(name).substr(0, before);
  if (!parent.ends_with("experts") && !parent.ends_with(".moe")) return std::nullopt;
  return name.substr(0, before) + name.substr(last);
}

}  // namespace

std::vector<std::string> module_spellings(std::string_view module, std::string_view text_prefix) {
  std::vector<std::string> names = {std::string(module)};
  if (module.starts_with(text_prefix)) {
    const std::string_view rest = module.substr(text_prefix.size());
    if (!text_prefix.empty() || rest.starts_with("layers.")) {
      for (std::string_view prefix : kPrefixes) {
        if (prefix != text_prefix) names.push_back(std::string(prefix).append(rest));
      }
    }
  }
  if (module == "lm_head") {
    names.insert(names.end(), {"language_model.lm_head", "model.lm_head"});
  } else if (module.ends_with(".lm_head")) {
    names.push_back("lm_head");
  }
  const size_t dot = module.rfind('.');
  const std::string_view last = dot == std::string_view::npos ? module : module.substr(dot + 1);
  // Experts in 3-D tensors are one module for metadata: "experts.up_proj" for "experts.0.up_proj".
  const size_t num_whole = names.size();
  for (size_t i = 0; i < num_whole; ++i) {
    if (std::optional<std::string> fused = without_expert_number(names[i])) {
      names.push_back(std::move(*fused));
    }
  }
  const size_t num_prefixed = names.size();
  for (const auto& [stored, alias] : kAliases) {
    if (stored != last) continue;
    for (size_t i = 0; i < num_prefixed; ++i) {
      const std::string& name = names[i];
      if (!name.ends_with(last)) continue;
      names.push_back(name.substr(0, name.size() - last.size()).append(alias));
    }
  }
  return names;
}

std::string generic_module(std::string_view module) {
  std::string out;
  for_each_component(module, [&](std::string_view part) {
    if (!out.empty()) out += '.';
    out += is_number(part) ? "*" : part;
  });
  return out;
}

bool is_routed_expert(std::string_view module) {
  bool found = false, in_moe = false;
  for_each_component(module, [&](std::string_view part) {
    // Step keeps the experts' projections in the MoE module itself: "moe.up_proj", "moe.0.up_proj".
    const bool is_projection = part.ends_with("_proj") || is_number(part);
    found |= part == "experts" || (in_moe && is_projection);
    in_moe = part == "moe";
  });
  return found;
}

}  // namespace moe4
