// What a checkpoint says about generation when the user says nothing: settings and end tokens.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "checkpoint/generation_config.h"
#include "text/tokenizer.h"

namespace moe4 {

/// A token that ends a turn, and the files that say so.
struct StopToken {
  int32_t id = 0;
  std::string text;                  ///< as in the vocabulary, maybe empty
  std::vector<std::string> sources;  ///< "generation_config.json", "config.json", ...
};

struct GenerationDefaults {
  GenerationConfig config;
  /// The union of generation_config.json, config.json (nested language models included) and the
  /// tokenizer's eos_token (tokenizer_config.json, special_tokens_map.json): publishers forget the
  /// chat's end token in any of them. In that order, each id once. Ordinary text in config.json is
  /// no end where generation_config.json names a special token (MiniMax-M2). A vocabulary of the
  /// harmony format (gpt-oss) adds its ends of a turn, <|return|> and <|call|>, and never stops at
  /// <|end|>, which closes a channel.
  std::vector<StopToken> stop_tokens;
  std::vector<CheckpointNote> notes;  ///< what was not used, and why

  std::vector<int32_t> stop_token_ids() const;
};

/// Never fails for what the files hold. `vocab_size`: of the model; ids from there up get a note.
GenerationDefaults read_generation_defaults(const std::filesystem::path& directory,
                                            const Tokenizer& tokenizer, int64_t vocab_size);

/// "258 '<|im_end|>' (config.json, tokenizer_config.json); 256 ...", or that there is none.
std::string to_string(const std::vector<StopToken>& stop_tokens);

}  // namespace moe4
