// The body of POST /v1/responses.
#pragma once

#include <string>
#include <vector>

#include "server/chat_request.h"

namespace moe4::server {

/// Input and instructions are brought into the form of chat completions.
struct ResponsesRequest : SamplingRequest, ConversationRequest {
  std::string instructions;
  bool has_instructions = false;
  JsonValue metadata = JsonValue::object();
  JsonValue listed_tools = JsonValue::array();  ///< as they were given
  std::string reasoning_effort;
};

const Fields<ResponsesRequest>& responses_fields();

/// Throws ApiError(400). `unknown`: names of members that are no field.
ResponsesRequest parse_responses_request(const JsonValue& body, std::vector<std::string>& unknown);

}  // namespace moe4::server
