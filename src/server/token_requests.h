// The bodies of POST /tokenize and /detokenize.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "server/chat_request.h"

namespace moe4::server {

/// A text, or a conversation that the template makes one of.
struct TokenizeRequest : ConversationRequest {
  std::string model;
  std::string prompt;
  bool has_prompt = false;
  bool return_token_strs = false;
};

struct DetokenizeRequest {
  std::string model;
  std::vector<int32_t> tokens;
};

const Fields<TokenizeRequest>& tokenize_fields();
const Fields<DetokenizeRequest>& detokenize_fields();

/// Throw ApiError(400).
TokenizeRequest parse_tokenize_request(const JsonValue& body, std::vector<std::string>& unknown);
DetokenizeRequest parse_detokenize_request(const JsonValue& body,
                                           std::vector<std::string>& unknown);

}  // namespace moe4::server
