// DeepSeek-V3.2 and GLM-5: DeepSeek-V3 whose tokens attend to the keys that an indexer chooses; in
// some layers of GLM-5 the choice of a layer before holds.
#include <nlohmann/json.hpp>

#include "models/architecture.h"
#include "models/common_settings.h"
#include "models/deepseek_settings.h"

namespace moe4 {
namespace {

enum class Family { kDeepseek, kGlm };

DeepseekDefaults defaults_of(Family family) {
  if (family == Family::kDeepseek) return {};
  DeepseekDefaults glm;
  glm.nope_dim = 192;
  glm.value_dim = 256;
  glm.num_groups = glm.topk_groups = 1;
  return glm;
}

KeyIndexSpec read_index(const ConfigReader& c, Family family) {
  const bool is_glm = family == Family::kGlm;
  return {.num_heads = c.size({"index_n_heads"}, is_glm ? 32 : 64),
          .dim = c.size({"index_head_dim"}, 128),
          .most = c.size({"index_topk"}, 2048),
          .rotates_pairs = c.flag({"indexer_rope_interleave"}, is_glm)};
}

// By a list of full and shared, by letters F and S, or by a frequency.
bool is_shared(const ConfigReader& c, int64_t layer) {
  const int64_t frequency = c.size({"index_topk_freq"}, 1);
  const int64_t offset = c.integer({"index_skip_topk_offset"}, 0, 1 << 20, 2);
  std::string_view otherwise =
      std::max<int64_t>(layer - offset + 1, 0) % frequency == 0 ? "full" : "shared";
  const Json* pattern = c.has("index_topk_pattern") ? c.json().get("index_topk_pattern") : nullptr;
  if (pattern != nullptr && pattern->is_string()) {
    const auto& letters = pattern->get_ref<const std::string&>();
    const char letter = layer < static_cast<int64_t>(letters.size()) ? letters[layer] : ' ';
    if (letter != 'F' && letter != 'S') {
      c.refuse("index_topk_pattern", "F or S a layer", printable(letters, 100));
    }
    otherwise = letter == 'S' ? "shared" : "full";
  } else if (pattern != nullptr) {
    return c.layer_type(layer, {"full", "shared"}, "full", "index_topk_pattern") == "shared";
  }
  return c.layer_type(layer, {"full", "shared"}, otherwise, "indexer_types") == "shared";
}

template <Family kFamily>
void build(const ConfigReader& c, Builder& b) {
  const NormSpec norm = read_norm(c, kFamily == Family::kGlm ? 1e-5 : 1e-6);
  b.embedding("embed_tokens", c.size({"vocab_size"}), c.size({"hidden_size"}));
  const DeepseekDefaults defaults = defaults_of(kFamily);
  const LatentAttentionSpec attention = read_latent_attention(c, norm, b, defaults);
  if (attention.q_latent_dim == 0) {
    c.refuse("q_lora_rank", "a latent of queries, which the indexer reads", "none");
  }
  const BiasRule attention_bias = c.bias({"attention_bias"});
  const ActivationParams activation = read_activation(c);
  const MoeSpec moe = read_deepseek_moe(c, activation, defaults);
  const DenseMlpSpec dense{.intermediate_size = c.size({"intermediate_size"}),
                           .activation = activation,
                           .bias = c.bias({"mlp_bias"})};
  const int64_t num_dense = c.integer({"first_k_dense_replace"}, 0, 1 << 20, 3);

  build_latent_layers(c, b, {norm, attention, attention_bias, moe, dense, num_dense},
                      [&](int64_t layer) {
                        c.layer_type(layer, {"indexed_attention", "deepseek_sparse_attention"},
                                     "indexed_attention");
                        KeyIndexSpec index = read_index(c, kFamily);
                        if constexpr (kFamily == Family::kGlm)
                          index.is_shared = is_shared(c, layer);
                        if (layer == 0 && index.is_shared) {
                          c.refuse("indexer_types", "an indexer in the first layer", "shared");
                        }
                        return index;
                      });
}

constexpr std::string_view kDeepseekTypes[] = {"deepseek_v32"};
constexpr std::string_view kGlmTypes[] = {"glm_moe_dsa"};

}  // namespace

extern const Architecture kDeepseekV32{kDeepseekTypes, build<Family::kDeepseek>};
extern const Architecture kGlmMoeDsa{kGlmTypes, build<Family::kGlm>};

}  // namespace moe4
