// The table of settings, and the checks that one key alone cannot decide.
#include "models/settings.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

namespace moe4 {
namespace {

// Which values leave the numbers as they are. A key that is absent or null always does.
enum class Off {
  kZero,  // false, 0, "", [], {}, "none", and arrays of these
  kOne,   // the number 1 and arrays of it
  kTrue,  // true
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
    {"compress_ratios"},
    {"use_bidirectional_attention"},
    {"is_causal", Off::kTrue},
    {"is_encoder_decoder"},
    {"cross_attention_layers"},
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
    {"attention_value_scale", Off::kOne},
    {"attention_in_multiplier", Off::kOne},
    {"attention_out_multiplier", Off::kOne},
    {"key_multiplier", Off::kOne},
    {"clip_qkv"},
    {"use_qk_norm", Off::kTrue},
    {"qk_norm_type", Off::kZero, "per_head"},
    {"attention_k_eq_v"},
    {"num_kv_shared_layers"},
    {"global_head_dim"},
    {"num_global_key_value_heads"},
    {"num_attention_heads_per_layer"},
    {"attention_other_setting"},
    {"gating"},
    {"kv_lora_rank"},
    {"q_lora_rank"},
    {"qk_rope_head_dim"},
    {"v_head_dim"},
    // Positions.
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
    // Routers and experts.
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
  }
  return "";
}

class Checker {
 public:
  Checker(const Checkpoint& checkpoint, const ComputedSettings& computed,
          const RefuseSetting& refuse)
      : checkpoint_(checkpoint),
        config_(checkpoint.config()),
        text_(checkpoint.text_config()),
        root_(checkpoint.root_config()),
        computed_(computed),
        refuse_(refuse) {}

  void run() {
    for (const Setting& setting : kSettings) check_table(setting);
    check_layer_types();
    check_rotary();
    check_activation();
    check_biases();
    check_wrapper();
  }

 private:
  void refuse(const std::string& what, const std::string& key, const std::string& expected,
              const std::string& found) const {
    refuse_({.what = what,
             .file = text_.file(),
             .tensor = key,
             .expected = expected,
             .found = found,
             .hint = "moe4 plan and inspect still work on this checkpoint"});
  }
  void unsupported(const JsonReader& reader, std::string_view key, const std::string& expected,
                   const std::string& found) const {
    refuse(fmt::format("unsupported {}", key), reader.path_of(key), expected, found);
  }

  bool is_wrapped() const { return &root_.json() != &text_.json(); }

  // A value that says what moe4 computes anyway.
  bool says_the_usual(std::string_view key, const Json& value) const {
    if (key == "v_head_dim" || key == "query_pre_attn_scalar") return value == config_.head_dim;
    if (key == "rotary_dim") {
      return value == static_cast<int64_t>(static_cast<double>(config_.head_dim) *
                                           config_.partial_rotary_factor);
    }
    if (key == "rotary_pct") return value == config_.partial_rotary_factor;
    if (key == "rotary_emb_base") return value == config_.rope_theta;
    return false;
  }

  void check_table(const Setting& setting) const {
    const bool known = std::find(computed_.keys.begin(), computed_.keys.end(), setting.key) !=
                       computed_.keys.end();
    if (known) return;
    const std::string key(setting.key);
    const bool inside = text_.json().contains(key);
    const JsonReader& reader = inside || !is_wrapped() ? text_ : root_;
    const Json* value = reader.get(key.c_str());
    if (value == nullptr || is_off(*value, setting) || says_the_usual(key, *value)) return;
    unsupported(reader, key, std::string(off_value(setting)), describe(*value));
  }

  void check_layer_types() const {
    const Json* types = text_.array("layer_types");
    if (types == nullptr) return;
    std::string expected;
    for (std::string_view word : computed_.layer_types) {
      expected += (expected.empty() ? "" : " or ") + std::string(word);
    }
    for (size_t i = 0; i < types->size(); ++i) {
      const Json& type = (*types)[i];
      const bool known =
          type.is_string() &&
          std::find(computed_.layer_types.begin(), computed_.layer_types.end(),
                    type.get_ref<const std::string&>()) != computed_.layer_types.end();
      if (known) continue;
      unsupported(text_, "layer_types", expected, fmt::format("{} in layer {}", describe(type), i));
      return;
    }
  }

  void check_rotary() const {
    if (config_.rope_type != "default") {
      unsupported(text_, "rope_type", "default", config_.rope_type);
      return;
    }
    // A factor without a type is what old exporters write for linear scaling.
    for (const char* key : {"rope_scaling", "rope_parameters"}) {
      const auto rope = text_.object(key);
      if (!rope || rope->has("rope_type") || rope->has("type")) continue;
      const Json* factor = rope->get("factor");
      if (factor == nullptr || *factor == 1) continue;
      unsupported(*rope, "factor", "1, or a rope_type", describe(*factor));
    }
  }

  // Dense and shared MLPs multiply by SiLU; routed experts have what ActivationParams says.
  void check_activation() const {
    const Json* first = nullptr;
    std::string first_key;
    for (const char* key : {"mlp_hidden_act", "hidden_act", "hidden_activation", "activation"}) {
      const Json* value = text_.get(key);
      if (value == nullptr) continue;
      if (first != nullptr && *first != *value) {
        refuse("two activations", text_.path_of(key), describe(*first) + " as " + first_key,
               describe(*value));
      }
      if (first == nullptr) {
        first = value;
        first_key = key;
      }
    }
    const bool has_dense = std::find(config_.is_moe_layer.begin(), config_.is_moe_layer.end(),
                                     false) != config_.is_moe_layer.end();
    const bool has_shared = config_.shared_expert_intermediate_size > 0;
    if (config_.moe.activation.kind == ActivationKind::kSilu || (!has_dense && !has_shared)) return;
    unsupported(text_, first_key.empty() ? "hidden_act" : first_key,
                fmt::format("silu in {}", has_dense ? "dense layers" : "shared experts"),
                first == nullptr ? to_string(config_.moe.activation) : describe(*first));
  }

  // A bias that the configuration asks for and nobody stored, or the other way round.
  void check_biases() const {
    check_bias("attention_bias", {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"});
    check_bias("qkv_bias", {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"});
    check_bias("use_qkv_bias", {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"});
    check_bias("mlp_bias", {"mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"});
  }

  void check_bias(const char* key, std::initializer_list<const char*> modules) const {
    const Json* value = text_.get(key);
    if (value == nullptr || !value->is_boolean()) return;
    for (int64_t layer = 0; layer < config_.num_layers; ++layer) {
      for (const char* suffix : modules) {
        const std::string module = checkpoint_.layer_name(layer, suffix);
        if (!checkpoint_.has_linear(module)) continue;
        const std::string bias = module + ".bias";
        if (checkpoint_.has_tensor(bias) == value->get<bool>()) continue;
        refuse("configuration and tensors disagree about a bias", "tensor " + bias,
               fmt::format("{} ({} is {})", value->get<bool>() ? "a bias" : "none",
                           text_.path_of(key), value->get<bool>()),
               value->get<bool>() ? "none" : "one");
        return;
      }
    }
  }

  // Settings that every decoder reads, placed where it does not look.
  void check_wrapper() const {
    if (!is_wrapped()) return;
    for (const char* key :
         {"attention_bias", "attn_output_gate", "head_dim", "hidden_act", "layer_types",
          "mlp_only_layers", "norm_topk_prob", "num_experts_per_tok", "partial_rotary_factor",
          "rms_norm_eps", "rope_parameters", "rope_scaling", "rope_theta", "routed_scaling_factor",
          "scoring_func"}) {
      const Json* value = root_.get(key);
      if (value == nullptr || text_.json().contains(key)) continue;
      refuse("setting of the text model outside of it", "key " + std::string(key),
             "the key " + text_.path_of(key), describe(*value));
    }
  }

  const Checkpoint& checkpoint_;
  const ModelConfig& config_;
  const JsonReader text_, root_;
  const ComputedSettings& computed_;
  const RefuseSetting& refuse_;
};

}  // namespace

void check_settings(const Checkpoint& checkpoint, const ComputedSettings& computed,
                    const RefuseSetting& refuse) {
  Checker(checkpoint, computed, refuse).run();
}

void check_sliding_window(const Checkpoint& checkpoint, bool has_switch,
                          const RefuseSetting& refuse) {
  const JsonReader text = checkpoint.text_config();
  const Json* use = text.get("use_sliding_window");
  const Json* window = text.get("sliding_window");
  // transformers drops the window when the switch is off; switched on without a width is no window.
  if (window == nullptr || (use == nullptr ? has_switch : *use == false)) return;
  refuse({.what = "unsupported sliding_window",
          .file = text.file(),
          .tensor = text.path_of("sliding_window"),
          .expected = "null, or use_sliding_window false",
          .found = describe(*window),
          .hint = "moe4 plan and inspect still work on this checkpoint"});
}

}  // namespace moe4
