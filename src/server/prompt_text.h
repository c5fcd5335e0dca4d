// From conversations and prompts to token ids, and from tokens to text.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "server/chat_request.h"
#include "server/completion_request.h"
#include "server/serving.h"

namespace moe4::server {

/// The prompt that the chat template makes. Throws ApiError(400) without a template, and
/// Error(kBadInput) for what the template refuses.
std::string render_conversation(const Serving& serving, const ConversationRequest& request);

/// Throws ApiError(400) naming the field for ids outside the vocabulary.
std::vector<int32_t> prompt_ids(const Tokenizer& tokenizer, int64_t vocab_size,
                                const Prompt& prompt, const std::string& name);

/// How many tokens may be generated: `asked`, else `fallback` as far as there is room. Throws
/// ApiError(400) for a prompt that is empty or leaves no room, and for `asked` beyond it.
int64_t tokens_to_generate(int64_t max_model_len, int64_t prompt_tokens,
                           std::optional<int64_t> asked, std::optional<int64_t> fallback,
                           const std::string& prompt_name);

/// One token as text, special ones too; bytes that are no text by themselves become U+FFFD.
std::string token_text(const Serving& serving, int32_t id);

}  // namespace moe4::server
