// The architecture part of a Hugging Face config.json, in one plain struct.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "moe/problem.h"
#include "moe/routing.h"

namespace moe4 {

/// What mixes tokens in a layer.
enum class LayerKind {
  kFullAttention,
  kSlidingAttention,     ///< a window of the last keys
  kChunkedAttention,     ///< keys of the token's own chunk (Llama-4)
  kSparseAttention,      ///< keys that an indexer chooses (DeepSeek-V3.2, GLM-5, MiniMax-M3)
  kCompressedAttention,  ///< a window, and keys pooled from those before it (DeepSeek-V4)
  kLinearAttention,      ///< gated delta net
  kMamba,                ///< Mamba-2
  kConvolution,          ///< short convolution
  kNone,                 ///< the layer is a feed-forward part alone (Nemotron-H)
  kUnknown,              ///< a word that moe4 does not know
};

/// "full attention", "gated delta net", ...
std::string_view to_string(LayerKind kind);

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
  /// Layers differ in theta or in their kind of rotary embedding; the fields above are those of
  /// full attention.
  bool rope_per_layer = false;
  /// Multi-head latent attention; head_dim is then qk_nope_head_dim + qk_rope_head_dim, whatever
  /// the file's own head_dim says.
  bool is_latent_attention = false;
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
  std::vector<bool> has_feed_forward;           ///< num_layers entries; false: a mixer alone
  int64_t shared_expert_intermediate_size = 0;  ///< 0: no shared expert
  bool shared_expert_has_gate = false;          ///< sigmoid(shared_expert_gate(x)) multiplies it
  /// num_local_experts == num_experts here. hidden_size is the latent width where experts work on
  /// one (moe_latent_size). What differs by layer is in moe_problem().
  MoeProblem moe;
  std::vector<float> expert_limits;  ///< activation limits, num_layers entries; empty: all moe's
  RouterConfig router;               ///< correction_bias comes from a tensor, per layer
  /// The scoring function in the file's words; where RouterConfig has no such function
  /// ("sqrtsoftplus"), the model can be planned but not run.
  std::string router_scoring = "softmax";
  bool router_has_correction_bias = false;  ///< added for the selection only
  bool router_has_logit_bias = false;       ///< the router's linear has a bias (gpt-oss)
  bool router_has_expert_scale = false;     ///< weights times per_expert_scale[id] (Gemma-4)
  float router_logit_cap = 0.0f;            ///< cap * tanh(logit / cap); 0: none
  std::vector<bool> is_hash_layer;          ///< experts by token id (DeepSeek-V4); empty: none are
  /// "fp4": experts are MXFP4 although quantization_config says fp8 (DeepSeek-V4); "": not said.
  std::string expert_dtype;
  /// Where the family keeps the experts of a layer ("mlp.experts") and what it calls up_proj
  /// ("up_proj", "w3"); for lookups in metadata when there are no tensors.
  std::string experts_module = "mlp.experts";
  std::string up_projection = "up_proj";

  bool one_plus_weight_norm =
      false;  ///< RMSNorm multiplies by (1 + w): qwen3_5_moe, qwen3_next, Gemma 2 and 3, Step

  /// The routed experts of one layer.
  MoeProblem moe_problem(int64_t layer) const;
};

}  // namespace moe4
