// The list of architectures: one file and one line each.
#pragma once

#include <span>
#include <string_view>

#include "models/builder.h"
#include "models/config_reader.h"

namespace moe4 {

/// What an architecture file is: the model_types it is for, and the model in a builder's words.
struct Architecture {
  std::span<const std::string_view> model_types;
  void (*build)(const ConfigReader&, Builder&);
};

/// Null when unknown.
const Architecture* find_architecture(std::string_view model_type);
/// The refusal of a model_type that is not in the list.
BadInput unknown_architecture(const Checkpoint& checkpoint);

}  // namespace moe4
