// config.json of Gemma-4 with experts out of llama.cpp's keys.
#include <fmt/format.h>

#include <algorithm>

#include "checkpoint/gguf_config_families.h"

namespace moe4 {
namespace {

constexpr const char* kFactors = "rope_freqs.weight";

// Which part of a head of `width` rotates in layers without a window: files divide the frequencies
// of the other pairs by 1e30.
double rotated_part(const GgufConfigWriter& w, int64_t width) {
  constexpr double kPublished = 0.25;
  constexpr float kNever = 1e30f;
  const GgufTensor* stored = w.tensor(kFactors);
  const std::string expected = fmt::format("{} factors: ones, then 1e30", width / 2);
  if (stored == nullptr || stored->shape != std::vector<int64_t>{width / 2}) {
    w.refuse_tensor(kFactors, expected);
  }
  const std::vector<float> factors = w.values(kFactors);
  if (factors.empty()) return kPublished;  // headers alone
  const auto turned = std::find_if(factors.begin(), factors.end(), [](float f) { return f != 1; });
  if (std::any_of(turned, factors.end(), [](float f) { return f != kNever; })) {
    w.refuse_tensor(kFactors, expected);
  }
  return static_cast<double>(turned - factors.begin()) / static_cast<double>(factors.size());
}

// Whether layers without a window take their keys as values; all do or none does.
bool keys_are_values(const GgufConfigWriter& w, const std::vector<bool>& windows) {
  bool some = false, all = true;
  for (int64_t i = 0; i < w.num_layers(); ++i) {
    if (windows[i]) continue;
    const bool has_values = w.layer_has(i, "attn_v.weight");
    some |= !has_values;
    all &= !has_values;
  }
  if (some && !all) {
    w.refuse_tensor("blk.N.attn_v.weight", "in all layers without a window, or in none");
  }
  return some;
}

int64_t head_width(GgufConfigWriter& w, const char* keys, const char* values) {
  const int64_t width = w.required(keys);
  if (width < 2 || width % 2 != 0) w.refuse(keys, "an even number", std::to_string(width));
  if (const int64_t other = w.required(values); other != width) {
    w.refuse(values, std::to_string(width), std::to_string(other));
  }
  return width;
}

}  // namespace

void write_gemma4(GgufConfigWriter& w) {
  Json& config = w.config();
  const std::vector<bool> windows = w.marks("attention.sliding_window_pattern");
  if (windows.empty()) w.refuse("attention.sliding_window_pattern", "one a layer", "nothing");
  config["layer_types"] = attention_layer_types(windows);
  config["sliding_window"] = w.required("attention.sliding_window");
  config["num_attention_heads"] = w.same_for_all("attention.head_count");
  const int64_t near_kv = w.same_for_marked("attention.head_count_kv", windows, true);
  const int64_t far_kv = w.same_for_marked("attention.head_count_kv", windows, false);
  config["num_key_value_heads"] = near_kv != 0 ? near_kv : far_kv;
  config["attention_k_eq_v"] = keys_are_values(w, windows);
  if (far_kv != 0 && far_kv != config["num_key_value_heads"]) {
    if (!config["attention_k_eq_v"]) {
      w.refuse("attention.head_count_kv", "one number where keys are no values",
               fmt::format("{} and {}", near_kv, far_kv));
    }
    config["num_global_key_value_heads"] = far_kv;
  }
  const int64_t far = head_width(w, "attention.key_length", "attention.value_length");
  const int64_t near = head_width(w, "attention.key_length_swa", "attention.value_length_swa");
  config["head_dim"] = near;
  config["global_head_dim"] = far;
  w.require("rope.dimension_count", far);  // the factors say which part rotates
  w.require("rope.dimension_count_swa", near);
  w.read_scaling();
  if (config.contains("rope_scaling")) {
    w.refuse("rope.scaling.type", "none", config["rope_scaling"]["rope_type"]);
  }
  const double theta = w.number("rope.freq_base_swa").value_or(10000.0);
  config["rope_parameters"] = {
      {"full_attention",
       {{"rope_type", "proportional"},
        {"partial_rotary_factor", rotated_part(w, far)},
        {"rope_theta", config.value("rope_theta", 1e6)}}},
      {"sliding_attention", {{"rope_type", "default"}, {"rope_theta", theta}}}};
  config.erase("rope_theta");

  config["enable_moe_block"] = true;
  config["num_experts"] = w.required("expert_count");
  config["moe_intermediate_size"] = w.required("expert_feed_forward_length");
  config["intermediate_size"] = w.same_for_all("feed_forward_length");
  config["hidden_activation"] = "gelu_pytorch_tanh";
  w.copy("final_logit_softcapping", w.number("final_logit_softcapping"));
  // Of other sizes of the family.
  w.require("embedding_length_per_layer_input", int64_t{0});
  w.require("attention.shared_kv_layers", int64_t{0});
}

}  // namespace moe4
