// Which mixer and which feed-forward part each layer has, in all the spellings of config.json.
#pragma once

#include <optional>
#include <string>

#include "checkpoint/family.h"
#include "checkpoint/json_reader.h"
#include "checkpoint/model_config.h"

namespace moe4 {

/// Layers of one mixer or one feed-forward part each (Nemotron-H), in the words of
/// hybrid_override_pattern ("|" in it cuts pipeline stages and means nothing), or of
/// layers_block_type or layer_types as transformers 4 or 5 spell them.
struct HybridPattern {
  const char* key = nullptr;  ///< the one of these keys that was read
  std::string layers;         ///< a letter each: M Mamba, E experts, * attention, - dense
  std::string unknown;        ///< the first entry that is none of these; "" when all are
};

/// The pattern of the model's own layers; nullopt when no key has one. Throws Error(kBadInput)
/// naming the key for a length that is neither num_hidden_layers nor that with the draft layers.
std::optional<HybridPattern> hybrid_pattern(const JsonReader& text);

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
