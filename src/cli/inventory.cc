// Sorts tensors into components by their names.
#include "cli/inventory.h"

#include <algorithm>
#include <initializer_list>
#include <set>
#include <string_view>

namespace moe4::cli {
namespace {

bool contains(std::string_view name, std::string_view part) {
  return name.find(part) != std::string_view::npos;
}

bool contains_any(std::string_view name, std::initializer_list<std::string_view> parts) {
  return std::any_of(parts.begin(), parts.end(),
                     [&](std::string_view part) { return contains(name, part); });
}

// The layer that a tensor of the text model belongs to, -1 for none.
int64_t layer_of(std::string_view rest) {
  if (!rest.starts_with("layers.")) return -1;
  rest.remove_prefix(7);
  int64_t layer = 0;
  size_t digits = 0;
  for (; digits < rest.size() && digits < 9 && rest[digits] >= '0' && rest[digits] <= '9'; ++digits)
    layer = layer * 10 + (rest[digits] - '0');
  return digits > 0 ? layer : -1;
}

std::string layer_component(std::string_view name) {
  if (contains_any(name, {"shared_expert", "share_expert", "shared_mlp"})) return "shared experts";
  if (contains_any(name, {"correction_bias", "expert_bias", "router", "moe_statics"}))
    return "routers";
  if (contains(name, ".experts.") || (contains(name, ".moe.") && contains(name, "_proj")))
    return "routed experts";
  if (contains(name, "norm")) return "norms";
  if (contains(name, "linear_attn")) return "gated delta net";
  if (contains(name, "_latent_proj")) return "latent projections";
  if (contains(name, ".mixer.") &&
      contains_any(name, {".in_proj", ".out_proj", ".conv1d", ".A_log", ".D", ".dt_bias"}))
    return "Mamba-2";
  if (contains_any(name,
                   {"attn", ".mixer.q_proj", ".mixer.k_proj", ".mixer.v_proj", ".mixer.o_proj"}))
    return "attention";
  if (contains(name, ".gate.")) return "routers";
  if (contains_any(name, {".mlp.", ".feed_forward.", ".mixer."})) return "dense feed-forward";
  return "other";
}

std::string component_of(const std::string& name, const std::string& text_prefix,
                         int64_t num_layers) {
  if (contains(name, "mtp")) return "draft layers (mtp)";
  if (contains_any(name, {"visual", "vision", "multi_modal"})) return "vision";
  if (name.starts_with("lm_head") || contains(name, ".lm_head") || name == "head.weight") {
    return "lm_head";
  }
  if (!name.starts_with(text_prefix)) return "other";
  const std::string_view rest = std::string_view(name).substr(text_prefix.size());
  const int64_t layer = layer_of(rest);
  if (layer >= num_layers) return "draft layers (mtp)";
  if (contains(name, "embed_tokens") || rest == "embeddings.weight" || rest == "embed.weight")
    return "embedding";
  if (layer < 0)
    return rest == "head.weight" ? "lm_head" : contains(rest, "norm") ? "norms" : "other";
  return layer_component(name);
}

// Beside a weight; the scales of routers and hyper-connections are parameters of the model.
bool is_scale(const std::string& name) {
  if (contains_any(name, {"router", ".hc_"})) return false;
  return contains(name, "_scale") || name.ends_with(".scale");
}

// Whether the weight's block scales are powers of two.
bool has_power_of_two_scale(const Checkpoint& checkpoint, const std::string& name) {
  const std::string module = name.substr(0, name.rfind('.'));
  for (const char* suffix : {".scale", ".weight_scale"}) {
    const std::string scale = module + suffix;
    if (!checkpoint.has_tensor(scale)) continue;
    const DType type = checkpoint.tensor_header(scale).dtype;
    if (type == DType::kF8E8M0 || type == DType::kU8) return true;
  }
  return false;
}

// Two E2M1 codes a byte; DeepSeek-V4 stores MXFP4's as I8.
bool is_packed(const Checkpoint& checkpoint, const std::string& name, DType dtype) {
  if (is_scale(name)) return false;
  return dtype == DType::kU8 || (dtype == DType::kI8 && has_power_of_two_scale(checkpoint, name));
}

std::string format_of(const Checkpoint& checkpoint, const std::string& name, DType dtype) {
  const std::string module = name.substr(0, name.rfind('.'));
  const bool mx = has_power_of_two_scale(checkpoint, name);
  if (is_packed(checkpoint, name, dtype))
    return mx || name.ends_with("_blocks") ? "MXFP4" : "NVFP4";
  if (dtype == DType::kF8E4M3)
    return mx && checkpoint.has_tensor(module + ".weight_scale") ? "MXFP8" : "FP8";
  return std::string(to_string(dtype));
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
    const std::string label =
        component_of(name, checkpoint.text_prefix(), checkpoint.config().num_layers);
    separate_head |= label == "lm_head";
    auto at = std::find_if(inventory.components.begin(), inventory.components.end(),
                           [&](const Component& c) { return c.name == label; });
    if (at == inventory.components.end()) {
      at = inventory.components.insert(at, {.name = label});
      formats.emplace_back();
    }
    const TensorView view = checkpoint.tensor_header(name);
    if (const std::optional<QuantFormat> blocks = checkpoint.block_format(name)) {
      const GgmlType& type = *ggml_type_of(*blocks);
      at->bytes += view.num_elements() / type.block_elements * type.block_bytes;
      at->parameters += view.num_elements();
      formats[at - inventory.components.begin()].emplace(type.name);
      continue;
    }
    at->bytes += view.num_bytes();
    if (is_scale(name)) continue;
    at->parameters += view.num_elements() * (is_packed(checkpoint, name, view.dtype) ? 2 : 1);
    formats[at - inventory.components.begin()].insert(format_of(checkpoint, name, view.dtype));
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
