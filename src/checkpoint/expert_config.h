// Routed experts of config.json: their sizes, activation and router.
#pragma once

#include "checkpoint/family.h"
#include "checkpoint/json_reader.h"
#include "checkpoint/model_config.h"

namespace moe4 {

/// Fills the feed-forward fields of `config` but is_moe_layer. Needs num_layers and hidden_size.
/// Throws Error(kBadInput) naming the key.
void read_experts(const JsonReader& text, const Family& family, ModelConfig& config);

}  // namespace moe4
