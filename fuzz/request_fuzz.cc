// Any bytes as the body of every request.
#include <cstdint>
#include <cstdlib>
#include <string>
#include <vector>

#include "server/api_error.h"
#include "server/chat_request.h"
#include "server/completion_request.h"
#include "server/messages_request.h"
#include "server/responses_request.h"
#include "server/token_requests.h"

namespace {

using moe4::server::ApiError;

// Refusals are 400 and their object is JSON.
template <typename Fn>
void only_refusals(const Fn& fn) {
  try {
    fn();
  } catch (const ApiError& error) {
    if (error.status() != 400) std::abort();
    if (!moe4::server::parse_body(error.body())["error"]["message"].is_string()) std::abort();
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  namespace server = moe4::server;
  const std::string text(reinterpret_cast<const char*>(data), size);
  only_refusals([&] {
    const server::JsonValue body = server::parse_body(text);
    if (server::parse_body(server::dump(body)) != body) std::abort();
    std::vector<std::string> unknown;
    only_refusals([&] {
      const auto request = server::parse_completion_request(body, unknown);
      server::to_generate_request(request, {}, 100, request.max_tokens.value_or(16), 0);
    });
    only_refusals([&] {
      const auto request = server::parse_chat_request(body, unknown);
      server::to_generate_request(request, {}, 100, request.max_tokens.value_or(16), 0);
      server::dump(request.messages);
    });
    only_refusals([&] { server::parse_messages_request(body, unknown); });
    only_refusals([&] { server::parse_responses_request(body, unknown); });
    only_refusals([&] { server::parse_tokenize_request(body, unknown); });
    only_refusals([&] { server::parse_detokenize_request(body, unknown); });
  });
  return 0;
}
