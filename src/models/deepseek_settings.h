// Settings that DeepSeek-V3 and the families after its pattern spell alike: latent attention, and
// routed experts beside a shared one.
#pragma once

#include <functional>

#include "models/builder.h"
#include "models/config_reader.h"

namespace moe4 {

/// What a family takes where its configuration says nothing.
struct DeepseekDefaults {
  int64_t nope_dim = 128;   ///< qk_nope_head_dim
  int64_t value_dim = 128;  ///< v_head_dim
  /// partial_rotary_factor is of a whole query, not of its rotary part.
  bool partial_of_query = false;
  ScoringFunction scoring = ScoringFunction::kSigmoid;
  double scaling_factor = 2.5;  ///< routed_scaling_factor
  int64_t num_groups = 8;       ///< n_group
  int64_t topk_groups = 4;      ///< topk_group
};

/// Latent attention with the rotary embedding of all layers, which it asks the builder for. Norms
/// of the latents are `norm`, as vLLM and SGLang read files; transformers has an eps of 1e-6 there.
/// A temperature of the scores is `llama_4_scaling_beta` in the rotary embedding's object, over its
/// original context (transformers), or `llama_4_scaling` of its own (Mistral's params.json).
LatentAttentionSpec read_latent_attention(const ConfigReader& c, const NormSpec& norm, Builder& b,
                                          const DeepseekDefaults& defaults);

/// How experts are chosen, with the keys of DeepSeek-V3: by sigmoid scores and a correction bias
/// within groups (`topk_method` noaux_tc), or by a softmax (greedy).
RouterConfig read_deepseek_router(const ConfigReader& c, const DeepseekDefaults& defaults);

/// Experts chosen by scores (of sigmoids plus a correction bias, or of a softmax) within groups,
/// and shared ones that are added as they are.
MoeSpec read_deepseek_moe(const ConfigReader& c, const ActivationParams& activation,
                          const DeepseekDefaults& defaults);

/// The parts of which all layers are made.
struct LatentLayers {
  NormSpec norm;
  LatentAttentionSpec attention;
  BiasRule attention_bias;
  MoeSpec moe;
  DenseMlpSpec dense;
  int64_t num_dense = 0;  ///< so many first layers have no experts, see is_routed_layer()
};

/// All `num_hidden_layers` of them and the head. `index_of(i)`: which keys layer i attends to;
/// without, all.
void build_latent_layers(const ConfigReader& c, Builder& b, const LatentLayers& parts,
                         const std::function<KeyIndexSpec(int64_t layer)>& index_of = {});

/// Whether layer i has routed experts: `mlp_layer_types`, or all from `first_k_dense_replace` on.
bool is_routed_layer(const ConfigReader& c, int64_t layer, int64_t num_dense);

}  // namespace moe4
