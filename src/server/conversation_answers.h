// From a conversation to the requests for the engine and the readers of what it answers.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "server/answer.h"
#include "server/answer_reader.h"
#include "server/chat_request.h"
#include "server/serving.h"

namespace moe4::server {

struct ConversationAnswers {
  std::vector<AnswerRequest> answers;  ///< sampling.n of them
  std::vector<AnswerReader> readers;   ///< one each
  int64_t prompt_tokens = 0;
};

/// `max_tokens`: nothing asks for as many as there is room for. Throws as render_conversation() and
/// tokens_to_generate() do, and ApiError(400) for tools that the model has no known form for.
ConversationAnswers conversation_answers(const Serving& serving, const SamplingRequest& sampling,
                                         const ConversationRequest& conversation,
                                         std::optional<int64_t> max_tokens);

}  // namespace moe4::server
