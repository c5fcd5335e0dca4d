// One HTTP request and the way to answer it, whatever carries them.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace moe4::server {

using HttpHeaders = std::vector<std::pair<std::string, std::string>>;

struct HttpRequest {
  std::string method;
  std::string path;     ///< decoded no further than cut at '?'
  std::string query;    ///< after '?'
  HttpHeaders headers;  ///< names in lower case
  std::string body;     ///< at most HttpLimits::max_body bytes

  /// The first header of this name (lower case); nothing when there is none.
  std::optional<std::string_view> header(std::string_view name) const;
};

struct HttpResponse {
  int status = 200;
  std::string content_type = "application/json";
  std::string body;
  HttpHeaders headers;  ///< beside content type and length
};

/// Answers one request: respond() once, or begin_stream(), any number of write() and finish().
/// Thread-safe; calls after the client has gone do nothing. May be dropped without an answer, which
/// closes the connection.
class HttpExchange {
 public:
  virtual ~HttpExchange() = default;
  virtual void respond(HttpResponse response) = 0;
  virtual void begin_stream(HttpResponse head) = 0;
  /// A piece of the body. A client that does not read what it is sent is given up.
  virtual void write(std::string piece) = 0;
  virtual void finish() = 0;
  /// Called once on a thread of the server when the client has gone before the answer was complete;
  /// at once when it already has. Must not throw. Replaces what was set before.
  virtual void on_gone(std::function<void()> callback) = 0;
};

}  // namespace moe4::server
