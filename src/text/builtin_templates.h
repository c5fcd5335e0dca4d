// Chat templates of models that ship none.
#pragma once

#include <string>
#include <string_view>

namespace moe4 {

/// The chat template of models of this `model_type` (config.json), which have a Python encoder
/// instead: deepseek_v32, deepseek_v4. Empty for all others.
std::string builtin_template(std::string_view model_type);

}  // namespace moe4
