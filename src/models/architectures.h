// The list of architectures: what loads each and which settings it computes.
#pragma once

#include <string_view>

#include "models/loader.h"
#include "models/settings.h"

namespace moe4 {

struct Architecture {
  std::string_view model_type;
  DecoderParts (*load)(ModelLoader&);
  ComputedSettings computed;
  /// Whether an absent use_sliding_window means that there is no window.
  bool has_window_switch = false;
};

/// Null when unknown.
const Architecture* find_architecture(std::string_view model_type);
/// The refusal of a model_type that is not in the list.
BadInput unknown_architecture(const Checkpoint& checkpoint);

}  // namespace moe4
