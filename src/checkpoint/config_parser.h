// Turns the text of config.json into a plain struct.
#pragma once

#include <string>

#include "checkpoint/json_reader.h"
#include "checkpoint/model_config.h"

namespace moe4 {

/// The object that describes the language model: inside a multimodal wrapper `text_config`,
/// `llm_config`, `language_config` or `thinker_config.text_config`, else the root itself.
JsonReader find_text_config(const JsonReader& root);

/// `root`: the whole document. Throws Error(kBadInput) naming `file` and the key at fault.
ModelConfig parse_model_config(const Json& root, const std::string& file);

}  // namespace moe4
