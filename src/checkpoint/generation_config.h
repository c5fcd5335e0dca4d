// What a publisher advises about generation: generation_config.json and the end tokens of
// config.json. Advice never stands in the way: what cannot be used becomes a note.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "checkpoint/json_reader.h"

namespace moe4 {

/// generation_config.json; what is missing, null or unusable leaves the default.
struct GenerationConfig {
  std::vector<int32_t> eos_token_ids;
  bool do_sample = false;
  float temperature = 1.0f;
  int64_t top_k = 0;  ///< 0: no limit; -1 in the file means the same
  float top_p = 1.0f;
  float min_p = 0.0f;
  float repetition_penalty = 1.0f;
};

/// `directory`/generation_config.json, or general.sampling.* of a GGUF file. Throws nothing but for
/// lack of memory: a file that cannot be read or parsed, a value of the wrong type or out of range,
/// and a setting that moe4 does not apply each become one note that names the file.
GenerationConfig read_generation_config(const std::filesystem::path& directory,
                                        std::vector<CheckpointNote>& notes);
/// The same of a parsed document; `file` is for the notes.
GenerationConfig parse_generation_config(const Json& root, const std::string& file,
                                         std::vector<CheckpointNote>& notes);

/// eos_token_id of `directory`/config.json, at the top level and in the language models that
/// wrappers nest, in that order and without repetitions; of a GGUF file tokenizer.ggml.e*_token_id.
/// Unusable values become notes.
std::vector<int32_t> read_config_eos_ids(const std::filesystem::path& directory,
                                         std::vector<CheckpointNote>& notes);

/// The text of `eos_token` in `file` (tokenizer_config.json, special_tokens_map.json): a string or
/// an object with `content`. Empty when the file or the key is missing; unusable ones become notes.
std::string read_eos_token(const std::filesystem::path& file, std::vector<CheckpointNote>& notes);

}  // namespace moe4
