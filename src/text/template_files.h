// Where a checkpoint keeps its chat templates and the special tokens that they may print.
#pragma once

#include <filesystem>
#include <string>
#include <utility>
#include <vector>

namespace moe4 {

struct NamedTemplate {
  std::string name;  // "default", "tool_use", "rag", ...
  std::string source;
  std::string file;
};

/// All templates of the first place that has any: chat_template.jinja with
/// additional_chat_templates/NAME.jinja; `chat_template` in tokenizer_config.json (a string, a list
/// of {name, template} or an object of them); the same key in chat_template.json. Without any, the
/// one that moe4 has for the model_type of config.json (builtin_templates.h). Empty when there are
/// none. Of a GGUF file, those of its metadata, else moe4's for its architecture. Throws
/// Error(kBadInput) for files that cannot be read or are something else.
std::vector<NamedTemplate> find_templates(const std::filesystem::path& directory);

/// bos_token, eos_token, ... as transformers passes them to the template: JSON by name, a string or
/// (additional_special_tokens) a list of strings. From tokenizer_config.json, and from
/// special_tokens_map.json for checkpoints older than `added_tokens_decoder`.
std::vector<std::pair<std::string, std::string>> find_special_tokens(
    const std::filesystem::path& directory);

}  // namespace moe4
