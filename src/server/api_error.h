// Errors as clients of OpenAI's API know them.
#pragma once

#include <stdexcept>
#include <string>

namespace moe4::server {

/// What a request is refused with: an HTTP status and OpenAI's error object.
class ApiError : public std::runtime_error {
 public:
  /// `param`: the field that is wrong, "messages[2].content"; empty when it is none.
  ApiError(int status, const std::string& message, std::string param = {});

  int status() const { return status_; }
  const std::string& param() const { return param_; }
  /// "invalid_request_error", "authentication_error", ...
  const char* type() const;
  /// {"error": {"message", "type", "param", "code"}}
  std::string body() const;

 private:
  int status_;
  std::string param_;
};

/// What was thrown while a request was served: a fault of the request's input keeps its message, a
/// fault of ours is 500.
ApiError to_api_error(const std::exception& error);

}  // namespace moe4::server
