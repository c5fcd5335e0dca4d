// Builds the parts of a tokenizer from the sections of tokenizer.json, refusing what it does not
// know.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "text/added_tokens.h"
#include "text/bpe_model.h"
#include "text/normalizer.h"
#include "text/pre_tokenizer.h"
#include "text/token_decoder.h"
#include "text/tokenizer_json.h"

namespace moe4 {

struct TokenizerParts {
  Normalizer normalizer;
  PreTokenizer pre_tokenizer;
  BpeModel model;
  AddedTokens added;
  TokenDecoder decoder;
};

/// `bulk` and `tree`: the file in its two parts, as read_tokenizer_json() has them.
TokenizerParts make_tokenizer_parts(const TokenizerJson& bulk, const nlohmann::json& tree,
                                    const std::string& name);

/// `name` is for messages. Throws Error(kBadInput) naming the first construct that is not
/// supported.
TokenizerParts read_tokenizer_parts(std::string_view text, const std::string& name);

}  // namespace moe4
