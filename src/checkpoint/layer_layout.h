// Which mixer and which feed-forward part each layer has, in all the spellings of config.json.
#pragma once

#include "checkpoint/family.h"
#include "checkpoint/json_reader.h"
#include "checkpoint/model_config.h"

namespace moe4 {

/// Fills num_layers and layer_kinds, and has_feed_forward where the file lists layers one by one.
/// Lists may be longer than the model by its draft layers (num_nextn_predict_layers), which are cut
/// off. Throws Error(kBadInput) naming the key.
void read_layers(const JsonReader& text, const Family& family, ModelConfig& config);

/// Fills is_moe_layer. Needs num_layers and, for Nemotron-H, layer_kinds; config.moe.num_experts of
/// 0 means that no layer is.
void read_moe_layers(const JsonReader& text, const Family& family, ModelConfig& config);

/// How many entries of an array of one a layer are the model's: checks that it has num_layers
/// entries, or that many and those of the draft layers.
void check_layer_list(const JsonReader& text, const Json& array, const char* key,
                      int64_t num_layers);

}  // namespace moe4
