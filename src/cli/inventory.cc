// Sorts tensors into components by their names.
#include "cli/inventory.h"

#include <algorithm>
#include <set>
#include <string_view>

namespace moe4::cli {
namespace {

bool contains(std::string_view name, std::string_view part) {
  return name.find(part) != std::string_view::npos;
}

std::string component_of(const std::string& name, const std::string& text_prefix) {
  if (contains(name, "mtp")) return "draft layers (mtp)";
  if (contains(name, "visual") || contains(name, "vision")) return "vision";
  if (contains(name, "embed_tokens")) return "embedding";
  if (name.starts_with("lm_head") || contains(name, ".lm_head")) return "lm_head";
  if (!name.starts_with(text_prefix)) return "other";
  if (contains(name, "shared_expert")) return "shared experts";
  if (contains(name, ".experts.")) return "routed experts";
  if (contains(name, "norm")) return "norms";
  if (contains(name, "linear_attn")) return "gated delta net";
  if (contains(name, "attn")) return "attention";
  if (contains(name, ".gate.") || contains(name, ".router.")) return "routers";
  if (contains(name, ".mlp.")) return "dense feed-forward";
  return "other";
}

bool is_scale(const std::string& name) { return contains(name, "_scale"); }

// Two E2M1 codes a byte.
bool is_packed(const std::string& name, DType dtype) {
  return dtype == DType::kU8 && !is_scale(name);
}

std::string format_of(const std::string& name, DType dtype) {
  if (is_packed(name, dtype)) return "NVFP4";
  return dtype == DType::kF8E4M3 ? "FP8" : std::string(to_string(dtype));
}

// Which share of a component's bytes one token touches.
double active_share(const Component& component, const ModelConfig& config, bool separate_head) {
  if (component.name == "routed experts")
    return static_cast<double>(config.moe.top_k) / static_cast<double>(config.moe.num_experts);
  // A row of it, unless it also serves as lm_head.
  if (component.name == "embedding")
    return separate_head ? 1.0 / static_cast<double>(config.vocab_size) : 1.0;
  if (component.name == "vision" || component.name.starts_with("draft")) return 0.0;
  return 1.0;
}

}  // namespace

Inventory take_inventory(const Checkpoint& checkpoint) {
  Inventory inventory;
  std::vector<std::set<std::string>> formats;
  bool separate_head = false;
  for (const std::string& name : checkpoint.tensor_names()) {
    const std::string label = component_of(name, checkpoint.text_prefix());
    separate_head |= label == "lm_head";
    auto at = std::find_if(inventory.components.begin(), inventory.components.end(),
                           [&](const Component& c) { return c.name == label; });
    if (at == inventory.components.end()) {
      at = inventory.components.insert(at, {.name = label});
      formats.emplace_back();
    }
    const TensorView view = checkpoint.tensor(name);
    at->bytes += view.num_bytes();
    if (is_scale(name)) continue;
    at->parameters += view.num_elements() * (is_packed(name, view.dtype) ? 2 : 1);
    formats[at - inventory.components.begin()].insert(format_of(name, view.dtype));
  }
  for (size_t i = 0; i < inventory.components.size(); ++i) {
    Component& component = inventory.components[i];
    for (const std::string& format : formats[i])
      component.formats += (component.formats.empty() ? "" : ", ") + format;
    const double share = active_share(component, checkpoint.config(), separate_head);
    component.active_parameters = static_cast<int64_t>(share * component.parameters);
    component.active_bytes = static_cast<int64_t>(share * component.bytes);
    inventory.parameters += component.parameters;
    inventory.active_parameters += component.active_parameters;
    inventory.bytes += component.bytes;
    inventory.active_bytes += component.active_bytes;
  }
  std::stable_sort(inventory.components.begin(), inventory.components.end(),
                   [](const Component& a, const Component& b) { return a.bytes > b.bytes; });
  return inventory;
}

}  // namespace moe4::cli
