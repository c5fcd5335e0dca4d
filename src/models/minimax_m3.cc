// MiniMax-M3: grouped-query attention with norms per head, a part of each head turned; behind the
// first layers tokens attend to the blocks of keys that an indexer chooses. Some dense layers, then
// experts chosen by sigmoid scores and a correction bias beside a shared one, all with the clamped
// activation of gpt-oss. Norms multiply by 1 + w.
#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "models/architecture.h"
#include "models/common_settings.h"
#include "models/deepseek_settings.h"

namespace moe4 {
namespace {

constexpr const char* kSparse = "sparse_attention_config";

// Keys of the object of released files; transformers writes some of them beside it, as index_*.
constexpr std::array<std::string_view, 10> kSparseKeys = {
    "use_sparse_attention", "sparse_index_dim",   "sparse_num_index_heads",
    "sparse_topk_blocks",   "sparse_block_size",  "sparse_score_type",
    "sparse_init_block",    "sparse_local_block", "sparse_disable_index_value",
    "sparse_attention_freq"};

std::optional<JsonReader> sparse_config(const ConfigReader& c) {
  return c.has(kSparse) ? c.json().object(kSparse) : std::nullopt;
}

std::string path_of(const char* key) { return std::string(kSparse) + "." + key; }

// Entry i of a list in that object; nullopt: there is none.
std::optional<bool> mark_at(const ConfigReader& c, const char* key, int64_t layer) {
  const std::optional<JsonReader> sparse = sparse_config(c);
  const Json* list = sparse ? sparse->array(key) : nullptr;
  if (list == nullptr) return std::nullopt;
  if (layer >= static_cast<int64_t>(list->size()) || !(*list)[layer].is_number_integer()) {
    sparse->fail(key, "configuration value is not usable", "0 or 1 a layer",
                 describe(*sparse->get(key)));
  }
  return (*list)[layer] != 0;
}

int64_t read_index_size(const ConfigReader& c, const char* flat, const char* key, int64_t minimum,
                        int64_t otherwise) {
  const int64_t beside = c.integer({flat}, minimum, 1 << 24, otherwise);
  const std::optional<JsonReader> sparse = sparse_config(c);
  if (!sparse || !sparse->has(key)) return beside;
  const int64_t value = sparse->integer({key}, minimum, 1 << 24);
  if (c.has(flat) && beside != value) {
    c.refuse(flat, std::to_string(value) + " as in " + path_of(key), std::to_string(beside));
  }
  return value;
}

// What the object may say that is not computed.
void check_sparse(const ConfigReader& c) {
  const std::optional<JsonReader> sparse = sparse_config(c);
  if (!sparse) return;
  for (const auto& [key, value] : sparse->json().items()) {
    if (std::find(kSparseKeys.begin(), kSparseKeys.end(), key) == kSparseKeys.end()) {
      c.refuse(path_of(key.c_str()), "no such key", describe(value));
    }
  }
  if (!sparse->boolean({"use_sparse_attention"}, true)) {
    c.refuse(path_of("use_sparse_attention"), "true", "false");
  }
  const std::string score = sparse->string({"sparse_score_type"}, "max");
  if (score != "max") c.refuse(path_of("sparse_score_type"), "max", printable(score, 40));
  const int64_t first = sparse->integer({"sparse_init_block"}, 0, 1 << 24, 0);
  if (first != 0) c.refuse(path_of("sparse_init_block"), "0", std::to_string(first));
}

bool is_sparse_layer(const ConfigReader& c, int64_t layer) {
  const bool marked = mark_at(c, "sparse_attention_freq", layer)
                          .value_or(c.layer_flag(layer, "sparse_attention_freq", false));
  const bool is_sparse =
      c.layer_type(layer, {"full_attention", "minimax_m3_sparse"},
                   marked ? "minimax_m3_sparse" : "full_attention") == "minimax_m3_sparse";
  if (is_sparse && !mark_at(c, "sparse_disable_index_value", layer).value_or(true)) {
    c.refuse(path_of("sparse_disable_index_value"), "1 in every sparse layer",
             "0 in layer " + std::to_string(layer));
  }
  return is_sparse;
}

AttentionSpec read_attention(const ConfigReader& c, int64_t hidden, const NormSpec& norm,
                             Builder& b) {
  AttentionSpec spec = read_heads(c, hidden, 128);
  const int64_t width =
      c.integer({"rotary_dim"}, 2, spec.head_dim, std::min<int64_t>(spec.head_dim, 64));
  const double part = static_cast<double>(width) / static_cast<double>(spec.head_dim);
  const RotarySpec rotary =
      read_rotary(c, {.head_dim = spec.head_dim, .theta = 5e6, .partial_rotary_factor = part});
  spec.rotary = b.rotary(rotary);
  spec.rotary_dim = rotary.dim;
  spec.norm = norm;
  c.require("use_qk_norm", true);
  c.require("qk_norm_type", {"per_head"});
  c.require("attention_output_gate", false);
  return spec;
}

BlockIndexSpec read_index(const ConfigReader& c, const AttentionSpec& attention) {
  check_sparse(c);
  const BlockIndexSpec spec{
      .dim = read_index_size(c, "index_head_dim", "sparse_index_dim", 1, 128),
      .block_size = read_index_size(c, "index_block_size", "sparse_block_size", 1, 128),
      .most = read_index_size(c, "index_topk_blocks", "sparse_topk_blocks", 1, 16),
      .local = read_index_size(c, "index_local_blocks", "sparse_local_block", 0, 1)};
  const int64_t heads = read_index_size(c, "index_n_heads", "sparse_num_index_heads", 1, 4);
  if (heads != attention.num_kv_heads) {
    c.refuse("index_n_heads",
             std::to_string(attention.num_kv_heads) + ", as many as num_key_value_heads",
             std::to_string(heads));
  }
  if (spec.local > spec.most) {
    c.refuse("index_local_blocks", "at most index_topk_blocks, " + std::to_string(spec.most),
             std::to_string(spec.local));
  }
  if (spec.dim < attention.rotary_dim) {
    c.refuse("index_head_dim",
             "at least the rotated width, " + std::to_string(attention.rotary_dim),
             std::to_string(spec.dim));
  }
  return spec;
}

MoeSpec read_moe(const ConfigReader& c, const ActivationParams& activation) {
  c.require("scoring_func", {"sigmoid"});
  c.require("use_routing_bias", true);
  c.require("n_shared_experts", 1.0);
  const double scale = c.number({"routed_scaling_factor"}, 2.0, 1e-6, 1e6);
  return {.router = {.scoring = ScoringFunction::kSigmoid,
                     .num_experts = c.size({"num_local_experts", "num_experts"}),
                     .top_k = c.size({"num_experts_per_tok"}),
                     .scaling_factor = static_cast<float>(scale)},
          .intermediate_size = c.size({"intermediate_size"}),
          .activation = activation,
          .shared = {.intermediate_size = c.size({"shared_intermediate_size"}, 3072),
                     .activation = activation,
                     .module = "shared_experts"},
          .correction_bias = "e_score_correction_bias"};
}

void build(const ConfigReader& c, Builder& b) {
  const int64_t hidden = c.size({"hidden_size"});
  NormSpec norm = read_norm(c);
  norm.one_plus = true;
  c.require("use_gemma_norm", true);
  b.embedding("embed_tokens", c.size({"vocab_size"}), hidden);
  const AttentionSpec full = read_attention(c, hidden, norm, b);
  AttentionSpec sparse = full;
  sparse.block_index = read_index(c, full);
  // transformers does not look at it, and some exports say silu.
  c.require("hidden_act", {"silu", "swigluoai"});
  const ActivationParams activation{
      .kind = ActivationKind::kSwigluOai,
      .alpha = static_cast<float>(c.number({"swiglu_alpha"}, 1.702, 1e-6, 1e6)),
      .limit = static_cast<float>(c.number({"swiglu_limit"}, 7.0, 1e-6, 1e30))};
  const MoeSpec moe = read_moe(c, activation);
  const DenseMlpSpec dense{.intermediate_size = c.size({"dense_intermediate_size"}, 12288),
                           .activation = activation};

  for (int64_t i = 0; i < c.size({"num_hidden_layers"}); ++i) {
    const std::string at = "layers." + std::to_string(i) + ".";
    const int64_t num_dense = c.layer_flag(i, "moe_layer_freq", true) ? 0 : i + 1;
    b.layer({.mixer_norm = at + "input_layernorm",
             .mixer = b.attention(at + "self_attn", is_sparse_layer(c, i) ? sparse : full),
             .feed_forward_norm = at + "post_attention_layernorm",
             .feed_forward = is_routed_layer(c, i, num_dense) ? b.moe(at + "block_sparse_moe", moe)
                                                              : b.dense_mlp(at + "mlp", dense),
             .norm = norm});
  }
  b.head("norm", norm, "lm_head", c.tie_word_embeddings());
}

constexpr std::string_view kModelTypes[] = {"minimax_m3_vl", "minimax_m3_vl_text", "minimax_m3"};

}  // namespace

extern const Architecture kMinimaxM3{kModelTypes, build};

}  // namespace moe4
