// The tokenizer of synthetic checkpoints, in which every id has a text.
#pragma once

#include <cstdint>
#include <string>

namespace moe4 {

inline constexpr int32_t kSynthPadToken = 256;   ///< <|endoftext|>
inline constexpr int32_t kSynthEosToken = 257;   ///< <|im_end|>
inline constexpr int64_t kSynthFewestIds = 259;  ///< bytes and special tokens

/// tokenizer.json of a byte-level BPE with ids below `vocab_size`, which is at least
/// kSynthFewestIds: the 256 bytes, three special tokens, and words of a space and letters (" a" to
/// " z", " aa", ...). Words that stand behind each other encode to the ids that they were decoded
/// from.
std::string synth_tokenizer_json(int64_t vocab_size);

}  // namespace moe4
