// What each architecture has of its own.
#include "checkpoint/gguf_config.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "checkpoint/gguf_config_families.h"
#include "checkpoint/gguf_config_writer.h"
#include "checkpoint/gguf_names.h"
#include "checkpoint/gguf_rope_factors.h"

namespace moe4 {
namespace {

using Writer = GgufConfigWriter;

// Grouped-query attention with one width of head.
void read_attention(Writer& w) {
  Json& config = w.config();
  config["num_attention_heads"] = w.same_for_all("attention.head_count");
  config["num_key_value_heads"] = w.same_for_all("attention.head_count_kv");
  const auto key = w.integer("attention.key_length"), value = w.integer("attention.value_length");
  if (key && value && *key != *value) {
    w.refuse("attention.value_length", std::to_string(*key), std::to_string(*value));
  }
  if (key) config["head_dim"] = *key;
}

// Layers without experts have none among their tensors.
std::vector<uint64_t> dense_layers(const Writer& w) {
  std::vector<uint64_t> layers;
  for (int64_t i = 0; i < w.num_layers(); ++i) {
    if (!w.has_tensor(fmt::format("blk.{}.ffn_down_exps.weight", i)))
      layers.push_back(static_cast<uint64_t>(i));
  }
  return layers;
}

void write_qwen3_moe(Writer& w) {
  Json& config = w.config();
  read_attention(w);
  w.read_scaling();
  config["num_experts"] = w.required("expert_count");
  config["moe_intermediate_size"] = w.required("expert_feed_forward_length");
  w.copy("intermediate_size", w.integer("feed_forward_length"));
  config["mlp_only_layers"] = dense_layers(w);
  // llama.cpp always divides by the sum, and all published models do.
  config["norm_topk_prob"] = w.flag("expert_weights_norm").value_or(true);
  w.disregard({"rope.dimension_count"});  // the whole head
}

void write_gpt_oss(Writer& w) {
  Json& config = w.config();
  read_attention(w);
  w.read_scaling();
  // Neither is in the file, and all published models have them so.
  if (config.contains("rope_scaling")) config["rope_scaling"]["truncate"] = false;
  config["swiglu_limit"] = 7.0;
  config["num_local_experts"] = w.required("expert_count");
  config["intermediate_size"] = w.required("expert_feed_forward_length");
  config["sliding_window"] = w.required("attention.sliding_window");
  w.disregard({"feed_forward_length", "rope.dimension_count"});
}

constexpr double kDefaultTheta = 10000.0;  // what all families take that say nothing
constexpr double kMistral4Beta = 0.1;      // the only published model's, which the file lacks

// gguf-py's ExpertGatingFuncType.
constexpr int64_t kSoftmax = 1, kSigmoid = 2;

// A router with sigmoid scores and a correction bias; `otherwise` is what llama.cpp takes where the
// file says nothing.
void require_sigmoid_router(Writer& w, int64_t otherwise = kSigmoid) {
  const int64_t gating = w.integer("expert_gating_func").value_or(otherwise);
  if (gating != kSigmoid) {
    w.refuse("expert_gating_func", "2 (sigmoid)", std::to_string(gating));
  }
}

void write_deepseek_router(Writer& w) {
  Json& config = w.config();
  config["n_routed_experts"] = w.required("expert_count");
  config["moe_intermediate_size"] = w.required("expert_feed_forward_length");
  config["n_shared_experts"] = w.integer("expert_shared_count").value_or(0);
  config["first_k_dense_replace"] = w.integer("leading_dense_block_count").value_or(0);
  config["routed_scaling_factor"] = w.number("expert_weights_scale").value_or(1.0);
  config["norm_topk_prob"] = w.flag("expert_weights_norm").value_or(false);
  config["n_group"] = w.integer("expert_group_count").value_or(1);
  config["topk_group"] = w.integer("expert_group_used_count").value_or(1);
  w.copy("intermediate_size", w.integer("feed_forward_length"));
}

// The part of a head that is rotated.
void write_partial_rotary(Writer& w) {
  const auto rotated = w.integer("rope.dimension_count");
  const auto head = w.integer("attention.key_length");
  if (!rotated || !head || *head < 1) return;
  w.config()["partial_rotary_factor"] = static_cast<double>(*rotated) / static_cast<double>(*head);
}

void write_glm4_moe(Writer& w) {
  require_sigmoid_router(w);
  read_attention(w);
  w.read_scaling();
  write_deepseek_router(w);
  write_partial_rotary(w);
  w.config()["use_qk_norm"] = w.has_tensor("blk.0.attn_q_norm.weight");
}

void write_minimax_m2(Writer& w) {
  Json& config = w.config();
  read_attention(w);
  w.read_scaling();
  require_sigmoid_router(w);
  config["num_local_experts"] = w.required("expert_count");
  config["intermediate_size"] = w.required("expert_feed_forward_length");
  w.copy("rotary_dim", w.integer("rope.dimension_count"));
  w.disregard({"feed_forward_length"});
}

void write_mixtral(Writer& w) {
  Json& config = w.config();
  read_attention(w);
  w.read_scaling();
  config["num_local_experts"] = w.required("expert_count");
  config["intermediate_size"] = w.required("feed_forward_length");
  config["sliding_window"] = nullptr;  // llama.cpp has none here
  w.disregard({"rope.dimension_count", "expert_feed_forward_length"});
}

// Latent attention and its YaRN, which DeepSeek's converter writes for all families that have it.
void read_latent_attention(Writer& w) {
  Json& config = w.config();
  const int64_t heads = w.required("attention.head_count");
  const int64_t rotated = w.required("rope.dimension_count");
  config["num_attention_heads"] = config["num_key_value_heads"] = heads;
  const auto q_rank = w.integer("attention.q_lora_rank");
  config["q_lora_rank"] = q_rank ? Json(*q_rank) : Json();
  config["kv_lora_rank"] = w.required("attention.kv_lora_rank");
  config["qk_rope_head_dim"] = rotated;
  // Widths of a head before absorption; older files have no others.
  const auto key = w.integer("attention.key_length_mla"),
             value = w.integer("attention.value_length_mla");
  const int64_t whole = w.required("attention.key_length"),
                values = w.required("attention.value_length");
  const int64_t query = key.value_or(whole);
  if (rotated < 1 || query <= rotated) {
    w.refuse("rope.dimension_count", fmt::format("less than the {} elements of a query", query),
             std::to_string(rotated));
  }
  config["qk_nope_head_dim"] = query - rotated;
  config["v_head_dim"] = value.value_or(values);
  w.disregard({"attention.head_count_kv"});
  w.read_scaling();
  if (const auto log = w.number("rope.scaling.yarn_log_multiplier");
      log && config.contains("rope_scaling")) {
    // The file has 0.1 mscale_all_dim, and no mscale: published models have both alike.
    const double mscale = std::round(*log * 1e7) / 1e6;
    config["rope_scaling"]["mscale"] = config["rope_scaling"]["mscale_all_dim"] = mscale;
  }
}

// DeepSeek-V3 and GLM-4.7-Flash, which is the same without YaRN and groups, and whose file does not
// say that scores are sigmoids; DeepSeek-V2's are softmaxes, and it has no correction bias.
void write_deepseek_v3(Writer& w) {
  bool has_bias = false;
  for (int64_t i = 0; i < w.num_layers(); ++i) has_bias |= w.layer_has(i, "exp_probs_b.bias");
  require_sigmoid_router(w, has_bias ? kSigmoid : kSoftmax);
  read_latent_attention(w);
  write_deepseek_router(w);
}

void write_deepseek_v32(Writer& w) {
  Json& config = w.config();
  require_sigmoid_router(w);
  read_latent_attention(w);
  write_deepseek_router(w);
  config["index_n_heads"] = w.required("attention.indexer.head_count");
  config["index_head_dim"] = w.required("attention.indexer.key_length");
  config["index_topk"] = w.required("attention.indexer.top_k");
}

void write_glm_moe_dsa(Writer& w) {
  write_deepseek_v32(w);
  const std::vector<bool> full = w.marks("attention.indexer.types");
  if (full.empty()) return;
  Json types = Json::array();
  for (const bool is_full : full) types.push_back(is_full ? "full" : "shared");
  w.config()["indexer_types"] = std::move(types);
}

void write_mistral4(Writer& w) {
  const int64_t gating = w.integer("expert_gating_func").value_or(kSoftmax);
  if (gating != kSoftmax) w.refuse("expert_gating_func", "1 (softmax)", std::to_string(gating));
  read_latent_attention(w);
  write_deepseek_router(w);
  Json& config = w.config();
  const double beta = w.number("attention.temperature_scale").value_or(kMistral4Beta);
  if (config.contains("rope_scaling")) config["rope_scaling"]["llama_4_scaling_beta"] = beta;
}

// "sparse" for layers with experts, "dense" for the others.
Json mlp_layer_types(const Writer& w) {
  Json types = Json::array();
  for (int64_t i = 0; i < w.num_layers(); ++i) {
    types.push_back(w.layer_has(i, "ffn_down_exps.weight") ? "sparse" : "dense");
  }
  return types;
}

void write_ernie45_moe(Writer& w) {
  Json& config = w.config();
  read_attention(w);
  w.read_scaling();
  config["moe_num_experts"] = w.required("expert_count");
  config["moe_intermediate_size"] = w.required("expert_feed_forward_length");
  config["moe_num_shared_experts"] = w.integer("expert_shared_count").value_or(0);
  w.copy("intermediate_size", w.integer("feed_forward_length"));
  const Json types = mlp_layer_types(w);
  const auto first = std::find(types.begin(), types.end(), "sparse");
  const auto last = std::find(std::make_reverse_iterator(types.end()),
                              std::make_reverse_iterator(types.begin()), "sparse");
  config["moe_layer_start_index"] = first - types.begin();
  config["moe_layer_end_index"] = last.base() - types.begin() - 1;
  config["moe_layer_interval"] = w.integer("interleave_moe_layer_step").value_or(1);
  // The converter divides by the wrong number; the tensors say the width.
  w.disregard({"expert_shared_feed_forward_length", "leading_dense_block_count"});
}

void write_hy_v3(Writer& w) {
  Json& config = w.config();
  require_sigmoid_router(w);
  w.require("expert_weights_norm", true);
  read_attention(w);
  w.read_scaling();
  const int64_t width = w.required("expert_feed_forward_length");
  const int64_t shared = w.integer("expert_shared_feed_forward_length").value_or(0);
  if (width < 1 || shared % width != 0) {
    w.refuse("expert_shared_feed_forward_length", fmt::format("a multiple of {}", width),
             std::to_string(shared));
  }
  config["num_experts"] = w.required("expert_count");
  config["moe_intermediate_size"] = width;
  config["num_shared_experts"] = shared / width;
  config["router_scaling_factor"] = w.number("expert_weights_scale").value_or(1.0);
  w.copy("intermediate_size", w.integer("feed_forward_length"));
  config["mlp_layer_types"] = mlp_layer_types(w);
}

// Scaling of the frequencies of rotated pairs, which stands in a tensor; ones may follow.
void read_rope_factors(Writer& w, Json& rope, double theta, int64_t pairs) {
  constexpr const char* kFactors = "rope_freqs.weight";
  std::vector<float> factors = w.values(kFactors);
  if (factors.empty()) return;
  const auto count = static_cast<size_t>(std::max<int64_t>(pairs, 0));
  const bool is_padded = count <= factors.size() &&
                         std::all_of(factors.begin() + static_cast<std::ptrdiff_t>(count),
                                     factors.end(), [](float factor) { return factor == 1; });
  factors.resize(is_padded ? count : 0);
  const std::optional<Json> scaling = llama3_of_factors(factors, theta);
  if (!is_padded || !scaling) {
    w.refuse_tensor(kFactors,
                    fmt::format("{} factors that rope_type llama3 gives, then ones", pairs));
  }
  rope.update(*scaling);
}

// A rotary embedding of layers without a window, and one of those with, as folders have them.
void write_two_rotaries(Writer& w, double full_part, double window_part) {
  w.read_scaling();
  Json& config = w.config();
  Json full = config.value("rope_scaling", Json{{"rope_type", "default"}});
  Json window = {{"rope_type", "default"}, {"partial_rotary_factor", window_part}};
  full["partial_rotary_factor"] = full_part;
  full["rope_theta"] = config.value("rope_theta", kDefaultTheta);
  window["rope_theta"] = w.number("rope.freq_base_swa").value_or(full["rope_theta"]);
  config.erase("rope_scaling");
  config.erase("rope_theta");
  config["rope_parameters"] = {{"full_attention", std::move(full)},
                               {"sliding_attention", std::move(window)}};
}

void write_laguna(Writer& w) {
  Json& config = w.config();
  require_sigmoid_router(w);
  w.require("expert_weights_norm", true);
  const int64_t head = w.required("attention.key_length");
  if (head < 1) w.refuse("attention.key_length", "a positive number", std::to_string(head));
  w.require("attention.value_length", head);
  const std::vector<int64_t> heads = w.per_layer("attention.head_count");
  config["num_attention_heads"] = heads.empty() ? 0 : heads.front();
  config["num_attention_heads_per_layer"] = std::vector<uint64_t>(heads.begin(), heads.end());
  config["num_key_value_heads"] = w.same_for_all("attention.head_count_kv");
  config["head_dim"] = head;
  // Without a list every fourth layer sees all keys, the first among them, as in the published one.
  std::vector<bool> windows = w.marks("attention.sliding_window_pattern");
  const int64_t window = w.integer("attention.sliding_window").value_or(0);
  if (window > 0) config["sliding_window"] = window;
  for (int64_t i = static_cast<int64_t>(windows.size()); i < w.num_layers(); ++i) {
    windows.push_back(window > 0 && i % 4 != 0);
  }
  config["layer_types"] = attention_layer_types(windows);
  const auto part = [&](const char* key) {
    return static_cast<double>(w.integer(key).value_or(head)) / static_cast<double>(head);
  };
  write_two_rotaries(w, part("rope.dimension_count"), part("rope.dimension_count_swa"));
  const GgufTensor* gate = w.tensor("blk.0.attn_gate.weight");
  const bool is_per_head = gate == nullptr || gate->shape.empty() || heads.empty() ||
                           gate->shape.front() == heads.front();
  config["gating"] = is_per_head ? "per-head" : "per-element";
  config["num_experts"] = w.required("expert_count");
  config["moe_intermediate_size"] = w.required("expert_feed_forward_length");
  w.copy("intermediate_size", w.integer("feed_forward_length"));
  w.copy("shared_expert_intermediate_size", w.integer("expert_shared_feed_forward_length"));
  config["moe_routed_scaling_factor"] = w.number("expert_weights_scale").value_or(1.0);
  config["mlp_layer_types"] = mlp_layer_types(w);
  w.require("expert_shared_count", int64_t{1});
  w.disregard({"leading_dense_block_count"});
}

// The file lacks chunks, temperatures and which layers do not rotate: those of all published
// models.
void write_llama4(Writer& w) {
  Json& config = w.config();
  read_attention(w);
  w.read_scaling();
  constexpr int64_t kMaverickExperts = 128, kChunk = 8192;
  const int64_t experts = w.required("expert_count");
  config["num_local_experts"] = experts;
  config["use_qk_norm"] = experts != kMaverickExperts;  // as llama.cpp knows it
  config["intermediate_size"] = w.required("expert_feed_forward_length");
  config["intermediate_size_mlp"] = w.required("feed_forward_length");
  config["interleave_moe_layer_step"] = w.required("interleave_moe_layer_step");
  w.require("attention.sliding_window", kChunk);
  config["attention_chunk_size"] = kChunk;
  Json scaling = Json::object();
  read_rope_factors(w, scaling, config.value("rope_theta", kDefaultTheta),
                    w.required("attention.key_length") / 2);
  if (!scaling.empty()) config["rope_scaling"] = std::move(scaling);
  w.disregard({"rope.dimension_count"});
}

void write_mimo_v2_flash(Writer& w) {
  Json& config = w.config();
  require_sigmoid_router(w);
  const int64_t head = w.required("attention.key_length");
  const int64_t values = w.required("attention.value_length");
  const int64_t heads = w.same_for_all("attention.head_count");
  const std::vector<bool> windows = w.marks("attention.sliding_window_pattern");
  if (windows.empty()) w.refuse("attention.sliding_window_pattern", "0 or 1 a layer", "nothing");
  config["layer_types"] = attention_layer_types(windows);
  config["num_attention_heads"] = config["swa_num_attention_heads"] = heads;
  config["head_dim"] = config["swa_head_dim"] = head;
  config["v_head_dim"] = config["swa_v_head_dim"] = values;
  for (const bool window : {false, true}) {
    const int64_t kv = w.same_for_marked("attention.head_count_kv", windows, window);
    bool has_sinks = false;
    for (int64_t i = 0; i < w.num_layers(); ++i) {
      has_sinks |= windows[i] == window && w.layer_has(i, "attn_sinks.weight");
    }
    if (kv != 0) config[window ? "swa_num_key_value_heads" : "num_key_value_heads"] = kv;
    config[window ? "add_swa_attention_sink_bias" : "add_full_attention_sink_bias"] = has_sinks;
  }
  // So many keys before the token, as in a folder.
  config["sliding_window"] = config["sliding_window_size"] = w.required("attention.sliding_window");
  w.read_scaling();
  write_partial_rotary(w);
  w.copy("swa_rope_theta", w.number("rope.freq_base_swa"));
  w.copy("attention_value_scale", w.number("attention.value_scale"));
  config["n_routed_experts"] = w.required("expert_count");
  config["moe_intermediate_size"] = w.required("expert_feed_forward_length");
  w.copy("intermediate_size", w.integer("feed_forward_length"));
  config["n_group"] = w.integer("expert_group_count").value_or(1);
  config["topk_group"] = w.integer("expert_group_used_count").value_or(1);
  config["norm_topk_prob"] = w.flag("expert_weights_norm").value_or(true);
  w.copy("routed_scaling_factor", w.number("expert_weights_scale"));
  config["mlp_layer_types"] = mlp_layer_types(w);
}

void write_step3p5(Writer& w) {
  Json& config = w.config();
  require_sigmoid_router(w);
  w.require("expert_weights_norm", true);
  const int64_t head = w.required("attention.key_length");
  w.require("attention.value_length", head);
  const std::vector<bool> windows = w.marks("attention.sliding_window_pattern");
  if (windows.empty()) w.refuse("attention.sliding_window_pattern", "one a layer", "nothing");
  config["layer_types"] = attention_layer_types(windows);
  config["head_dim"] = head;
  config["sliding_window"] = w.required("attention.sliding_window");
  Json other = {{"head_dim", head}};
  for (const bool window : {false, true}) {
    const int64_t heads = w.same_for_marked("attention.head_count", windows, window);
    const int64_t groups = w.same_for_marked("attention.head_count_kv", windows, window);
    Json& to = window ? other : config;
    if (heads != 0) to["num_attention_heads"] = heads;
    if (groups != 0) to["num_attention_groups"] = groups;
  }
  config["attention_other_setting"] = std::move(other);
  write_two_rotaries(w, 0.5, 1.0);  // the converter takes no others
  Json& full = config["rope_parameters"]["full_attention"];
  read_rope_factors(w, full, full["rope_theta"], head / 4);
  config["moe_num_experts"] = w.required("expert_count");
  config["moe_intermediate_size"] = w.required("expert_feed_forward_length");
  config["share_expert_dim"] = w.required("expert_shared_feed_forward_length");
  config["moe_router_scaling_factor"] = w.number("expert_weights_scale").value_or(1.0);
  w.copy("intermediate_size", w.integer("feed_forward_length"));
  config["mlp_layer_types"] = mlp_layer_types(w);
  if (const auto limits = w.numbers("swiglu_clamp_exp"); !limits.empty()) {
    config["swiglu_limits"] = limits;
  }
  if (const auto limits = w.numbers("swiglu_clamp_shexp"); !limits.empty()) {
    config["swiglu_limits_shared"] = limits;
  }
  w.disregard({"leading_dense_block_count", "moe_every_n_layers", "rope.dimension_count"});
}

void write_minimax_m3(Writer& w) {
  Json& config = w.config();
  write_minimax_m2(w);
  w.require("expert_weights_norm", true);
  w.copy("dense_intermediate_size", w.integer("feed_forward_length"));
  config["n_shared_experts"] = w.required("expert_shared_count");
  config["routed_scaling_factor"] = w.number("expert_weights_scale").value_or(1.0);
  config["index_n_heads"] = w.required("attention.indexer.head_count");
  config["index_head_dim"] = w.required("attention.indexer.key_length");
  config["index_topk_blocks"] = w.required("attention.indexer.top_k");
  config["index_block_size"] = w.required("attention.indexer.block_size");
  config["index_local_blocks"] = w.required("attention.indexer.local_blocks");
  config["hidden_act"] = "swigluoai";
  Json types = Json::array();
  for (int64_t i = 0; i < w.num_layers(); ++i) {
    types.push_back(w.layer_has(i, "indexer.q_proj.weight") ? "minimax_m3_sparse"
                                                            : "full_attention");
    const GgufTensor* up = w.tensor(fmt::format("blk.{}.ffn_up_shexp.weight", i));
    if (up != nullptr && !up->shape.empty()) {
      config["shared_intermediate_size"] = up->shape.front();
    }
  }
  config["layer_types"] = std::move(types);
  config["mlp_layer_types"] = mlp_layer_types(w);
  w.disregard({"leading_dense_block_count"});
}

void write_qwen3_vl_moe(Writer& w) {
  write_qwen3_moe(w);
  w.disregard({"n_deepstack_layers"});  // where images join
}

// Gated delta nets, of which every `interval`th layer is none.
void write_delta_nets(Writer& w) {
  Json& config = w.config();
  read_attention(w);
  w.read_scaling();
  write_partial_rotary(w);
  const int64_t values = w.required("ssm.time_step_rank"), inner = w.required("ssm.inner_size");
  if (values < 1 || inner % values != 0) {
    w.refuse("ssm.inner_size", fmt::format("a multiple of ssm.time_step_rank = {}", values),
             std::to_string(inner));
  }
  config["linear_conv_kernel_dim"] = w.required("ssm.conv_kernel");
  config["linear_key_head_dim"] = w.required("ssm.state_size");
  config["linear_num_key_heads"] = w.required("ssm.group_count");
  config["linear_num_value_heads"] = values;
  config["linear_value_head_dim"] = inner / values;
  Json layers = Json::array();
  for (int64_t i = 0; i < w.num_layers(); ++i) {
    const bool is_linear = w.has_tensor(fmt::format("blk.{}.ssm_a", i));
    layers.push_back(is_linear ? "linear_attention" : "full_attention");
  }
  config["layer_types"] = std::move(layers);
  config["num_experts"] = w.required("expert_count");
  config["moe_intermediate_size"] = w.required("expert_feed_forward_length");
  w.copy("shared_expert_intermediate_size", w.integer("expert_shared_feed_forward_length"));
  // The tensors say which layers are which.
  w.disregard({"full_attention_interval", "attention.recurrent_layers"});
}

void write_qwen35_moe(Writer& w) {
  write_delta_nets(w);
  w.disregard({"feed_forward_length"});
}

void write_qwen3_next(Writer& w) {
  write_delta_nets(w);
  w.config()["norm_topk_prob"] = w.flag("expert_weights_norm").value_or(true);
  w.copy("intermediate_size", w.integer("feed_forward_length"));
  w.config()["mlp_only_layers"] = dense_layers(w);
}

void write_nemotron_h(Writer& w) {
  Json& config = w.config();
  read_attention(w);
  // It is not rotated.
  w.disregard({"rope.dimension_count", "rope.scaling.finetuned"});
  const int64_t heads = w.required("ssm.time_step_rank"), inner = w.required("ssm.inner_size");
  if (heads < 1 || inner % heads != 0) {
    w.refuse("ssm.inner_size", fmt::format("a multiple of ssm.time_step_rank = {}", heads),
             std::to_string(inner));
  }
  config["mamba_num_heads"] = heads;
  config["mamba_head_dim"] = inner / heads;
  config["n_groups"] = w.required("ssm.group_count");
  config["ssm_state_size"] = w.required("ssm.state_size");
  config["conv_kernel"] = w.required("ssm.conv_kernel");
  config["layer_norm_epsilon"] = config["rms_norm_eps"];
  config.erase("rms_norm_eps");
  config["mlp_hidden_act"] = "relu2";
  std::string pattern;
  for (int64_t i = 0; i < w.num_layers(); ++i) {
    const auto has = [&](const char* tensor) {
      return w.has_tensor(fmt::format("blk.{}.{}.weight", i, tensor));
    };
    pattern += has("ssm_in") ? 'M' : has("attn_q") ? '*' : has("ffn_up_exps") ? 'E' : '-';
    if (!pattern.ends_with('-')) continue;
    if (const GgufTensor* up = w.tensor(fmt::format("blk.{}.ffn_up.weight", i));
        up != nullptr && !up->shape.empty()) {
      config["intermediate_size"] = up->shape.front();
    }
  }
  config["hybrid_override_pattern"] = pattern;
  require_sigmoid_router(w);
  config["n_routed_experts"] = w.required("expert_count");
  config["moe_intermediate_size"] = w.required("expert_feed_forward_length");
  config["n_shared_experts"] = w.integer("expert_shared_count").value_or(1);
  config["moe_shared_expert_intermediate_size"] = w.required("expert_shared_feed_forward_length");
  config["routed_scaling_factor"] = w.number("expert_weights_scale").value_or(1.0);
  config["norm_topk_prob"] = w.flag("expert_weights_norm").value_or(true);
  config["n_group"] = w.integer("expert_group_count").value_or(1);
  config["topk_group"] = w.integer("expert_group_used_count").value_or(1);
  w.copy("moe_latent_size", w.integer("moe_latent_size"));
  w.disregard({"feed_forward_length", "attention.layer_norm_epsilon"});
}

using Write = void (*)(Writer&);
constexpr std::pair<std::string_view, Write> kWriters[] = {
    {"deepseek2", write_deepseek_v3},
    {"deepseek32", write_deepseek_v32},
    {"deepseek4", write_deepseek_v4},
    {"ernie4_5-moe", write_ernie45_moe},
    {"gemma4", write_gemma4},
    {"glm-dsa", write_glm_moe_dsa},
    {"glm4moe", write_glm4_moe},
    {"gpt-oss", write_gpt_oss},
    {"hy_v3", write_hy_v3},
    {"laguna", write_laguna},
    {"llama", write_mixtral},
    {"llama4", write_llama4},
    {"mimo2", write_mimo_v2_flash},
    {"minimax-m2", write_minimax_m2},
    {"minimax-m3", write_minimax_m3},
    {"mistral4", write_mistral4},
    {"nemotron_h_moe", write_nemotron_h},
    {"qwen35moe", write_qwen35_moe},
    {"qwen3moe", write_qwen3_moe},
    {"qwen3next", write_qwen3_next},
    {"qwen3vlmoe", write_qwen3_vl_moe},
    {"step35", write_step3p5},
};

}  // namespace

Json gguf_config(const GgufModel& model) {
  const GgufArchitecture& architecture = gguf_architecture(model.metadata());
  Writer writer(model, architecture);
  writer.read_common();
  for (const auto& [name, write] : kWriters) {
    if (name == architecture.name) write(writer);
  }
  writer.refuse_unread();
  return std::move(writer.config());
}

}  // namespace moe4
