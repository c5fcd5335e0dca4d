// The part of moe4 plan that is about ops: layers with equal ops in one line.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "models/description.h"

namespace moe4::cli {

/// A line for each kind of layer and one for what is outside of layers: which implementation serves
/// which op, and why those before it do not. "" when nothing is known.
std::string ops_text(const Description& description);
/// An array of {"layers": [...], "ops": [{"role", "op", "weight_bytes", "implementation",
/// "candidates"}]}, bytes of one layer; what is
/// outside of layers has no "layers".
nlohmann::ordered_json ops_json(const Description& description);

}  // namespace moe4::cli
