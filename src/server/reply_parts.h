// Parts that the replies of several endpoints have: usage, logprobs, the reason of an end.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "server/answer.h"
#include "server/serving.h"

namespace moe4::server {

struct Usage {
  int64_t prompt_tokens = 0, completion_tokens = 0, cached_tokens = 0;
};

/// {"prompt_tokens": ..., "prompt_tokens_details": {"cached_tokens": ...}}
void append_usage(std::string& out, const Usage& usage);

/// "finish_reason": "stop", "stop_reason": what ended it
void append_finish(std::string& out, const char* finish_reason, const AnswerResult& result);

/// The text that ended an answer, for include_stop_str_in_output.
std::string stop_text(const Serving& serving, const AnswerResult& result);

/// {"content": [{"token", "logprob", "bytes", "top_logprobs"}]}
void append_chat_logprobs(std::string& out, const Serving& serving,
                          const std::vector<ChosenToken>& tokens, bool as_ids);

/// {"tokens", "token_logprobs", "top_logprobs", "text_offset"}; offsets count characters and go on
/// from call to call.
class CompletionLogprobs {
 public:
  CompletionLogprobs(const Serving& serving, bool as_ids) : serving_(serving), as_ids_(as_ids) {}
  void append(std::string& out, const std::vector<ChosenToken>& tokens);

 private:
  const Serving& serving_;
  bool as_ids_;
  int64_t offset_ = 0;
};

}  // namespace moe4::server
