// The tokenizer that a GGUF file has among its metadata.
#pragma once

#include "gguf/metadata.h"
#include "text/tokenizer_parts.h"

namespace moe4 {

/// tokenizer.ggml.model "gpt2" (BPE over bytes, with `merges`) and a tokenizer.ggml.pre that is
/// known: files have the name of a pre-tokenizer instead of its pattern, which is the publisher's
/// here, with the normaliser of his tokenizer.json. Or "llama" (SentencePiece's BPE, with
/// `scores`). Tokens of type control are special, those that
/// a user defined are not; unused ones are no tokens. Throws Error(kBadInput) naming the file and
/// the key.
TokenizerParts read_gguf_tokenizer(const GgufMetadata& metadata);

}  // namespace moe4
