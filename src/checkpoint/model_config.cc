// Reads config.json: where the text model is, its general sizes and its attention. Layers are in
// layer_layout.cc, experts in expert_config.cc, what families mean by absent keys in family.cc.
// What only a model reads is checked here and not kept: plan and inspect refuse what run would.
#include "checkpoint/model_config.h"

#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <limits>
#include <nlohmann/json.hpp>
#include <utility>

#include "checkpoint/config_parser.h"
#include "checkpoint/expert_config.h"
#include "checkpoint/family.h"
#include "checkpoint/layer_layout.h"

namespace moe4 {
namespace {

// A number, or a list with one a layer (Step): whether layers differ.
bool differs_by_layer(const JsonReader& text, const char* key, double minimum, double maximum) {
  const Json* value = text.get(key);
  if (value == nullptr || !value->is_array()) {
    text.number({key}, minimum, minimum, maximum);
    return false;
  }
  if (value->empty()) {
    text.fail(key, "configuration value is not usable", "a number, or one a layer",
              "an empty list");
  }
  for (const Json& item : *value) {
    if (!item.is_number() || !(item.get<double>() >= minimum) || !(item.get<double>() <= maximum)) {
      text.fail(key, "configuration value is not usable",
                fmt::format("numbers from {} to {}", minimum, maximum), describe(item));
    }
  }
  return std::adjacent_find(value->begin(), value->end(), std::not_equal_to<>()) != value->end();
}

// transformers 4: rope_theta and rope_scaling; 5: rope_parameters, for some models one a layer
// type.
void read_rotary(const JsonReader& text, ModelConfig& config) {
  constexpr double kMinTheta = 1e-3, kMaxTheta = 1e15;
  constexpr double kMinFactor = 1e-6, kMaxFactor = 1.0;
  std::optional<JsonReader> rope = text.object("rope_parameters");
  if (rope) {
    for (const char* kind : {"full_attention", "main"}) {
      if (!rope->has(kind)) continue;
      config.rope_per_layer = rope->json().size() > 1;
      rope = rope->object(kind);
      break;
    }
  }
  config.rope_per_layer |= differs_by_layer(text, "rope_theta", kMinTheta, kMaxTheta);
  config.rope_per_layer |= differs_by_layer(text, "partial_rotary_factor", kMinFactor, kMaxFactor);
  text.size({"rotary_dim"}, 1);  // MiniMax
  config.rope_type = "default";
  if (rope) {
    rope->number({"rope_theta"}, kMinTheta, kMinTheta, kMaxTheta);
    rope->number({"partial_rotary_factor"}, kMinFactor, kMinFactor, kMaxFactor);
    config.rope_type = rope->string({"rope_type", "type"}, "default");
  }
  if (const auto scaling = text.object("rope_scaling")) {
    config.rope_type = scaling->string({"rope_type", "type"}, config.rope_type);
  }
  // Older spellings of "no scaling".
  if (config.rope_type == "mrope") config.rope_type = "default";
  // A second theta for window layers, or for compressed ones.
  for (const char* key : {"rope_local_base_freq", "swa_rope_theta", "compress_rope_theta"}) {
    config.rope_per_layer |= text.has(key);
  }
}

void read_attention(const JsonReader& text, const Family& family, ModelConfig& config) {
  const int64_t num_heads = text.size({"num_attention_heads", "n_head"});
  const int64_t num_kv_heads =
      text.size({"num_key_value_heads", "num_attention_groups"}, num_heads);
  if (num_heads % num_kv_heads != 0) {
    text.fail("num_key_value_heads", "attention heads do not divide",
              fmt::format("a divisor of num_attention_heads = {}", num_heads),
              std::to_string(num_kv_heads));
  }
  const bool has_width = text.has("head_dim") || text.has("attention_head_dim");
  if (text.has("qk_nope_head_dim") && text.has("qk_rope_head_dim")) {  // MLA
    // A head_dim beside them is 192, 64 or their sum, according to the writer.
    config.is_latent_attention = true;
    text.size({"qk_nope_head_dim"});
    text.size({"qk_rope_head_dim"});
  } else if (has_width) {
    text.size({"head_dim", "attention_head_dim"});
  } else if (!family.is_qwen35 && !family.is_qwen3_next && config.hidden_size % num_heads != 0) {
    text.fail("num_attention_heads", "attention heads do not divide",
              fmt::format("a divisor of hidden_size = {}, or a head_dim", config.hidden_size),
              std::to_string(num_heads));
  }
  read_rotary(text, config);
  text.boolean({"attention_bias", "use_qkv_bias"}, false);
  text.boolean({"attn_output_gate"}, false);
}

void check_delta_net(const JsonReader& text, const Family& family) {
  if (!family.is_qwen35 && !family.is_qwen3_next) return;
  const int64_t num_key_heads = text.size({"linear_num_key_heads"}, 16);
  const int64_t num_value_heads = text.size({"linear_num_value_heads"}, 32);
  text.size({"linear_key_head_dim"}, 128);
  text.size({"linear_value_head_dim"}, 128);
  text.integer({"linear_conv_kernel_dim"}, 1, 64, 4);
  if (num_value_heads % num_key_heads != 0) {
    text.fail("linear_num_value_heads", "delta-net heads do not divide",
              fmt::format("a multiple of linear_num_key_heads = {}", num_key_heads),
              std::to_string(num_value_heads));
  }
}

}  // namespace

JsonReader find_text_config(const JsonReader& root) {
  // One without sizes is somebody else's.
  const auto with_sizes = [](const JsonReader& holder) -> std::optional<JsonReader> {
    for (const char* key : {"text_config", "llm_config", "language_config"}) {
      if (auto nested = holder.object(key); nested && nested->has("hidden_size")) return nested;
    }
    return std::nullopt;
  };
  if (auto text = with_sizes(root)) return *text;
  if (const auto thinker = root.object("thinker_config")) {  // omni wrappers
    if (auto text = with_sizes(*thinker)) return *text;
    if (thinker->has("hidden_size")) return *thinker;
  }
  return root;
}

ModelConfig parse_model_config(const Json& root_json, const std::string& file) {
  const JsonReader root(root_json, file);
  const JsonReader text = find_text_config(root);

  ModelConfig config;
  config.model_type = text.string({"model_type"}, root.string({"model_type"}, ""));
  if (config.model_type.empty()) {
    text.fail("model_type", "configuration key is missing", "the name of an architecture",
              "nothing");
  }
  const Json* names = root.array("architectures");
  if (names == nullptr) names = text.array("architectures");
  if (names != nullptr && !names->empty() && names->front().is_string()) {
    config.architecture = names->front().get<std::string>();
  }
  const Family family = family_of(config.model_type);
  config.hidden_size = text.size({"hidden_size", "n_embd"});
  config.vocab_size = text.size({"vocab_size"});
  config.max_position_embeddings = text.size({"max_position_embeddings"}, 2048);
  text.number({"rms_norm_eps", "layer_norm_epsilon", "norm_eps"}, 1e-6, 0.0, 1.0);
  root.boolean({"tie_word_embeddings"}, text.boolean({"tie_word_embeddings"}, false));
  read_layers(text, family, config);
  read_attention(text, family, config);
  check_delta_net(text, family);
  read_experts(text, family, config);
  read_moe_layers(text, family, config);
  return config;
}

}  // namespace moe4
