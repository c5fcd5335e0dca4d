// Reads the normalizer, the pre_tokenizer and the decoder of tokenizer.json.
#pragma once

#include "text/normalizer.h"
#include "text/pre_tokenizer.h"
#include "text/token_decoder.h"
#include "text/tokenizer_section.h"

namespace moe4 {

// All throw Error(kBadInput) naming the first construct that is not supported.
Normalizer read_normalizer(const TokenizerSection& section);
PreTokenizer read_pre_tokenizer(const TokenizerSection& section);
/// `byte_level`: the model is one of bytes, which only a ByteLevel decoder spells out.
TokenDecoder read_decoder(const TokenizerSection& section, bool byte_level);

}  // namespace moe4
