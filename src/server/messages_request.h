// The body of POST /v1/messages, Anthropic's form of a conversation.
#pragma once

#include <string>
#include <vector>

#include "server/chat_request.h"

namespace moe4::server {

/// Contents of messages and tools are brought into the form of chat completions.
struct MessagesRequest : SamplingRequest, ConversationRequest {
  std::string system;
  bool thinks = true;  ///< the answer's reasoning is part of the reply
};

const Fields<MessagesRequest>& messages_fields();

/// Throws ApiError(400). `unknown`: names of members that are no field.
MessagesRequest parse_messages_request(const JsonValue& body, std::vector<std::string>& unknown);

}  // namespace moe4::server
