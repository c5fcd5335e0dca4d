// HTTP/1.1 on a few threads: connections, limits, timeouts, TLS and the way down.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "server/http_exchange.h"

namespace moe4::server {

struct HttpLimits {
  size_t max_header = 32 << 10;         ///< bytes of request line and headers
  size_t max_body = size_t{32} << 20;   ///< bytes
  size_t max_unsent = size_t{4} << 20;  ///< bytes of a stream that the client has not taken
  int64_t max_connections = 8192;       ///< more wait until one is closed
  std::chrono::seconds receive{30};     ///< for a request, once it has begun: headers, then body
  std::chrono::seconds idle{75};        ///< between requests
  std::chrono::seconds send{60};        ///< without any progress
};

struct HttpServerOptions {
  std::string host = "127.0.0.1";
  uint16_t port = 8000;  ///< 0: any that is free
  int threads = 2;
  HttpLimits limits;
  std::string certificate_file, key_file;  ///< PEM; both or none. With them, HTTPS alone
};

/// What answers requests; called on the server's threads. Must not throw.
using HttpHandler = std::function<void(HttpRequest, std::shared_ptr<HttpExchange>)>;
/// Looks at a request whose body has not been read (and is empty here): a response refuses it.
using HttpGate = std::function<std::optional<HttpResponse>(const HttpRequest&)>;
/// The body of a response to what is no request that can be answered: 400, 408, 413, 431.
using HttpErrorBody = std::function<std::string(int status, const std::string& message)>;

class HttpServer {
 public:
  struct Callbacks {
    HttpHandler handle;
    HttpGate gate;
    HttpErrorBody error_body;
  };

  /// Binds and listens. Throws Error(kUnavailable) for an address that cannot be had and
  /// Error(kBadInput) for a certificate or key that cannot be used.
  HttpServer(HttpServerOptions options, Callbacks callbacks);
  ~HttpServer();
  HttpServer(const HttpServer&) = delete;
  HttpServer& operator=(const HttpServer&) = delete;

  uint16_t port() const;
  int64_t num_connections() const;

  /// Serves until stop() has done its work. `on_signal(n)` is called for the n-th SIGINT or
  /// SIGTERM, from 1.
  void run(const std::function<void(int)>& on_signal);
  /// No new connections, and none is kept for another request; run() returns when the last answer
  /// has been sent. Thread-safe.
  void drain();
  /// run() returns at once; connections are cut. Thread-safe.
  void stop();

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace moe4::server
