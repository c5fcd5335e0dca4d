// What a GGUF file says in the place of a folder's small JSON files.
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <utility>
#include <vector>

namespace moe4 {

/// Of the first file of a model. All throw Error(kBadInput) naming the file and the key.

/// As tokenizer_config.json: `bos_token` and its kin as texts, `chat_template` as a text or as a
/// list of {name, template}.
nlohmann::json gguf_tokenizer_config(const std::filesystem::path& path);

/// general.architecture; empty when absent.
std::string gguf_architecture_name(const std::filesystem::path& path);

/// As generation_config.json, out of `general.sampling.*`; empty when there is nothing.
nlohmann::json gguf_generation_config(const std::filesystem::path& path);

/// The ids of tokens that end a turn, with their keys.
std::vector<std::pair<int64_t, std::string>> gguf_end_tokens(const std::filesystem::path& path);

}  // namespace moe4
