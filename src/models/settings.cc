// The table of settings.
#include "models/settings.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

namespace moe4 {
namespace {

// Which values leave the numbers as they are. A key that is absent or null always does.
enum class Off {
  kZero,   // false, 0, "", [], {}, "none", and arrays of these
  kOne,    // the number 1 and arrays of it
  kTrue,   // true
  kEmpty,  // [], "" and {}
};

struct Setting {
  std::string_view key;
  Off off = Off::kZero;
  std::string_view also_off = "";  // a word that is off, too
};

// Keys of the configurations of published mixture-of-experts families (and of their dense
// relatives) that change what a decoder computes. A key that only names a size, a file, or
// something of training has no place here.
constexpr Setting kSettings[] = {
    // Which keys a query sees.
    {"sliding_window"},
    {"sliding_window_size"},
    {"sliding_window_pattern"},
    {"attention_window_size"},
    {"interleaved_sliding_window"},
    {"hybrid_layer_pattern"},
    {"attention_chunk_size"},
    {"sparse_attention_config"},
    {"sparse_attention_freq"},
    {"index_topk"},
    {"index_n_heads"},
    {"index_topk_blocks"},
    {"index_topk_freq", Off::kOne},
    {"index_topk_pattern"},
    {"indexer_types", Off::kZero, "full"},
    {"compress_ratios"},
    {"use_bidirectional_attention"},
    {"is_causal", Off::kTrue},
    {"is_encoder_decoder"},
    {"cross_attention_layers"},
    {"attn_type_list", Off::kOne},
    // Attention scores and values.
    {"attention_sink"},
    {"attention_sinks"},
    {"use_attention_sinks"},
    {"use_sinks"},
    {"add_swa_attention_sink_bias"},
    {"add_full_attention_sink_bias"},
    {"attn_logit_softcapping"},
    {"attn_logit_softcap"},
    {"attention_logit_softcapping"},
    {"attn_logits_soft_cap"},
    {"attention_multiplier"},
    {"attention_scale"},
    {"attn_scale"},
    {"attention_scaling"},
    {"query_pre_attn_scalar"},
    {"attn_temperature_tuning"},
    {"llama_4_scaling_beta"},
    {"llama_4_scaling", Off::kEmpty},
    {"attention_value_scale", Off::kOne},
    {"attention_in_multiplier", Off::kOne},
    {"attention_out_multiplier", Off::kOne},
    {"key_multiplier", Off::kOne},
    {"clip_qkv"},
    {"use_qk_norm", Off::kTrue},
    {"qk_norm_type", Off::kZero, "per_head"},
    {"attention_k_eq_v"},
    {"num_kv_shared_layers"},
    {"use_double_wide_mlp"},
    {"global_head_dim"},
    {"num_global_key_value_heads"},
    {"num_attention_heads_per_layer"},
    {"attention_other_setting"},
    {"gating"},
    {"kv_lora_rank"},
    {"q_lora_rank"},
    {"qk_rope_head_dim"},
    {"v_head_dim"},
    {"attention_bias"},
    {"qkv_bias"},
    {"use_qkv_bias"},
    {"attn_output_gate"},
    {"attention_output_gate"},
    // Positions.
    {"rope_scaling", Off::kEmpty},
    {"rope_parameters", Off::kEmpty},
    {"partial_rotary_factor", Off::kOne},
    {"use_rope", Off::kTrue},
    {"no_rope_layers", Off::kOne},
    {"nope_layer_interval"},
    {"no_rope_layer_interval"},
    {"rope_interleave"},
    {"rope_interleaved"},
    {"rope_local_base_freq"},
    {"swa_rope_theta"},
    {"rotary_dim"},
    {"rotary_pct"},
    {"rotary_emb_base"},
    {"alibi"},
    {"use_alibi"},
    {"position_embedding_type", Off::kZero, "rope"},
    // Embeddings, logits, residual stream.
    {"scale_emb", Off::kOne},
    {"embedding_multiplier", Off::kOne},
    {"embedding_scale", Off::kOne},
    {"emb_scale", Off::kOne},
    {"scale_embedding"},
    {"scale_depth"},
    {"residual_multiplier", Off::kOne},
    {"residual_scale", Off::kOne},
    {"logit_scale", Off::kOne},
    {"logits_scaling", Off::kOne},
    {"lm_head_multiplier", Off::kOne},
    {"final_logit_softcapping"},
    {"final_logit_softcap"},
    {"logits_soft_cap"},
    {"layernorm_full_attention_beta", Off::kOne},
    {"layernorm_mlp_beta", Off::kOne},
    {"use_parallel_residual"},
    {"parallel_residual"},
    {"use_post_norm"},
    {"sandwich_norm"},
    {"norm_after"},
    {"use_gemma_norm"},
    {"hc_mult", Off::kOne},
    {"altup_num_inputs", Off::kOne},
    {"laurel_rank"},
    {"hidden_size_per_layer_input"},
    {"num_loops", Off::kOne},
    {"total_ut_steps", Off::kOne},
    // Which parts a layer has.
    {"layer_types", Off::kZero, "full_attention"},
    {"layers_block_type", Off::kEmpty},
    {"hybrid_override_pattern", Off::kEmpty},
    {"mlp_layer_types", Off::kZero, "sparse"},
    {"mlp_only_layers", Off::kEmpty},
    {"moe_layers", Off::kEmpty},
    {"moe_layers_enum", Off::kEmpty},
    {"moe_layer_freq", Off::kOne},
    {"moe_layer_interval", Off::kOne},
    {"interleave_moe_layer_step", Off::kOne},
    {"decoder_sparse_step", Off::kOne},
    {"first_k_dense_replace"},
    {"num_dense_layers"},
    {"moe_layer_start_index"},
    // Routers and experts.
    {"hidden_act", Off::kZero, "silu"},
    {"mlp_hidden_act", Off::kZero, "silu"},
    {"hidden_activation", Off::kZero, "silu"},
    {"activation", Off::kZero, "silu"},
    {"mlp_bias"},
    {"scoring_func", Off::kZero, "softmax"},
    {"score_func", Off::kZero, "softmax"},
    {"score_function", Off::kZero, "softmax"},
    {"moe_router_activation", Off::kZero, "softmax"},
    {"routed_scaling_factor", Off::kOne},
    {"moe_router_scaling_factor", Off::kOne},
    {"moe_routed_scaling_factor", Off::kOne},
    {"router_scaling_factor", Off::kOne},
    {"n_group", Off::kOne},
    {"num_expert_group", Off::kOne},
    {"topk_group", Off::kOne},
    {"shared_expert_intermediate_size"},
    {"moe_shared_expert_intermediate_size"},
    {"shared_intermediate_size"},
    {"share_expert_dim"},
    {"n_shared_experts"},
    {"num_shared_experts"},
    {"moe_num_shared_experts"},
    {"topk_method", Off::kZero, "greedy"},
    {"moe_router_logit_softcapping"},
    {"router_logit_softcapping"},
    {"moe_apply_router_weight_on_input"},
    {"apply_router_weight_on_input"},
    {"use_expert_bias"},
    {"moe_router_enable_expert_bias"},
    {"num_zero_experts"},
    {"zero_expert_num"},
    {"num_hash_layers"},
    {"moe_latent_size"},
    {"swiglu_alpha"},
    {"swiglu_limit"},
    {"swiglu_limits"},
    {"swiglu_limits_shared"},
    {"mlp_multipliers", Off::kOne},
};

bool is_off(const Json& value, const Setting& setting) {
  if (value.is_null()) return true;
  if (setting.off == Off::kEmpty) return value.empty() || value == "";
  if (value.is_array()) {
    return std::all_of(value.begin(), value.end(),
                       [&](const Json& item) { return is_off(item, setting); });
  }
  if (value.is_string()) {
    const auto& text = value.get_ref<const std::string&>();
    return text.empty() || text == "none" ||
           (!setting.also_off.empty() && text == setting.also_off);
  }
  switch (setting.off) {
    case Off::kZero:
      return value == false || value == 0 || (value.is_object() && value.empty());
    case Off::kOne:
      return value.is_number() && value == 1;
    case Off::kTrue:
      return value == true;
    case Off::kEmpty:
      break;
  }
  return false;
}

std::string_view off_value(const Setting& setting) {
  if (!setting.also_off.empty()) return setting.also_off;
  switch (setting.off) {
    case Off::kZero:
      return "absent, null, false or 0";
    case Off::kOne:
      return "absent, null or 1";
    case Off::kTrue:
      return "absent, null or true";
    case Off::kEmpty:
      return "absent, null or empty";
  }
  return "";
}

}  // namespace

void check_settings(const Checkpoint& checkpoint, const ConfigReader& config,
                    const RefuseSetting& refuse) {
  const JsonReader text = checkpoint.text_config(), root = checkpoint.root_config();
  const bool is_wrapped = &root.json() != &text.json();
  for (const Setting& setting : kSettings) {
    if (config.was_read(setting.key)) continue;
    const std::string key(setting.key);
    const JsonReader& reader = text.json().contains(key) || !is_wrapped ? text : root;
    const Json* value = reader.get(key.c_str());
    if (value == nullptr || is_off(*value, setting)) continue;
    refuse({.what = "unsupported " + key,
            .file = reader.file(),
            .tensor = reader.path_of(key),
            .expected = std::string(off_value(setting)),
            .found = describe(*value),
            .hint = "moe4 plan and inspect still work on this checkpoint"});
  }
}

}  // namespace moe4
