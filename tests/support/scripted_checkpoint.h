// Writes a very small checkpoint that says what a test tells it to: greedy decoding follows a table
// from each token to the next, whatever came before.
#pragma once

#include <cmath>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "checkpoint/safetensors_writer.h"
#include "numerics/bf16.h"
#include "support/byte_tokenizer.h"

namespace moe4::testing {

struct ScriptedTensor {
  std::vector<int64_t> shape;
  std::vector<float> values;
};
using ScriptedTensors = std::map<std::string, ScriptedTensor>;

/// One token a byte, then <|endoftext|> 256, <|im_start|> 257, <|im_end|> 258; vocabulary 260.
struct ScriptedCheckpoint {
  /// After a chat prompt's last newline it says "ok", then <|im_end|>, then "u!u!u!..." for ever.
  std::map<int, int> next = {{'\n', 'o'},   {'o', 'k'}, {'k', kImEnd},
                             {kImEnd, 'u'}, {'u', '!'}, {'!', 'u'}};
  nlohmann::json config = nlohmann::json::object();  ///< over the keys of config.json
  std::optional<std::string> generation_config;      ///< the file's text
  nlohmann::json tokenizer_config = {{"eos_token", "<|im_end|>"}};  ///< the template is added
  std::function<void(ScriptedTensors&)> edit;                       ///< of the weights
};

inline constexpr char kScriptedTemplate[] =
    "{%- for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}"
    "{%- endfor %}{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{%- endif %}";

inline void write_checkpoint(const std::filesystem::path& folder,
                             const ScriptedCheckpoint& scripted) {
  constexpr int64_t kHidden = 64, kVocab = 260, kHeads = 4, kKv = 2, kDim = 16, kExperts = 4,
                    kWidth = 32;
  std::filesystem::create_directories(folder);
  nlohmann::json config = {{"architectures", {"Qwen3MoeForCausalLM"}},
                           {"model_type", "qwen3_moe"},
                           {"hidden_size", kHidden},
                           {"num_hidden_layers", 2},
                           {"num_attention_heads", kHeads},
                           {"num_key_value_heads", kKv},
                           {"head_dim", kDim},
                           {"intermediate_size", 4 * kWidth},
                           {"moe_intermediate_size", kWidth},
                           {"num_experts", kExperts},
                           {"num_experts_per_tok", 2},
                           {"norm_topk_prob", true},
                           {"decoder_sparse_step", 1},
                           {"mlp_only_layers", nlohmann::json::array()},
                           {"hidden_act", "silu"},
                           {"max_position_embeddings", 512},
                           {"rms_norm_eps", 1e-6},
                           {"rope_theta", 10000.0},
                           {"vocab_size", kVocab},
                           {"tie_word_embeddings", false},
                           {"attention_bias", false},
                           {"torch_dtype", "bfloat16"}};
  config.update(scripted.config);
  nlohmann::json tokenizer_config = scripted.tokenizer_config;
  tokenizer_config["chat_template"] = kScriptedTemplate;
  std::ofstream(folder / "config.json") << config.dump(1);
  std::ofstream(folder / "tokenizer.json") << byte_tokenizer_json();
  std::ofstream(folder / "tokenizer_config.json") << tokenizer_config.dump(1);
  if (scripted.generation_config)
    std::ofstream(folder / "generation_config.json") << *scripted.generation_config;

  uint64_t state = 1;
  const auto noise = [&] {  // about normal: the sum of four uniforms
    double sum = 0;
    for (int i = 0; i < 4; ++i) {
      state = state * 6364136223846793005ull + 1442695040888963407ull;
      sum += static_cast<double>(state >> 40) / 16777216.0 - 0.5;
    }
    return static_cast<float>(sum * std::sqrt(3.0));
  };
  ScriptedTensors tensors;
  const auto add = [&](const std::string& name, std::vector<int64_t> shape, float scale,
                       float offset = 0) {
    int64_t n = 1;
    for (const int64_t size : shape) n *= size;
    ScriptedTensor tensor{std::move(shape), std::vector<float>(static_cast<size_t>(n))};
    for (float& value : tensor.values) value = scale == 0 ? offset : offset + scale * noise();
    tensors[name] = std::move(tensor);
  };
  add("model.embed_tokens.weight", {kVocab, kHidden}, 1);
  add("lm_head.weight", {kVocab, kHidden}, 0);
  const std::vector<float>& embed = tensors["model.embed_tokens.weight"].values;
  for (const auto& [from, to] : scripted.next) {
    for (int64_t i = 0; i < kHidden; ++i)
      tensors["lm_head.weight"].values[to * kHidden + i] += embed[from * kHidden + i];
  }
  add("model.norm.weight", {kHidden}, 0, 1);
  for (int layer = 0; layer < 2; ++layer) {
    const std::string p = "model.layers." + std::to_string(layer) + ".";
    add(p + "input_layernorm.weight", {kHidden}, 0, 1);
    add(p + "post_attention_layernorm.weight", {kHidden}, 0, 1);
    add(p + "self_attn.q_proj.weight", {kHeads * kDim, kHidden}, 0.1f);
    add(p + "self_attn.k_proj.weight", {kKv * kDim, kHidden}, 0.1f);
    add(p + "self_attn.v_proj.weight", {kKv * kDim, kHidden}, 0.1f);
    add(p + "self_attn.o_proj.weight", {kHidden, kHeads * kDim}, 0);
    add(p + "self_attn.q_norm.weight", {kDim}, 0, 1);
    add(p + "self_attn.k_norm.weight", {kDim}, 0, 1);
    add(p + "mlp.gate.weight", {kExperts, kHidden}, 0.2f);
    for (int e = 0; e < kExperts; ++e) {
      const std::string m = p + "mlp.experts." + std::to_string(e) + ".";
      add(m + "gate_proj.weight", {kWidth, kHidden}, 0.1f);
      add(m + "up_proj.weight", {kWidth, kHidden}, 0.1f);
      add(m + "down_proj.weight", {kHidden, kWidth}, 0);
    }
  }
  if (scripted.edit) scripted.edit(tensors);

  std::vector<std::vector<uint16_t>> data;
  std::vector<NamedTensor> named;
  data.reserve(tensors.size());
  for (const auto& [name, tensor] : tensors) {
    std::vector<uint16_t>& bits = data.emplace_back();
    for (const float value : tensor.values) bits.push_back(to_bf16(value).bits);
    named.push_back({name, {bits.data(), DType::kBF16, tensor.shape}});
  }
  write_safetensors(folder / "model.safetensors", named);
}

}  // namespace moe4::testing
