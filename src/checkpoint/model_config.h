// The architecture part of a Hugging Face config.json, in one plain struct.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "moe/problem.h"
#include "moe/routing.h"

namespace moe4 {

enum class LayerKind { kFullAttention, kLinearAttention };

/// Read from the text model: `text_config` when the file nests one, else the top level. Both
/// spellings of transformers 4 and 5 (num_experts / num_local_experts, rope_theta /
/// rope_parameters, torch_dtype / dtype). Every size was checked to be positive and below 2^31.
struct ModelConfig {
  std::string model_type;    ///< of the text model: "qwen3_moe", "qwen3_5_moe_text", ...
  std::string architecture;  ///< architectures[0]
  int64_t hidden_size = 0;
  int64_t num_layers = 0;
  int64_t vocab_size = 0;
  int64_t max_position_embeddings = 0;
  float rms_norm_eps = 1e-6f;
  bool tie_word_embeddings = false;

  // Attention.
  int64_t num_attention_heads = 0;
  int64_t num_key_value_heads = 0;
  int64_t head_dim = 0;
  double rope_theta = 10000.0;
  double partial_rotary_factor = 1.0;
  std::string rope_type = "default";  ///< "yarn", "llama3", ...: scaled rotary embeddings
  bool attention_bias = false;
  bool attn_output_gate = false;  ///< q_proj yields [q | gate] per head (qwen3_5_moe, qwen3_next)
  std::vector<LayerKind> layer_kinds;  ///< num_layers entries

  // Gated delta net.
  int64_t linear_num_key_heads = 0;
  int64_t linear_num_value_heads = 0;
  int64_t linear_key_head_dim = 0;
  int64_t linear_value_head_dim = 0;
  int64_t linear_conv_kernel_dim = 0;

  // Feed-forward.
  int64_t dense_intermediate_size = 0;          ///< of layers that are not MoE
  std::vector<bool> is_moe_layer;               ///< num_layers entries
  int64_t shared_expert_intermediate_size = 0;  ///< 0: no shared expert
  bool shared_expert_has_gate = false;          ///< sigmoid(shared_expert_gate(x)) multiplies it
  MoeProblem moe;                               ///< num_local_experts == num_experts here
  RouterConfig router;                          ///< correction_bias comes from a tensor, per layer
  /// The scoring function in the file's words; where RouterConfig has no such function
  /// ("sqrtsoftplus"), the model can be planned but not run.
  std::string router_scoring = "softmax";

  bool one_plus_weight_norm =
      false;  ///< RMSNorm multiplies by (1 + w): qwen3_5_moe, qwen3_next, gemma
};

/// generation_config.json; a missing file or key leaves the default.
struct GenerationConfig {
  std::vector<int32_t> eos_token_ids;
  bool do_sample = false;
  float temperature = 1.0f;
  int64_t top_k = 0;  ///< 0: off
  float top_p = 1.0f;
  float min_p = 0.0f;
  float repetition_penalty = 1.0f;
};

}  // namespace moe4
