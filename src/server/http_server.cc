// Accepts connections and looks after them.
#include "server/http_server.h"

#include <openssl/ssl.h>
#include <sys/resource.h>

#include <algorithm>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/signal_set.hpp>
#include <boost/asio/ssl/context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/strand.hpp>
#include <csignal>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "base/error.h"
#include "server/http_connection.h"

namespace moe4::server {

namespace asio = boost::asio;
using asio::ip::tcp;
using boost::system::error_code;

std::optional<std::string_view> HttpRequest::header(std::string_view name) const {
  for (const auto& [key, value] : headers) {
    if (key == name) return value;
  }
  return std::nullopt;
}

namespace {

constexpr std::chrono::milliseconds kTick{250};

// A connection is a file: as many as the system allows.
void raise_file_limit() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
}

std::unique_ptr<asio::ssl::context> make_tls(const HttpServerOptions& options) {
  if (options.certificate_file.empty()) return nullptr;
  auto tls = std::make_unique<asio::ssl::context>(asio::ssl::context::tls_server);
  SSL_CTX_set_min_proto_version(tls->native_handle(), TLS1_2_VERSION);
  error_code error;
  tls->use_certificate_chain_file(options.certificate_file, error);
  if (error) {
    throw_bad_input({.what = "cannot use the certificate",
                     .file = options.certificate_file,
                     .expected = "a chain of certificates in PEM",
                     .found = error.message()});
  }
  tls->use_private_key_file(options.key_file, asio::ssl::context::pem, error);
  if (error) {
    throw_bad_input({.what = "cannot use the private key",
                     .file = options.key_file,
                     .expected = "a key in PEM, without a password, of the certificate",
                     .found = error.message()});
  }
  return tls;
}

}  // namespace

class HttpServer::Impl {
 public:
  Impl(HttpServerOptions options, Callbacks callbacks)
      : options_(std::move(options)),
        tls_(make_tls(options_)),
        acceptor_(asio::make_strand(io_)),
        timer_(acceptor_.get_executor()),
        signals_(acceptor_.get_executor()) {
    context_.limits = options_.limits;
    context_.callbacks = std::move(callbacks);
    context_.on_closed = [this] { --num_connections_; };
    raise_file_limit();
    listen();
  }

  uint16_t port() const { return port_; }
  int64_t num_connections() const { return num_connections_; }

  void run(const std::function<void(int)>& on_signal) {
    on_signal_ = on_signal;
    signals_.add(SIGINT);
    signals_.add(SIGTERM);
    wait_for_signal();
    asio::post(acceptor_.get_executor(), [this] {
      accept();
      tick();
    });
    std::vector<std::thread> threads;
    for (int i = 1; i < options_.threads; ++i) threads.emplace_back([this] { io_.run(); });
    io_.run();
    for (std::thread& thread : threads) thread.join();
  }

  void drain() {
    context_.draining = true;
    asio::post(acceptor_.get_executor(), [this] {
      error_code ignored;
      acceptor_.close(ignored);
    });
  }

  void stop() { io_.stop(); }

 private:
  void listen() {
    const auto refuse = [&](const error_code& error) {
      throw Error(ErrorCode::kUnavailable,
                  "cannot listen on " + options_.host + " port " + std::to_string(options_.port) +
                      ": " + error.message() + "; choose another with --host and --port");
    };
    error_code error;
    tcp::resolver resolver(io_);
    const auto found = resolver.resolve(options_.host, std::to_string(options_.port),
                                        tcp::resolver::passive, error);
    if (error || found.empty()) refuse(error);
    const tcp::endpoint endpoint = *found.begin();
    acceptor_.open(endpoint.protocol(), error);
    if (error) refuse(error);
    acceptor_.set_option(tcp::acceptor::reuse_address(true), error);
    acceptor_.bind(endpoint, error);
    if (error) refuse(error);
    acceptor_.listen(4096, error);
    if (error) refuse(error);
    port_ = acceptor_.local_endpoint().port();
  }

  void accept() {
    if (!acceptor_.is_open()) return;
    if (num_connections_ >= options_.limits.max_connections) {
      is_full_ = true;  // the next tick looks again
      return;
    }
    acceptor_.async_accept(
        asio::make_strand(io_), [this](const error_code& error, tcp::socket socket) {
          if (!acceptor_.is_open()) return;
          if (error) {
            is_full_ = true;  // out of files, for instance
            return;
          }
          ++num_connections_;
          auto connection = make_connection(std::move(socket), tls_.get(), context_);
          connections_.push_back(connection);
          connection->start();
          accept();
        });
  }

  void tick() {
    std::erase_if(connections_, [](const auto& connection) { return connection.expired(); });
    for (const auto& weak : connections_) {
      if (const auto connection = weak.lock()) connection->tick();
    }
    if (context_.draining && connections_.empty()) return stop();
    if (std::exchange(is_full_, false)) accept();
    timer_.expires_after(kTick);
    timer_.async_wait([this](const error_code& error) {
      if (!error) tick();
    });
  }

  void wait_for_signal() {
    signals_.async_wait([this](const error_code& error, int) {
      if (error) return;
      on_signal_(++num_signals_);
      wait_for_signal();
    });
  }

  const HttpServerOptions options_;
  std::unique_ptr<asio::ssl::context> tls_;
  std::atomic<int64_t> num_connections_ = 0;
  ConnectionContext context_;
  asio::io_context io_;  // its destructor drops connections, which look at what is above
  tcp::acceptor acceptor_;
  asio::steady_timer timer_;
  asio::signal_set signals_;
  uint16_t port_ = 0;
  std::function<void(int)> on_signal_;
  int num_signals_ = 0;
  bool is_full_ = false;
  std::vector<std::weak_ptr<Connection>> connections_;  // of the acceptor's strand
};

HttpServer::HttpServer(HttpServerOptions options, Callbacks callbacks)
    : impl_(std::make_unique<Impl>(std::move(options), std::move(callbacks))) {}
HttpServer::~HttpServer() = default;
uint16_t HttpServer::port() const { return impl_->port(); }
int64_t HttpServer::num_connections() const { return impl_->num_connections(); }
void HttpServer::run(const std::function<void(int)>& on_signal) { impl_->run(on_signal); }
void HttpServer::drain() { impl_->drain(); }
void HttpServer::stop() { impl_->stop(); }

}  // namespace moe4::server
