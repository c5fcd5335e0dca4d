// Spellings of attention, rotary embedding, norm and activation.
#include "models/common_settings.h"

#include "base/error.h"

namespace moe4 {

NormSpec read_norm(const ConfigReader& c, double eps) {
  return {.eps = static_cast<float>(c.number({"rms_norm_eps"}, eps, 0.0, 1.0))};
}

AttentionSpec read_heads(const ConfigReader& c, int64_t hidden_size, int64_t head_dim) {
  AttentionSpec spec{.num_heads = c.size({"num_attention_heads"})};
  spec.num_kv_heads = c.size({"num_key_value_heads"}, spec.num_heads);
  if (head_dim == 0 && hidden_size % spec.num_heads == 0) head_dim = hidden_size / spec.num_heads;
  spec.head_dim = head_dim == 0 ? c.size({"head_dim"}) : c.size({"head_dim"}, head_dim);
  c.require_multiple("num_attention_heads", spec.num_heads, spec.num_kv_heads);
  // What some families say although it is so anyway.
  c.require("v_head_dim", static_cast<double>(spec.head_dim));
  c.require("query_pre_attn_scalar", static_cast<double>(spec.head_dim));
  return spec;
}

RotarySpec read_rotary(const ConfigReader& c, const RotaryDefaults& defaults) {
  for (const char* key :
       {"rope_theta", "partial_rotary_factor", "rope_scaling", "rope_parameters"}) {
    (void)c.has(key);
  }
  const RotarySpec spec = read_rotary_spec(c.json(), defaults);
  // What some families say although it is so anyway.
  c.require("rotary_dim", static_cast<double>(spec.dim));
  c.require("rotary_pct", static_cast<double>(spec.dim) / static_cast<double>(defaults.head_dim));
  c.require("rotary_emb_base", spec.theta);
  return spec;
}

DeltaNet::Problem read_delta_net(const ConfigReader& c, const NormSpec& norm) {
  constexpr int64_t kMost = 1 << 20;  // so that their products fit
  return {.num_key_heads = c.integer({"linear_num_key_heads"}, 1, kMost, 16),
          .num_value_heads = c.integer({"linear_num_value_heads"}, 1, kMost, 32),
          .key_dim = c.integer({"linear_key_head_dim"}, 1, kMost, 128),
          .value_dim = c.integer({"linear_value_head_dim"}, 1, kMost, 128),
          .conv_taps = c.integer({"linear_conv_kernel_dim"}, 1, 64, 4),
          .norm = {.eps = norm.eps}};
}

ActivationParams read_activation(const ConfigReader& c) {
  const std::string word =
      c.word({"hidden_act", "mlp_hidden_act", "hidden_activation", "activation"}, "silu");
  if (word == "silu" || word == "swish" || word == "swiglu") return {};
  if (word == "gelu_tanh" || word == "gelu_pytorch_tanh" || word == "gelu_new") {
    return {.kind = ActivationKind::kGeluTanh};
  }
  if (word == "relu2") return {.kind = ActivationKind::kRelu2};
  c.refuse("hidden_act", "silu, gelu_pytorch_tanh or relu2", printable(word, 80));
  return {};
}

}  // namespace moe4
