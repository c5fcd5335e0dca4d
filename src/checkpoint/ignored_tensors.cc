// The names under which published checkpoints keep what is not the text model.
#include "checkpoint/ignored_tensors.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <optional>
#include <utility>

namespace moe4 {
namespace {

// Components that lead to another part of the model. They count only above the decoder's layers:
// what lies inside a layer belongs to it, whatever its name.
constexpr std::array<std::pair<std::string_view, const char*>, 20> kOtherParts = {{
    {"visual", "vision"},
    {"vision_tower", "vision"},
    {"vision_model", "vision"},
    {"vision_encoder", "vision"},
    {"vision_embed_tokens", "vision"},
    {"vision_projector", "vision"},
    {"embed_vision", "vision"},
    {"image_newline", "vision"},
    {"multi_modal_projector", "vision"},
    {"mm_projector", "vision"},
    {"patch_merger", "vision"},
    {"patch_merge_mlp", "vision"},
    {"audio_tower", "audio"},
    {"audio_model", "audio"},
    {"audio_encoder", "audio"},
    {"embed_audio", "audio"},
    {"talker", "speech"},
    {"code2wav", "speech"},
    {"token2wav", "speech"},
    {"mtp", "multi-token prediction"},
}};

// Last components; KV scales stand below the attention or below its projections.
constexpr std::array<std::string_view, 5> kCacheScales = {"k_scale", "v_scale", "kv_scale",
                                                          "q_scale", "prob_scale"};

std::optional<int64_t> parse_number(std::string_view text) {
  int64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size() || text.empty()) return std::nullopt;
  return number;
}

std::string_view last_component(std::string_view name) {
  const size_t dot = name.rfind('.');
  return dot == std::string_view::npos ? name : name.substr(dot + 1);
}

const char* suffix_reason(std::string_view tensor) {
  const std::string_view last = last_component(tensor);
  const std::string_view parent = tensor.substr(0, tensor.size() - last.size());
  if (std::find(kCacheScales.begin(), kCacheScales.end(), last) != kCacheScales.end()) {
    return "scales of a quantised KV cache";
  }
  // compressed-tensors' older spelling of k_scale and v_scale.
  if (last == "output_scale" && (parent.ends_with("k_proj.") || parent.ends_with("v_proj."))) {
    return "scales of a quantised KV cache";
  }
  if (last == "inv_freq" && parent.ends_with("rotary_emb.")) return "stored rotary frequencies";
  return nullptr;
}

}  // namespace

const char* ignored_because(std::string_view tensor, int64_t num_layers) {
  std::string_view rest = tensor;
  while (true) {
    const size_t dot = rest.find('.');
    const std::string_view component = rest.substr(0, dot);
    for (const auto& [name, reason] : kOtherParts) {
      if (component == name) return reason;
    }
    if (dot == std::string_view::npos) break;
    rest.remove_prefix(dot + 1);
    if (component != "layers") continue;
    const auto layer = parse_number(rest.substr(0, rest.find('.')));
    if (layer && *layer >= num_layers) return "multi-token prediction";
    break;
  }
  return suffix_reason(tensor);
}

}  // namespace moe4
