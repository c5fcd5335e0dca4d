// DeepSeek-V4: attention to a window of keys that are their own values and, in most layers, to keys
// that several tokens share; residuals of several streams; experts in every layer, chosen by roots
// of softplus and a correction bias, in the first layers by a token's id.
#include <array>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "models/architecture.h"
#include "models/common_settings.h"

namespace moe4 {
namespace {

// Entries of this ratio overlap, and an indexer chooses among them; all others are plain.
constexpr int64_t kChosenRatio = 4;

struct LayerKindSpec {
  int64_t ratio = 0;  // 0: a window alone
  bool is_chosen = false;
};

// `compress_ratios` (released files) has a number a layer, and more for draft layers; transformers
// writes a word a layer, and their ratios beside.
LayerKindSpec read_kind(const ConfigReader& c, int64_t layer) {
  if (c.has("compress_ratios")) {
    const double ratio = c.layer_number(layer, "compress_ratios", 0);
    const auto whole = static_cast<int64_t>(ratio);
    const bool fits = whole >= 0 && static_cast<double>(whole) == ratio &&
                      (whole == 0 || kPageTokens % whole == 0 || whole % kPageTokens == 0);
    if (!fits) {
      c.refuse("compress_ratios", "divisors and multiples of 64, or 0", std::to_string(ratio));
      return {};
    }
    return {.ratio = whole, .is_chosen = whole == kChosenRatio};
  }
  const std::string kind = c.layer_type(
      layer, {"sliding_attention", "compressed_sparse_attention", "heavily_compressed_attention"},
      "sliding_attention");
  if (kind == "sliding_attention") return {};
  const bool is_chosen = kind == "compressed_sparse_attention";
  int64_t ratio = is_chosen ? kChosenRatio : 128;
  if (c.has("compress_rates")) {
    ratio = c.json().object("compress_rates")->integer({kind.c_str()}, 1, 1 << 20, ratio);
  }
  if (kPageTokens % ratio != 0 && ratio % kPageTokens != 0) {
    c.refuse("compress_rates", "divisors and multiples of 64", std::to_string(ratio));
    return {};
  }
  return {.ratio = ratio, .is_chosen = is_chosen};
}

// Layers that compress have a base of their own and the scaling of rope_scaling, without an
// amplitude unless the file names one; the others have neither.
RotarySpec read_rotary_of(const ConfigReader& c, int64_t head_dim, int64_t rotary_dim,
                          bool compresses) {
  const RotaryDefaults defaults{
      .head_dim = head_dim,
      .partial_rotary_factor = static_cast<double>(rotary_dim) / static_cast<double>(head_dim),
      .layer_type = compresses ? "compress" : "main"};
  for (const char* key : {"rope_theta", "compress_rope_theta", "rope_scaling", "rope_parameters",
                          "partial_rotary_factor"}) {
    (void)c.has(key);
  }
  const auto parameters = c.json().object("rope_parameters");
  const bool is_nested = parameters && parameters->has("main");
  Json own = Json::object();
  own["rope_theta"] = compresses ? c.number({"compress_rope_theta"}, 160000, 1, 1e12)
                                 : c.number({"rope_theta"}, 10000, 1, 1e12);
  for (const char* key : {"rope_scaling", "max_position_embeddings"}) {
    const Json* value = c.json().get(key);
    if (value != nullptr && (compresses || std::string_view(key) != "rope_scaling")) {
      own[key] = *value;
    }
  }
  RotarySpec spec = is_nested ? read_rotary_spec(c.json(), defaults)
                              : read_rotary_spec(JsonReader(own, c.json().file()), defaults);
  const auto scaling = is_nested ? parameters->object(std::string(defaults.layer_type).c_str())
                                 : c.json().object("rope_scaling");
  if (!scaling || !scaling->has("attention_factor")) spec.amplitude = 1.0;
  if (spec.dim != rotary_dim) {
    c.refuse("partial_rotary_factor", std::to_string(rotary_dim) + " rotated elements",
             std::to_string(spec.dim));
  }
  return spec;
}

CompressedAttentionSpec read_attention(const ConfigReader& c, const NormSpec& norm) {
  CompressedAttentionSpec spec{.num_heads = c.size({"num_attention_heads"}),
                               .head_dim = c.size({"head_dim"}, 512),
                               .q_latent_dim = c.size({"q_lora_rank"}, 1024),
                               .window = c.size({"sliding_window"}, 128),
                               .num_groups = c.size({"o_groups"}, 8),
                               .o_latent_dim = c.size({"o_lora_rank"}, 1024),
                               .norm = norm};
  const double part = c.number({"partial_rotary_factor"}, 64.0 / 512.0, 0.0, 1.0);
  const auto rotated = static_cast<int64_t>(part * static_cast<double>(spec.head_dim));
  spec.rotary_dim = c.size({"qk_rope_head_dim"}, rotated);
  c.require("num_key_value_heads", 1.0);
  c.require("attention_bias", false);
  c.require_multiple("num_attention_heads", spec.num_heads, spec.num_groups);
  c.require_multiple("o_lora_rank", spec.o_latent_dim, kRowPadding);
  return spec;
}

MoeSpec read_moe(const ConfigReader& c) {
  c.require("scoring_func", {"sqrtsoftplus"});
  c.require("topk_method", {"noaux_tc"});
  c.require("hidden_act", {"silu"});
  c.require("mlp_bias", false);
  const int64_t width = c.size({"moe_intermediate_size"});
  ActivationParams activation;
  const double limit = c.number({"swiglu_limit"}, 10.0, 0.0, 1e30);
  if (limit > 0) activation.limit = static_cast<float>(limit);
  const double scale = c.number({"routed_scaling_factor"}, 1.5, 1e-6, 1e6);
  return {.router = {.scoring = ScoringFunction::kSqrtSoftplus,
                     .num_experts = c.size({"n_routed_experts"}),
                     .top_k = c.size({"num_experts_per_tok"}),
                     .renormalize = c.flag({"norm_topk_prob"}, true),
                     .scaling_factor = static_cast<float>(scale)},
          .intermediate_size = width,
          .activation = activation,
          .shared = {.intermediate_size = width * c.integer({"n_shared_experts"}, 0, 1024, 1),
                     .activation = activation,
                     .module = "shared_experts",
                     .gate_proj = "w1",
                     .up_proj = "w3",
                     .down_proj = "w2"}};
}

void build(const ConfigReader& c, Builder& b) {
  const NormSpec norm = read_norm(c);
  b.embedding("embed", c.size({"vocab_size"}), c.size({"hidden_size"}));
  b.streams({.count = c.size({"hc_mult"}, 4),
             .iterations = c.size({"hc_sinkhorn_iters"}, 20),
             .eps = static_cast<float>(c.number({"hc_eps"}, 1e-6, 0.0, 1.0)),
             .norm_eps = norm.eps,
             .head = "hc_head"});
  const CompressedAttentionSpec common = read_attention(c, norm);
  const EntryIndexSpec index{.num_heads = c.size({"index_n_heads"}, 64),
                             .dim = c.size({"index_head_dim"}, 128),
                             .most = c.size({"index_topk"}, 512)};
  const RotarySpec main = read_rotary_of(c, common.head_dim, common.rotary_dim, false);
  const RotarySpec compress = read_rotary_of(c, common.head_dim, common.rotary_dim, true);
  const MoeSpec chosen = read_moe(c);
  const int64_t num_hashed = c.integer({"num_hash_layers"}, 0, 1 << 20, 3);

  for (int64_t i = 0; i < c.size({"num_hidden_layers"}); ++i) {
    const std::string at = "layers." + std::to_string(i) + ".";
    const LayerKindSpec kind = read_kind(c, i);
    CompressedAttentionSpec attention = common;
    attention.ratio = kind.ratio;
    attention.overlaps = kind.is_chosen;
    if (kind.is_chosen) attention.index = index;
    attention.rotary = b.rotary(kind.ratio > 0 ? compress : main);
    if (kind.ratio > 0) {
      RotarySpec of_entries = compress;
      of_entries.step = kind.ratio;
      attention.entry_rotary = b.rotary(of_entries);
    }
    MoeSpec moe = chosen;
    moe.router.by_token = c.layer_type(i, {"hash_moe", "moe"}, i < num_hashed ? "hash_moe" : "moe",
                                       "mlp_layer_types") == "hash_moe";
    if (moe.router.by_token) {
      moe.experts_of_token = "gate.tid2eid";
    } else {
      moe.correction_bias = "gate.bias";
    }
    b.layer({.mixer_norm = at + "attn_norm",
             .mixer = b.compressed_attention(at + "attn", attention),
             .feed_forward_norm = at + "ffn_norm",
             .feed_forward = b.moe(at + "ffn", moe),
             .norm = norm,
             .mixer_streams = at + "hc_attn",
             .feed_forward_streams = at + "hc_ffn"});
  }
  b.head("norm", norm, "head", c.tie_word_embeddings());
}

constexpr std::string_view kModelTypes[] = {"deepseek_v4"};

}  // namespace

extern const Architecture kDeepseekV4{kModelTypes, build};

}  // namespace moe4
