// Mistral's tokenizer: tekken.json instead of tokenizer.json.
#pragma once

#include "text/tiktoken_model.h"
#include "text/tokenizer_parts.h"

namespace moe4 {

/// `file`: tokens in base64 in order of their ranks, the pattern that splits text, and how many of
/// the first ids are special tokens (those without a name are <SPECIAL_ID>; files without a list of
/// them have the 20 of before there was one). Special tokens inside a text become their ids, as
/// with the tokenizer.json of the same models; mistral-common would spell them out. Throws
/// Error(kBadInput).
TokenizerParts read_tekken_model(const TokenizerFile& file);

}  // namespace moe4
