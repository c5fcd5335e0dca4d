// Kimi's tokenizer: tiktoken.model instead of tokenizer.json.
#pragma once

#include <string>
#include <string_view>

#include "text/tokenizer_parts.h"

namespace moe4 {

/// A file of a tokenizer, and its name for messages.
struct TokenizerFile {
  std::string_view text;
  std::string name;
};

/// `ranks`: tiktoken.model, a line a token, its bytes in base64 and its id, in order of ids from 0.
/// `config`: tokenizer_config.json, whose added_tokens_decoder names some of the 256 special tokens
/// behind them (the others are <|reserved_token_ID|>). Where text is split is Kimi's Python code,
/// so other values of tokenizer_class than its TikTokenTokenizer are refused. Throws
/// Error(kBadInput).
TokenizerParts read_tiktoken_model(const TokenizerFile& ranks, const TokenizerFile& config);

}  // namespace moe4
