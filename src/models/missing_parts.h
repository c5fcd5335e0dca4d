// What a model of an architecture that moe4 cannot run would need, by name.
#pragma once

#include <string>
#include <vector>

#include "checkpoint/model_config.h"

namespace moe4 {

/// Whether Model::load() has a file for this model_type.
bool is_known_architecture(const std::string& model_type);

/// Parts of the model that no architecture of moe4 has, from its configuration: "short
/// convolutions", "multi-head latent attention", ... Empty for a known architecture, and for one of
/// which nothing is known.
std::vector<std::string> missing_parts(const ModelConfig& config);

/// "architecture lfm2_moe is not known: it needs short convolutions, ..."; "" when it is known.
std::string why_not_run(const ModelConfig& config);

}  // namespace moe4
