// One connection of the HTTP server, plain or TLS.
#pragma once

#include <atomic>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/ssl/context.hpp>
#include <chrono>
#include <functional>
#include <memory>

#include "server/http_server.h"

namespace moe4::server {

/// What connections have in common; outlives them.
struct ConnectionContext {
  HttpLimits limits;
  HttpServer::Callbacks callbacks;
  std::atomic<bool> draining = false;
  std::function<void()> on_closed;  ///< once a connection; on any thread of the server
};

/// Keeps itself alive while something is under way. Calls are thread-safe.
class Connection {
 public:
  virtual ~Connection() = default;
  virtual void start() = 0;
  /// Looks at its timeouts, and whether it may go while the server drains.
  virtual void tick() = 0;
  /// Closes it without a word.
  virtual void cut() = 0;
};

/// The socket's executor is a strand. `tls`: null for plain HTTP; outlives the connection.
std::shared_ptr<Connection> make_connection(boost::asio::ip::tcp::socket socket,
                                            boost::asio::ssl::context* tls,
                                            ConnectionContext& context);

}  // namespace moe4::server
