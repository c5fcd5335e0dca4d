// The body of POST /v1/completions.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "server/sampling_request.h"

namespace moe4::server {

/// Text, or token ids.
using Prompt = std::variant<std::string, std::vector<int32_t>>;

struct CompletionRequest : SamplingRequest {
  std::vector<Prompt> prompts;      ///< at least one
  std::optional<int64_t> logprobs;  ///< of chosen tokens, with so many of the likeliest
  bool echo = false;                ///< the answer begins with the prompt
};

const Fields<CompletionRequest>& completion_fields();

/// Throws ApiError(400). `unknown`: names of members that are no field.
CompletionRequest parse_completion_request(const JsonValue& body,
                                           std::vector<std::string>& unknown);

}  // namespace moe4::server
