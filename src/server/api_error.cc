// Error objects and their HTTP status.
#include "server/api_error.h"

#include <new>
#include <utility>

#include "base/error.h"
#include "server/json_text.h"

namespace moe4::server {

ApiError::ApiError(int status, const std::string& message, std::string param)
    : std::runtime_error(message), status_(status), param_(std::move(param)) {}

const char* ApiError::type() const {
  switch (status_) {
    case 401:
      return "authentication_error";
    case 404:
      return "not_found_error";
    case 429:
      return "rate_limit_error";
    case 503:
      return "service_unavailable_error";
    default:
      return status_ < 500 ? "invalid_request_error" : "internal_server_error";
  }
}

std::string ApiError::body() const {
  std::string text = R"({"error": {"message": )";
  append_json_string(text, what());
  text += R"(, "type": )";
  append_json_string(text, type());
  text += R"(, "param": )";
  if (param_.empty()) {
    text += "null";
  } else {
    append_json_string(text, param_);
  }
  return text + R"(, "code": )" + std::to_string(status_) + "}}";
}

ApiError to_api_error(const std::exception& error) {
  if (const auto* api = dynamic_cast<const ApiError*>(&error)) return *api;
  if (const auto* own = dynamic_cast<const Error*>(&error)) {
    switch (own->code()) {
      case ErrorCode::kUsage:
      case ErrorCode::kBadInput:
        return {400, own->what()};
      case ErrorCode::kUnavailable:
        return {503, own->what()};
      case ErrorCode::kInternal:
        break;
    }
    return {500, own->what()};
  }
  if (dynamic_cast<const std::bad_alloc*>(&error) != nullptr) {
    return {503, "not enough memory for this request"};
  }
  return {500, std::string("internal: ") + error.what()};
}

}  // namespace moe4::server
