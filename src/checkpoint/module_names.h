// The spellings under which metadata may mention a module: prefixes of multimodal wrappers, fused
// modules of inference engines, w1/w2/w3.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace moe4 {

/// All spellings of `module`, itself first: with each wrapper prefix ("model.language_model.",
/// "language_model.model.", "model.", "") in place of `text_prefix`, and with the projection's
/// other names ("w1" -> "gate_proj", "q_proj" -> "qkv_proj").
std::vector<std::string> module_spellings(std::string_view module, std::string_view text_prefix);

/// "model.layers.3.mlp.experts.17.up_proj" -> "model.layers.*.mlp.experts.*.up_proj": the same for
/// all modules of a kind.
std::string generic_module(std::string_view module);

/// Whether the module is a projection of a routed expert (has an "experts" component).
bool is_routed_expert(std::string_view module);

}  // namespace moe4
