// The architecture part of a Hugging Face config.json, in one plain struct.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "checkpoint/stacked_experts.h"
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
/// Holds what plans, reports and the engine read. Widths, biases and norms of a block are its
/// model's to read (models/config_reader.h); wrong values there are refused here too.
struct ModelConfig {
  std::string model_type;    ///< of the text model: "qwen3_moe", "qwen3_5_moe_text", ...
  std::string architecture;  ///< architectures[0]
  int64_t hidden_size = 0;
  int64_t num_layers = 0;
  int64_t vocab_size = 0;
  int64_t max_position_embeddings = 0;

  // What mixes tokens.
  std::string rope_type = "default";  ///< of full attention: "yarn", "llama3", ...
  bool rope_per_layer = false;  ///< layers differ in theta or in their kind of rotary embedding
  bool is_latent_attention = false;    ///< multi-head latent attention
  std::vector<LayerKind> layer_kinds;  ///< num_layers entries

  // Feed-forward.
  int64_t dense_intermediate_size = 0;          ///< of layers that are not MoE
  std::vector<bool> is_moe_layer;               ///< num_layers entries
  std::vector<bool> has_feed_forward;           ///< num_layers entries; false: a mixer alone
  int64_t shared_expert_intermediate_size = 0;  ///< 0: no shared expert
  /// num_local_experts == num_experts here. hidden_size is the latent width where experts work on
  /// one (moe_latent_size). What differs by layer is in moe_problem().
  MoeProblem moe;
  std::vector<float> expert_limits;  ///< activation limits, num_layers entries; empty: all moe's
  RouterConfig router;               ///< correction_bias comes from a tensor, per layer
  /// The scoring function in the file's words; `router` has it where it is softmax, sigmoid or that
  /// of gpt-oss.
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
  StackedExperts stacked_experts = StackedExperts::kRows;
  bool experts_have_biases = false;  ///< all three projections (gpt-oss)

  /// The routed experts of one layer.
  MoeProblem moe_problem(int64_t layer) const;
};

}  // namespace moe4
