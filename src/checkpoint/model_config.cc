// Reads config.json: the fields every family shares, then what its family adds or spells
// differently.
#include "checkpoint/model_config.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string_view>

#include "base/error.h"
#include "checkpoint/config_parser.h"

namespace moe4 {
namespace {

constexpr int64_t kMaxLayers = 4096;
constexpr int64_t kMaxExperts = 65536;

bool is_any_of(std::string_view text, std::initializer_list<std::string_view> words) {
  return std::find(words.begin(), words.end(), text) != words.end();
}

bool starts_with_any_of(std::string_view text, std::initializer_list<std::string_view> prefixes) {
  return std::any_of(prefixes.begin(), prefixes.end(),
                     [&](std::string_view prefix) { return text.starts_with(prefix); });
}

// What a family means when a key is absent, and how it lays out its layers.
struct Family {
  bool is_qwen35 = false;      // qwen3_5_moe: shared expert gate, output gate, delta net
  bool is_qwen3_next = false;  // the same blocks, dense layers possible
  bool expert_size_is_intermediate_size = false;  // no moe_intermediate_size key
  bool shared_expert_gate = false;
  bool one_plus_weight_norm = false;
  bool renormalize = true;
  ScoringFunction scoring = ScoringFunction::kSoftmax;
};

Family family_of(const std::string& type) {
  Family family;
  family.is_qwen35 = starts_with_any_of(type, {"qwen3_5_moe", "qwen3_5_text", "qwen3_5"});
  family.is_qwen3_next = type == "qwen3_next";
  family.expert_size_is_intermediate_size =
      is_any_of(type, {"mixtral", "gpt_oss", "minimax", "minimax_m2", "llama4", "llama4_text",
                       "phimoe", "granitemoe", "olmoe"});
  family.shared_expert_gate = family.is_qwen35 || family.is_qwen3_next || type == "qwen2_moe";
  family.one_plus_weight_norm =
      family.is_qwen35 || family.is_qwen3_next || starts_with_any_of(type, {"gemma", "minimax_m3"});
  // transformers' defaults of norm_topk_prob.
  family.renormalize =
      !is_any_of(type, {"qwen3_moe", "qwen2_moe", "olmoe", "deepseek_v2", "llama4", "llama4_text"});
  if (starts_with_any_of(type, {"deepseek_v3", "kimi", "glm4_moe", "glm_moe", "minimax_m", "step3",
                                "nemotron_h", "mimo", "llama4", "laguna"})) {
    family.scoring = ScoringFunction::kSigmoid;
  }
  if (type == "gpt_oss") family.scoring = ScoringFunction::kSoftmaxOverSelected;
  return family;
}

std::string layer_type_text(const JsonReader& text, const Json& value, const char* key) {
  if (!value.is_string()) {
    text.fail(key, "configuration value is not usable", "an array of strings", describe(value));
  }
  return value.get<std::string>();
}

void check_length(const JsonReader& text, const Json& array, const char* key, int64_t num_layers) {
  if (static_cast<int64_t>(array.size()) != num_layers) {
    text.fail(key, "configuration array has the wrong length",
              fmt::format("{} entries (num_hidden_layers)", num_layers),
              std::to_string(array.size()));
  }
}

// num_hidden_layers, or for Nemotron-H the length of its pattern.
void read_layers(const JsonReader& text, const Family& family, ModelConfig& config) {
  config.num_layers = text.integer({"num_hidden_layers", "num_layers", "n_layer"}, 1, kMaxLayers);
  config.layer_kinds.assign(config.num_layers, LayerKind::kFullAttention);
  if (const Json* types = text.array("layer_types")) {
    check_length(text, *types, "layer_types", config.num_layers);
    for (int64_t i = 0; i < config.num_layers; ++i) {
      const std::string type = layer_type_text(text, (*types)[i], "layer_types");
      if (is_any_of(type, {"linear_attention", "mamba", "mamba2", "conv"})) {
        config.layer_kinds[i] = LayerKind::kLinearAttention;
      } else if (type != "full_attention" && (family.is_qwen35 || family.is_qwen3_next)) {
        text.fail("layer_types", "unknown layer type", "linear_attention or full_attention",
                  printable(type, 80));
      }
    }
  } else if (family.is_qwen35 || family.is_qwen3_next) {
    const int64_t interval = text.size({"full_attention_interval"}, 4);
    for (int64_t i = 0; i < config.num_layers; ++i) {
      if ((i + 1) % interval != 0) config.layer_kinds[i] = LayerKind::kLinearAttention;
    }
  }
}

void read_attention(const JsonReader& text, const Family& family, ModelConfig& config) {
  config.num_attention_heads = text.size({"num_attention_heads", "n_head"});
  config.num_key_value_heads = text.size({"num_key_value_heads"}, config.num_attention_heads);
  if (config.num_attention_heads % config.num_key_value_heads != 0) {
    text.fail("num_key_value_heads", "attention heads do not divide",
              fmt::format("a divisor of num_attention_heads = {}", config.num_attention_heads),
              std::to_string(config.num_key_value_heads));
  }
  if (text.has("qk_nope_head_dim") && text.has("qk_rope_head_dim")) {  // MLA
    config.head_dim = text.size({"qk_nope_head_dim"}) + text.size({"qk_rope_head_dim"});
  } else if (text.has("head_dim") || text.has("attention_head_dim")) {
    config.head_dim = text.size({"head_dim", "attention_head_dim"});
  } else if (family.is_qwen35 || family.is_qwen3_next) {
    config.head_dim = 256;
  } else if (config.hidden_size % config.num_attention_heads == 0) {
    config.head_dim = config.hidden_size / config.num_attention_heads;
  } else {
    text.fail("num_attention_heads", "attention heads do not divide",
              fmt::format("a divisor of hidden_size = {}, or a head_dim", config.hidden_size),
              std::to_string(config.num_attention_heads));
  }

  // transformers 4: rope_theta and rope_scaling; 5: rope_parameters, for some models one a layer
  // type.
  std::optional<JsonReader> rope = text.object("rope_parameters");
  if (rope && rope->has("full_attention")) rope = rope->object("full_attention");
  const double default_partial = family.is_qwen35 || family.is_qwen3_next ? 0.25 : 1.0;
  constexpr double kMaxTheta = 1e15;
  config.rope_theta = text.number({"rope_theta"}, 10000.0, 1e-3, kMaxTheta);
  config.partial_rotary_factor = text.number({"partial_rotary_factor"}, default_partial, 1e-6, 1.0);
  config.rope_type = "default";
  if (rope) {
    config.rope_theta = rope->number({"rope_theta"}, config.rope_theta, 1e-3, kMaxTheta);
    config.partial_rotary_factor =
        rope->number({"partial_rotary_factor"}, config.partial_rotary_factor, 1e-6, 1.0);
    config.rope_type = rope->string({"rope_type", "type"}, "default");
  }
  if (const auto scaling = text.object("rope_scaling")) {
    config.rope_type = scaling->string({"rope_type", "type"}, config.rope_type);
  }
  // Older spellings of "no scaling".
  if (config.rope_type == "mrope") config.rope_type = "default";

  config.attention_bias = text.boolean({"attention_bias", "use_qkv_bias"}, false);
  config.attn_output_gate =
      text.boolean({"attn_output_gate"}, family.is_qwen35 || family.is_qwen3_next);
}

void read_delta_net(const JsonReader& text, const Family& family, ModelConfig& config) {
  if (!family.is_qwen35 && !family.is_qwen3_next) return;
  config.linear_num_key_heads = text.size({"linear_num_key_heads"}, 16);
  config.linear_num_value_heads = text.size({"linear_num_value_heads"}, 32);
  config.linear_key_head_dim = text.size({"linear_key_head_dim"}, 128);
  config.linear_value_head_dim = text.size({"linear_value_head_dim"}, 128);
  config.linear_conv_kernel_dim = text.integer({"linear_conv_kernel_dim"}, 1, 64, 4);
  if (config.linear_num_value_heads % config.linear_num_key_heads != 0) {
    text.fail("linear_num_value_heads", "delta-net heads do not divide",
              fmt::format("a multiple of linear_num_key_heads = {}", config.linear_num_key_heads),
              std::to_string(config.linear_num_value_heads));
  }
}

ActivationParams read_activation(const JsonReader& text, const std::string& type) {
  ActivationParams activation;
  const std::string name =
      text.string({"mlp_hidden_act", "hidden_act", "hidden_activation", "activation"}, "silu");
  if (type == "gpt_oss" || starts_with_any_of(name, {"swigluoai"})) {
    activation.kind = ActivationKind::kSwigluOai;
    activation.alpha = static_cast<float>(text.number({"swiglu_alpha"}, 1.702, 1e-6, 1e6));
    activation.limit = 7.0f;
  } else if (is_any_of(name, {"silu", "swish", "swiglu"})) {
    activation.kind = ActivationKind::kSilu;
  } else if (is_any_of(name, {"gelu_tanh", "gelu_pytorch_tanh", "gelu_new"})) {
    activation.kind = ActivationKind::kGeluTanh;
  } else if (name == "relu2") {
    activation.kind = ActivationKind::kRelu2;
  } else {
    text.fail("hidden_act", "unknown activation", "silu, gelu_pytorch_tanh, swigluoai or relu2",
              printable(name, 80));
  }
  activation.limit = static_cast<float>(text.number({"swiglu_limit"}, activation.limit, 1e-6,
                                                    std::numeric_limits<float>::infinity()));
  return activation;
}

ScoringFunction read_scoring(const JsonReader& text, const Family& family, ModelConfig& config) {
  const char* names[] = {"softmax", "sigmoid", "softmax over the chosen"};
  config.router_scoring = text.string({"scoring_func", "score_func", "score_function"},
                                      names[static_cast<int>(family.scoring)]);
  if (config.router_scoring == "softmax") return ScoringFunction::kSoftmax;
  if (config.router_scoring == "sigmoid") return ScoringFunction::kSigmoid;
  return family.scoring;
}

void read_experts(const JsonReader& text, const Family& family, ModelConfig& config) {
  const std::string& type = config.model_type;
  const bool required = family.is_qwen35 || family.is_qwen3_next ||
                        is_any_of(type, {"qwen3_moe", "qwen2_moe", "mixtral"});
  config.dense_intermediate_size =
      text.size({"intermediate_size_mlp", "dense_intermediate_size"},
                text.size({"intermediate_size", "ffn_hidden_size"}, 1));
  if (!text.has("intermediate_size") && !text.has("intermediate_size_mlp") &&
      !text.has("ffn_hidden_size") && !text.has("dense_intermediate_size")) {
    config.dense_intermediate_size = 0;
  }
  config.moe.activation = read_activation(text, type);
  config.is_moe_layer.assign(config.num_layers, false);
  const int64_t num_experts = text.integer(
      {"num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"}, required ? 1 : 0,
      kMaxExperts, required ? std::nullopt : std::optional<int64_t>(0));
  if (num_experts == 0) return;

  config.moe.num_experts = config.moe.num_local_experts = num_experts;
  config.moe.hidden_size = text.size({"moe_latent_size"}, config.hidden_size);
  config.moe.top_k = text.size({"num_experts_per_tok", "num_experts_per_token", "experts_per_token",
                                "top_k_experts", "moe_top_k", "moe_topk"});
  if (config.moe.top_k > num_experts) {
    text.fail("num_experts_per_tok", "more experts per token than experts",
              fmt::format("at most num_experts = {}", num_experts),
              std::to_string(config.moe.top_k));
  }
  config.moe.intermediate_size =
      family.expert_size_is_intermediate_size && !text.has("moe_intermediate_size")
          ? text.size({"intermediate_size"})
          : text.size({"moe_intermediate_size", "expert_intermediate_size", "moe_ffn_hidden_size"});
  config.moe.weight_on_input = starts_with_any_of(type, {"llama4"});

  if (text.has("shared_expert_intermediate_size") ||
      text.has("moe_shared_expert_intermediate_size") || text.has("shared_intermediate_size")) {
    config.shared_expert_intermediate_size =
        text.integer({"shared_expert_intermediate_size", "moe_shared_expert_intermediate_size",
                      "shared_intermediate_size"},
                     0, std::numeric_limits<int32_t>::max(), 0);
  } else if (text.has("n_shared_experts") || text.has("num_shared_experts")) {
    config.shared_expert_intermediate_size =
        config.moe.intermediate_size *
        text.integer({"n_shared_experts", "num_shared_experts"}, 0, 1024, 0);
  } else if (config.moe.weight_on_input) {
    config.shared_expert_intermediate_size = config.moe.intermediate_size;
  } else if (family.is_qwen35 || family.is_qwen3_next) {
    config.shared_expert_intermediate_size = 512;
  }
  config.shared_expert_has_gate =
      family.shared_expert_gate && config.shared_expert_intermediate_size > 0;

  RouterConfig& router = config.router;
  router.num_experts = num_experts;
  router.top_k = config.moe.top_k;
  router.scoring = read_scoring(text, family, config);
  router.renormalize = text.boolean({"norm_topk_prob"}, family.renormalize);
  router.scaling_factor = static_cast<float>(
      text.number({"routed_scaling_factor", "moe_router_scaling_factor"}, 1.0, 1e-6, 1e6));
  router.num_groups = text.size({"n_group", "num_expert_group"}, 1);
  router.topk_groups = text.size({"topk_group"}, 1);
  if (num_experts % router.num_groups != 0) {
    text.fail("n_group", "expert groups do not divide",
              fmt::format("a divisor of the number of experts, {}", num_experts),
              std::to_string(router.num_groups));
  }
  if (router.topk_groups > router.num_groups ||
      router.topk_groups * (num_experts / router.num_groups) < router.top_k) {
    text.fail("topk_group", "expert groups do not fit the experts per token",
              fmt::format("at most n_group = {} and room for {} experts", router.num_groups,
                          router.top_k),
              std::to_string(router.topk_groups));
  }
}

// Marks layers given as an array of indices.
void mark_layers(const JsonReader& text, const char* key, bool value, ModelConfig& config) {
  const Json* list = text.array(key);
  if (list == nullptr) return;
  for (const Json& item : *list) {
    if (!item.is_number_unsigned() ||
        item.get<uint64_t>() >= static_cast<uint64_t>(config.num_layers)) {
      text.fail(key, "configuration value is not usable",
                fmt::format("layer numbers below num_hidden_layers = {}", config.num_layers),
                describe(item));
    }
    config.is_moe_layer[item.get<uint64_t>()] = value;
  }
}

// Nemotron-H: one character a layer, M Mamba, E experts, * attention, - dense.
void read_hybrid_pattern(const JsonReader& text, ModelConfig& config) {
  std::string pattern = text.string({"hybrid_override_pattern"}, "");
  pattern.erase(std::remove(pattern.begin(), pattern.end(), '|'), pattern.end());
  if (const Json* types = text.array("layers_block_type"); pattern.empty() && types != nullptr) {
    for (const Json& item : *types) {
      const std::string type = layer_type_text(text, item, "layers_block_type");
      pattern += type == "moe" ? 'E' : type == "mamba" ? 'M' : type == "attention" ? '*' : '-';
    }
  }
  if (pattern.empty()) return;
  if (static_cast<int64_t>(pattern.size()) != config.num_layers) {
    text.fail("hybrid_override_pattern", "configuration pattern has the wrong length",
              fmt::format("{} characters (num_hidden_layers)", config.num_layers),
              std::to_string(pattern.size()));
  }
  for (int64_t i = 0; i < config.num_layers; ++i) {
    config.is_moe_layer[i] = pattern[i] == 'E' && config.moe.num_experts > 0;
    config.layer_kinds[i] =
        pattern[i] == 'M' ? LayerKind::kLinearAttention : LayerKind::kFullAttention;
  }
}

void read_moe_layers(const JsonReader& text, ModelConfig& config) {
  if (config.moe.num_experts == 0) return;
  const std::string& type = config.model_type;
  if (type == "nemotron_h") return read_hybrid_pattern(text, config);

  const int64_t dense_first =
      text.integer({"first_k_dense_replace", "num_dense_layers"}, 0, config.num_layers, 0);
  const int64_t step = text.size({"decoder_sparse_step", "interleave_moe_layer_step"}, 1);
  // An array of 0 and 1 in some families, a step in others.
  const Json* frequency = text.get("moe_layer_freq");
  const int64_t every =
      frequency != nullptr && !frequency->is_array() ? text.size({"moe_layer_freq"}) : 1;
  for (int64_t i = 0; i < config.num_layers; ++i) {
    config.is_moe_layer[i] = i >= dense_first && (i + 1) % step == 0 && i % every == 0;
  }
  if (frequency != nullptr && frequency->is_array()) {
    check_length(text, *frequency, "moe_layer_freq", config.num_layers);
    for (int64_t i = 0; i < config.num_layers; ++i) {
      config.is_moe_layer[i] = (*frequency)[i].is_number() && (*frequency)[i].get<double>() != 0;
    }
  }
  if (const Json* layers = text.array("moe_layers"); layers != nullptr && !layers->empty()) {
    config.is_moe_layer.assign(config.num_layers, false);
    mark_layers(text, "moe_layers", true, config);
  }
  mark_layers(text, "mlp_only_layers", false, config);
  if (const Json* types = text.array("mlp_layer_types")) {
    check_length(text, *types, "mlp_layer_types", config.num_layers);
    for (int64_t i = 0; i < config.num_layers; ++i) {
      config.is_moe_layer[i] = layer_type_text(text, (*types)[i], "mlp_layer_types") == "sparse";
    }
  }
}

}  // namespace

ModelConfig parse_model_config(const Json& root_json, const std::string& file) {
  const JsonReader root(root_json, file);
  // Multimodal wrappers nest the language model; a text_config without sizes is somebody else's.
  JsonReader text = root;
  for (const char* key : {"text_config", "llm_config", "language_config"}) {
    const auto nested = root.object(key);
    if (nested && nested->has("hidden_size")) {
      text = *nested;
      break;
    }
  }

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
  config.rms_norm_eps = static_cast<float>(
      text.number({"rms_norm_eps", "layer_norm_epsilon", "norm_eps"}, 1e-6, 0.0, 1.0));
  // Wrappers may keep the flag beside text_config; transformers takes the outer one then.
  config.tie_word_embeddings =
      root.boolean({"tie_word_embeddings"}, text.boolean({"tie_word_embeddings"}, false));
  config.one_plus_weight_norm = family.one_plus_weight_norm;
  read_layers(text, family, config);
  read_attention(text, family, config);
  read_delta_net(text, family, config);
  read_experts(text, family, config);
  read_moe_layers(text, config);
  return config;
}

GenerationConfig parse_generation_config(const Json& root_json, const std::string& file) {
  const JsonReader root(root_json, file);
  GenerationConfig config;
  constexpr int64_t kMaxId = std::numeric_limits<int32_t>::max();
  if (const Json* ids = root.get("eos_token_id"); ids != nullptr && ids->is_array()) {
    for (const Json& id : *ids) {
      if (!id.is_number_unsigned() || id.get<uint64_t>() > static_cast<uint64_t>(kMaxId)) {
        root.fail("eos_token_id", "configuration value is not usable", "token ids", describe(id));
      }
      config.eos_token_ids.push_back(static_cast<int32_t>(id.get<uint64_t>()));
    }
  } else if (ids != nullptr) {
    config.eos_token_ids.push_back(static_cast<int32_t>(root.integer({"eos_token_id"}, 0, kMaxId)));
  }
  config.do_sample = root.boolean({"do_sample"}, config.do_sample);
  config.temperature = static_cast<float>(root.number({"temperature"}, 1.0, 0.0, 100.0));
  config.top_k = root.integer({"top_k"}, 0, kMaxId, 0);
  config.top_p = static_cast<float>(root.number({"top_p"}, 1.0, 0.0, 1.0));
  config.min_p = static_cast<float>(root.number({"min_p"}, 0.0, 0.0, 1.0));
  config.repetition_penalty =
      static_cast<float>(root.number({"repetition_penalty"}, 1.0, 1e-3, 1e3));
  return config;
}

}  // namespace moe4
