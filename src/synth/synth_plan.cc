// Tensor lists and configuration files of the presets; shapes from the published configs.
#include "synth/synth_plan.h"

#include <cmath>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "synth/synth_fill.h"
#include "synth/synth_tokenizer.h"

namespace moe4 {
namespace {

using Json = nlohmann::ordered_json;

struct Preset {
  const char* name;
  bool delta_net;  // qwen3_5_moe: three gated delta net layers, then one of attention
  int64_t hidden, layers, experts, top_k, width, shared_width, vocab;
  int64_t heads, kv_heads, head_dim;
  int64_t key_heads, value_heads, linear_head_dim;
  double rope_theta;
};

constexpr Preset kPresets[] = {
    {"qwen3.6-35b-a3b", true, 2048, 40, 256, 8, 512, 512, 248320, 16, 2, 256, 16, 32, 128, 1e7},
    {"qwen3-30b-a3b", false, 2048, 48, 128, 8, 768, 0, 151936, 32, 4, 128, 0, 0, 0, 1e6},
    {"tiny", true, 256, 4, 32, 4, 128, 128, 4096, 4, 2, 64, 4, 8, 32, 1e4},
};

class PlanBuilder {
 public:
  PlanBuilder(const Preset& preset, const SynthOptions& options)
      : p_(preset),
        format_(options.format),
        layers_(options.num_layers > 0 ? options.num_layers : preset.layers),
        experts_(options.num_experts > 0 ? options.num_experts : preset.experts),
        prefix_(preset.delta_net && options.format == SynthFormat::kModelOptMixed
                    ? "model.language_model."
                    : "model.") {}

  SynthPlan build() {
    const float unit = 1.0f / std::sqrt(static_cast<float>(p_.hidden));
    add(prefix_ + "embed_tokens.weight", {p_.vocab, p_.hidden}, Fill::kNormal, 1.0f);
    for (int64_t layer = 0; layer < layers_; ++layer) add_layer(layer);
    add_norm(prefix_ + "norm.weight", p_.hidden);
    if (mixed()) {
      add_nvfp4("lm_head", p_.vocab, p_.hidden);
      listed_.push_back({"lm_head", "W4A16_NVFP4"});
    } else {
      add("lm_head.weight", {p_.vocab, p_.hidden}, Fill::kNormal, unit);
      ignored_.push_back("lm_head");
    }
    plan_.texts = synth_tokenizer_files(p_.vocab);
    plan_.texts.push_back({"config.json", config().dump(2)});
    if (format_ != SynthFormat::kCompressedTensors) {
      plan_.texts.push_back({"hf_quant_config.json", hf_quant_config().dump(2)});
    }
    return std::move(plan_);
  }

 private:
  struct Listed {
    std::string module, algo;
  };

  bool mixed() const { return format_ == SynthFormat::kModelOptMixed; }
  bool is_attention(int64_t layer) const { return !p_.delta_net || layer % 4 == 3; }

  void add(std::string name, std::vector<int64_t> shape, Fill fill, float param,
           float param2 = 0.0f, DType dtype = DType::kBF16) {
    plan_.tensors.push_back({std::move(name), dtype, std::move(shape), fill, param, param2});
  }

  // (1 + w) norms store w.
  void add_norm(std::string name, int64_t size) {
    add(std::move(name), {size}, Fill::kConstant, p_.delta_net ? 0.0f : 1.0f);
  }

  void add_nvfp4(const std::string& module, int64_t n, int64_t k) {
    const float scale = 1.0f / (std::sqrt(static_cast<float>(k)) * kCodeTimesScale);
    const bool ct = format_ == SynthFormat::kCompressedTensors;
    add(module + (ct ? ".weight_packed" : ".weight"), {n, k / 2}, Fill::kCodes, 0, 0, DType::kU8);
    add(module + ".weight_scale", {n, k / 16}, Fill::kBlockScales, 0, 0, DType::kF8E4M3);
    if (ct) {
      add(module + ".weight_global_scale", {1}, Fill::kConstant, 1.0f / scale, 0, DType::kF32);
      return;
    }
    add(module + ".weight_scale_2", {}, Fill::kConstant, scale, 0, DType::kF32);
    // Activations of about unit variance: amax of about 6.
    if (!mixed()) add(module + ".input_scale", {}, Fill::kConstant, 6.0f / 2688.0f, 0, DType::kF32);
  }

  void add_fp8(const std::string& module, int64_t n, int64_t k) {
    add(module + ".weight", {n, k}, Fill::kFp8Normal, 0, 0, DType::kF8E4M3);
    add(module + ".weight_scale", {}, Fill::kConstant,
        1.0f / (std::sqrt(static_cast<float>(k)) * kFp8Deviation), 0, DType::kF32);
    add(module + ".input_scale", {}, Fill::kConstant, 6.0f / 448.0f, 0, DType::kF32);
    listed_.push_back({module, "FP8"});
  }

  void add_bf16(const std::string& module, int64_t n, int64_t k) {
    add(module + ".weight", {n, k}, Fill::kNormal, 1.0f / std::sqrt(static_cast<float>(k)));
    ignored_.push_back(module);
  }

  // FP8 in the mixed dialect, BF16 in the others.
  void add_attention_linear(const std::string& module, int64_t n, int64_t k) {
    mixed() ? add_fp8(module, n, k) : add_bf16(module, n, k);
  }

  void add_layer(int64_t layer) {
    const std::string at = prefix_ + "layers." + std::to_string(layer) + ".";
    add_norm(at + "input_layernorm.weight", p_.hidden);
    add_norm(at + "post_attention_layernorm.weight", p_.hidden);
    is_attention(layer) ? add_attention(at + "self_attn.") : add_delta_net(at + "linear_attn.");
    add_mlp(at + "mlp.");
  }

  void add_attention(const std::string& at) {
    const int64_t q = p_.heads * p_.head_dim, kv = p_.kv_heads * p_.head_dim;
    add_attention_linear(at + "q_proj", p_.delta_net ? 2 * q : q, p_.hidden);
    add_attention_linear(at + "k_proj", kv, p_.hidden);
    add_attention_linear(at + "v_proj", kv, p_.hidden);
    add_attention_linear(at + "o_proj", p_.hidden, q);
    add_norm(at + "q_norm.weight", p_.head_dim);
    add_norm(at + "k_norm.weight", p_.head_dim);
  }

  void add_delta_net(const std::string& at) {
    const int64_t key = p_.key_heads * p_.linear_head_dim,
                  value = p_.value_heads * p_.linear_head_dim;
    add_attention_linear(at + "in_proj_qkv", 2 * key + value, p_.hidden);
    add_attention_linear(at + "in_proj_z", value, p_.hidden);
    add_bf16(at + "in_proj_a", p_.value_heads, p_.hidden);
    add_bf16(at + "in_proj_b", p_.value_heads, p_.hidden);
    add(at + "conv1d.weight", {2 * key + value, 1, 4}, Fill::kNormal, 0.5f);
    add(at + "A_log", {p_.value_heads}, Fill::kUniform, 0.0f, 2.7f);  // A in [1, 15]
    add(at + "dt_bias", {p_.value_heads}, Fill::kUniform, -5.0f, -1.0f);
    add(at + "norm.weight", {p_.linear_head_dim}, Fill::kConstant, 1.0f);
    add_attention_linear(at + "out_proj", p_.hidden, value);
  }

  void add_mlp(const std::string& at) {
    add_bf16(at + "gate", experts_, p_.hidden);
    for (int64_t e = 0; e < experts_; ++e) {
      const std::string expert = at + "experts." + std::to_string(e) + ".";
      add_nvfp4(expert + "gate_proj", p_.width, p_.hidden);
      add_nvfp4(expert + "up_proj", p_.width, p_.hidden);
      add_nvfp4(expert + "down_proj", p_.hidden, p_.width);
    }
    listed_.push_back({at + "experts", "W4A16_NVFP4"});
    if (p_.shared_width == 0) return;
    const std::string shared = at + "shared_expert.";
    const auto add_shared = [&](const char* name, int64_t n, int64_t k) {
      if (!mixed()) return add_bf16(shared + name, n, k);
      add_nvfp4(shared + name, n, k);
      listed_.push_back({shared + name, "W4A16_NVFP4"});
    };
    add_shared("gate_proj", p_.shared_width, p_.hidden);
    add_shared("up_proj", p_.shared_width, p_.hidden);
    add_shared("down_proj", p_.hidden, p_.shared_width);
    add_bf16(at + "shared_expert_gate", 1, p_.hidden);
  }

  Json quantized_layers() const {
    Json layers = Json::object();
    for (const Listed& entry : listed_) {
      layers[entry.module]["quant_algo"] = entry.algo;
      if (entry.algo != "FP8") layers[entry.module]["group_size"] = 16;
    }
    return layers;
  }

  Json quantization_config() const {
    const Json weights = {
        {"dynamic", false}, {"num_bits", 4}, {"type", "float"}, {"group_size", 16}};
    if (format_ == SynthFormat::kCompressedTensors) {
      Json ct_weights = weights;
      ct_weights["strategy"] = "tensor_group";
      ct_weights["symmetric"] = true;
      return {
          {"quant_method", "compressed-tensors"},
          {"format", "nvfp4-pack-quantized"},
          {"config_groups",
           {{"group_0",
             {{"targets", {"Linear"}}, {"weights", ct_weights}, {"input_activations", nullptr}}}}},
          {"ignore", ignored_}};
    }
    Json config = {{"quant_method", "modelopt"},
                   {"quant_algo", mixed() ? "MIXED_PRECISION" : "NVFP4"}};
    if (mixed()) {
      config["quantized_layers"] = quantized_layers();
    } else {
      config["config_groups"]["group_0"] = {
          {"targets", {"Linear"}}, {"weights", weights}, {"input_activations", weights}};
    }
    config["ignore"] = mixed() ? Json::array() : Json(ignored_);
    return config;
  }

  Json hf_quant_config() const {
    Json quantization = {{"quant_algo", mixed() ? "MIXED_PRECISION" : "NVFP4"},
                         {"kv_cache_quant_algo", nullptr}};
    if (mixed()) {
      quantization["quantized_layers"] = quantized_layers();
    } else {
      quantization["group_size"] = 16;
      quantization["exclude_modules"] = ignored_;
    }
    return {{"producer", {{"name", "modelopt"}, {"version", "moe4-synth"}}},
            {"quantization", quantization}};
  }

  Json config() const {
    Json text = {{"model_type", p_.delta_net ? "qwen3_5_moe_text" : "qwen3_moe"},
                 {"hidden_size", p_.hidden},
                 {"num_hidden_layers", layers_},
                 {"vocab_size", p_.vocab},
                 {"max_position_embeddings", 32768},
                 {"rms_norm_eps", 1e-6},
                 {"hidden_act", "silu"},
                 {"tie_word_embeddings", false},
                 {"attention_bias", false},
                 {"num_attention_heads", p_.heads},
                 {"num_key_value_heads", p_.kv_heads},
                 {"head_dim", p_.head_dim},
                 {"num_experts", experts_},
                 {"num_experts_per_tok", p_.top_k},
                 {"moe_intermediate_size", p_.width},
                 {"dtype", "bfloat16"}};
    Json rope = {{"rope_type", "default"}, {"rope_theta", p_.rope_theta}};
    if (p_.delta_net) {
      Json kinds = Json::array();
      for (int64_t l = 0; l < layers_; ++l)
        kinds.push_back(is_attention(l) ? "full_attention" : "linear_attention");
      text["layer_types"] = kinds;
      text["shared_expert_intermediate_size"] = p_.shared_width;
      text["linear_num_key_heads"] = p_.key_heads;
      text["linear_num_value_heads"] = p_.value_heads;
      text["linear_key_head_dim"] = p_.linear_head_dim;
      text["linear_value_head_dim"] = p_.linear_head_dim;
      text["linear_conv_kernel_dim"] = 4;
      text["partial_rotary_factor"] = 0.25;
      rope["partial_rotary_factor"] = 0.25;
    } else {
      text["norm_topk_prob"] = true;
      text["intermediate_size"] = 3 * p_.hidden;
      text["decoder_sparse_step"] = 1;
      text["mlp_only_layers"] = Json::array();
    }
    text["rope_parameters"] = rope;
    Json config;
    if (prefix_ == "model.language_model.") {
      config = {{"architectures", {"Qwen3_5MoeForConditionalGeneration"}},
                {"model_type", "qwen3_5_moe"}};
      config["text_config"] = text;
    } else {
      config = {
          {"architectures", {p_.delta_net ? "Qwen3_5MoeForCausalLM" : "Qwen3MoeForCausalLM"}}};
      config.update(text);
    }
    config["quantization_config"] = quantization_config();
    return config;
  }

  const Preset& p_;
  SynthFormat format_;
  int64_t layers_, experts_;
  std::string prefix_;
  SynthPlan plan_;
  std::vector<Listed> listed_;
  std::vector<std::string> ignored_;
};

}  // namespace

int64_t SynthTensor::num_bytes() const {
  int64_t n = size_of(dtype);
  for (int64_t d : shape) n *= d;
  return n;
}

std::vector<SynthText> synth_tokenizer_files(int64_t vocab_size) {
  return {
      {"tokenizer.json", synth_tokenizer_json(vocab_size)},
      {"tokenizer_config.json",
       Json{{"tokenizer_class", "PreTrainedTokenizerFast"}, {"eos_token", "<|im_end|>"}}.dump(2)},
      {"generation_config.json",
       Json{{"eos_token_id", kSynthEosToken}, {"pad_token_id", kSynthPadToken}}.dump(2)}};
}

std::vector<std::string> synth_presets() {
  std::vector<std::string> names;
  for (const Preset& preset : kPresets) names.emplace_back(preset.name);
  return names;
}

SynthPlan make_synth_plan(const SynthOptions& options) {
  for (const Preset& preset : kPresets) {
    if (options.preset != preset.name) continue;
    const int64_t experts = options.num_experts > 0 ? options.num_experts : preset.experts;
    // Bounds that no real model comes near; they keep every size far from overflow.
    if (options.num_layers < 0 || options.num_layers > 1000 || options.num_experts < 0 ||
        experts > 4096 || experts < preset.top_k) {
      throw Error(ErrorCode::kUsage,
                  "a synthetic checkpoint has 1 to 1000 layers and from top_k = " +
                      std::to_string(preset.top_k) + " to 4096 experts");
    }
    return PlanBuilder(preset, options).build();
  }
  std::string known;
  for (const std::string& name : synth_presets()) known += (known.empty() ? "" : ", ") + name;
  throw Error(ErrorCode::kUsage,
              "unknown preset '" + printable(options.preset) + "': expected one of " + known);
}

}  // namespace moe4
