// Settings that many families spell alike, read for architecture files.
#pragma once

#include "layers/attention.h"
#include "models/config_reader.h"
#include "models/rotary_config.h"
#include "ops/delta_net/delta_net.h"

namespace moe4 {

/// Of RMS norms: `rms_norm_eps`; `eps` where a file does not say.
NormSpec read_norm(const ConfigReader& c, double eps = 1e-6);

/// `num_attention_heads`, `num_key_value_heads` and `head_dim` of grouped-query attention; a file
/// without head_dim means `head_dim`, or if that is 0 hidden_size / num_attention_heads.
AttentionSpec read_heads(const ConfigReader& c, int64_t hidden_size, int64_t head_dim = 0);

/// The one rotary embedding of all layers (rotary_config.h).
RotarySpec read_rotary(const ConfigReader& c, const RotaryDefaults& defaults);

/// A gated delta net: `linear_*`; sizes of Qwen3-Next where a file does not say. Its output norm
/// multiplies by w, whatever the model's other norms (`norm`) do.
DeltaNet::Problem read_delta_net(const ConfigReader& c, const NormSpec& norm);

/// `hidden_act` and its other spellings, of kinds without parameters; absent: SiLU.
ActivationParams read_activation(const ConfigReader& c);

}  // namespace moe4
