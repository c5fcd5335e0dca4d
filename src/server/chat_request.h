// The body of POST /v1/chat/completions.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "server/sampling_request.h"

namespace moe4::server {

/// What a chat template is rendered with; also the body of /tokenize and /apply-template.
struct ConversationRequest {
  /// [{"role", "content", ...}]; contents are text or null, arguments of tool calls are objects.
  JsonValue messages = JsonValue::array();
  JsonValue tools;  ///< OpenAI's list; null: none
  /// "auto", "none", "required", or {"type": "function", "function": {"name": ...}}.
  JsonValue tool_choice = "auto";
  bool parallel_tool_calls = true;
  JsonValue documents;  ///< null: none
  JsonValue template_variables = JsonValue::object();
  bool add_generation_prompt = true;
  bool continue_final_message = false;
};

struct ChatRequest : SamplingRequest, ConversationRequest {
  std::optional<int64_t> max_completion_tokens;
  bool logprobs = false;
  int64_t top_logprobs = 0;
};

const Fields<ConversationRequest>& conversation_fields();
const Fields<ChatRequest>& chat_fields();

/// Throws ApiError(400). `unknown`: names of members that are no field.
ChatRequest parse_chat_request(const JsonValue& body, std::vector<std::string>& unknown);

/// The name in a choice of one function. Throws ApiError(400) for something else.
std::string chosen_function(const JsonValue& choice);

/// Throws ApiError(400) for a choice that is not supported.
void check_tool_choice(const ConversationRequest& request);

/// One message as templates want it. `name`: "messages[3]", for errors, which are ApiError(400).
JsonValue normalized_message(const JsonValue& message, const std::string& name);

}  // namespace moe4::server
