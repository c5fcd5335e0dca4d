// Reads the rotary embedding out of config.json.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "checkpoint/json_reader.h"
#include "ops/rotary/rotary_spec.h"

namespace moe4 {

/// What an architecture takes where its configuration says nothing, and what it reads itself.
struct RotaryDefaults {
  int64_t head_dim = 0;  ///< RotarySpec::dim is partial_rotary_factor of it
  double theta = 10000.0;
  double partial_rotary_factor = 1.0;
  /// Which entry counts where `rope_parameters` has one a layer type.
  std::string_view layer_type = "full_attention";
  /// Keys of the object that the architecture reads itself.
  std::span<const std::string_view> other_keys = {};
};

/// Whether read_rotary_spec() takes this rope_type.
bool is_known_rope_type(std::string_view name);

/// From `text`, the text model's object, in both spellings: rope_theta beside rope_scaling{type or
/// rope_type, ...} (transformers 4), and rope_parameters{...} (5), alone or one a layer type.
/// Throws Error(kBadInput) naming file and key: for types that are not computed, keys of the object
/// that the type does not have, two objects that contradict each other, values out of range.
RotarySpec read_rotary_spec(const JsonReader& text, const RotaryDefaults& defaults);

}  // namespace moe4
