// Reads requests, hands them over one at a time, and sends what comes back. There always is a read
// under way, also while a request is answered: that is how a client that goes away is noticed.
#include "server/http_connection.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <boost/asio/buffer.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/ssl/stream.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http/message.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/status.hpp>
#include <boost/beast/http/string_body.hpp>
#include <cctype>
#include <optional>
#include <string>
#include <utility>

namespace moe4::server {
namespace {

namespace asio = boost::asio;
namespace http = boost::beast::http;
using asio::ip::tcp;
using boost::system::error_code;
using Clock = std::chrono::steady_clock;
using TlsStream = asio::ssl::stream<tcp::socket>;

constexpr size_t kReadBytes = 8 << 10;
constexpr size_t kReadAhead = 64 << 10;          // of requests that wait for the one being answered
constexpr int64_t kLeastBytesPerSecond = 16384;  // of a body, beyond HttpLimits::receive
constexpr std::chrono::seconds kLinger{2};       // for the client to read the last answer

tcp::socket& socket_of(tcp::socket& stream) { return stream; }
tcp::socket& socket_of(TlsStream& stream) { return stream.next_layer(); }

std::string lower(std::string_view text) {
  std::string out(text);
  std::transform(out.begin(), out.end(), out.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return out;
}

template <typename Fields>
HttpRequest to_request(const Fields& head) {
  HttpRequest request;
  request.method = std::string(head.method_string());
  std::string_view target = head.target();
  // "http://host/path" names the same as "/path".
  if (const size_t scheme = target.find("://"); !target.starts_with('/') && scheme != target.npos) {
    const size_t slash = target.find('/', scheme + 3);
    target = slash == target.npos ? "/" : target.substr(slash);
  }
  const size_t question = target.find('?');
  request.path = std::string(target.substr(0, question));
  if (question != target.npos) request.query = std::string(target.substr(question + 1));
  for (const auto& field : head) {
    request.headers.emplace_back(lower(field.name_string()), std::string(field.value()));
  }
  return request;
}

struct Refusal {
  int status;
  const char* message;
};

Refusal refusal_of(const error_code& error) {
  if (error == http::error::body_limit) return {413, "the body is too large"};
  if (error == http::error::header_limit) return {431, "the headers are too large"};
  return {400, "this is no HTTP request"};
}

template <typename Stream>
class ConnectionImpl final : public Connection,
                             public std::enable_shared_from_this<ConnectionImpl<Stream>> {
 public:
  template <typename... Args>
  ConnectionImpl(ConnectionContext& context, Args&&... args)
      : context_(context), stream_(std::forward<Args>(args)...) {}
  ~ConnectionImpl() override { context_.on_closed(); }

  void start() override {
    run([](auto& self) {
      error_code ignored;
      socket_of(self.stream_).set_option(tcp::no_delay(true), ignored);
      self.since_ = Clock::now();
      self.handshake();
    });
  }

  void tick() override {
    run([](auto& self) { self.check_time(Clock::now()); });
  }

  void cut() override {
    run([](auto& self) { self.close(); });
  }

 private:
  // What a handler holds to answer request number `number`.
  class Exchange final : public HttpExchange {
   public:
    Exchange(std::shared_ptr<ConnectionImpl> connection, uint64_t number)
        : connection_(std::move(connection)), number_(number) {}
    Exchange(const Exchange&) = delete;
    Exchange& operator=(const Exchange&) = delete;
    ~Exchange() override {
      answer([](auto& self) { self.close(); });  // nothing once the answer is complete
    }
    void respond(HttpResponse response) override {
      answer([response = std::move(response)](auto& self) mutable { self.respond(response); });
    }
    void begin_stream(HttpResponse head) override {
      answer([head = std::move(head)](auto& self) { self.begin_stream(head); });
    }
    void write(std::string piece) override {
      answer([piece = std::move(piece)](auto& self) { self.write_piece(piece); });
    }
    void finish() override {
      answer([](auto& self) { self.finish_stream(); });
    }
    void on_gone(std::function<void()> callback) override {
      connection_->run([callback = std::move(callback), number = number_](auto& self) mutable {
        if (self.closed_) {
          callback();
        } else if (self.busy_ && self.number_ == number) {
          self.on_gone_ = std::move(callback);
        }
      });
    }

   private:
    template <typename Fn>
    void answer(Fn fn) {
      connection_->run([fn = std::move(fn), number = number_](auto& self) mutable {
        if (!self.closed_ && self.busy_ && self.number_ == number) fn(self);
      });
    }

    const std::shared_ptr<ConnectionImpl> connection_;
    const uint64_t number_;
  };

  // fn(*this) on the strand.
  template <typename Fn>
  void run(Fn fn) {
    asio::post(stream_.get_executor(),
               [self = this->shared_from_this(), fn = std::move(fn)]() mutable { fn(*self); });
  }

  void handshake() {
    if constexpr (std::is_same_v<Stream, TlsStream>) {
      in_handshake_ = true;
      stream_.async_handshake(asio::ssl::stream_base::server,
                              [self = this->shared_from_this()](const error_code& error) {
                                self->in_handshake_ = false;
                                if (self->closed_) return;
                                if (error) return self->close();
                                self->read();
                              });
    } else {
      read();
    }
  }

  void read() {
    if (closed_ || reading_ || (busy_ && buffer_.size() >= kReadAhead)) return;
    reading_ = true;
    stream_.async_read_some(asio::buffer(input_), [self = this->shared_from_this()](
                                                      const error_code& error, size_t bytes) {
      self->reading_ = false;
      if (self->closed_) return;
      if (error) return self->client_gone();
      if (self->lingering_) return self->read();  // nobody wants it
      if (!self->busy_ && self->buffer_.size() == 0 && !self->parser_) {
        self->since_ = Clock::now();
      }
      asio::buffer_copy(self->buffer_.prepare(bytes), asio::buffer(self->input_, bytes));
      self->buffer_.commit(bytes);
      self->parse();
      self->read();
    });
  }

  // Takes one request out of what has been read, if it is there as a whole.
  void parse() {
    while (!busy_ && !closing_ && buffer_.size() > 0) {
      if (!parser_) {
        parser_.emplace();
        parser_->eager(true);
        parser_->header_limit(static_cast<uint32_t>(context_.limits.max_header));
        parser_->body_limit(context_.limits.max_body);
        has_head_ = false;
        received_ = 0;
      }
      error_code error;
      const size_t used = parser_->put(buffer_.data(), error);
      buffer_.consume(used);
      received_ += used;
      if (error && error != http::error::need_more) {
        const Refusal refusal = refusal_of(error);
        return refuse(refusal.status, refusal.message);
      }
      if (parser_->is_header_done() && !std::exchange(has_head_, true) && !take_head()) return;
      if (parser_->is_done()) return dispatch();
      if (used == 0) return;
    }
  }

  // False: the request was refused.
  bool take_head() {
    const auto& head = parser_->get();
    const bool has_body = !parser_->is_done();
    begin_answer();
    if (auto response = context_.callbacks.gate(to_request(head))) {
      if (has_body) close_after_answer();
      respond(*response);
      return false;
    }
    busy_ = false;
    if (has_body && lower(head[http::field::expect]) == "100-continue") {
      send("HTTP/1.1 100 Continue\r\n\r\n");
    }
    return true;
  }

  void begin_answer() {
    busy_ = true;
    ++number_;
    const auto& head = parser_->get();
    keep_alive_ = head.keep_alive();
    is_head_request_ = head.method() == http::verb::head;
    has_chunks_ = head.version() >= 11;
  }

  void dispatch() {
    begin_answer();
    HttpRequest request = to_request(parser_->get());
    request.body = std::move(parser_->get().body());
    parser_.reset();
    context_.callbacks.handle(std::move(request),
                              std::make_shared<Exchange>(this->shared_from_this(), number_));
  }

  // Of bytes that are no request that can be answered.
  void refuse(int status, const char* message) {
    busy_ = true;
    ++number_;
    is_head_request_ = false;
    close_after_answer();
    respond({.status = status, .body = context_.callbacks.error_body(status, message)});
  }

  void close_after_answer() { keep_alive_ = false; }

  std::string head_text(const HttpResponse& response) {
    if (context_.draining) close_after_answer();
    std::string text = fmt::format(
        "HTTP/1.1 {} {}\r\nServer: moe4\r\n", response.status,
        std::string_view(http::obsolete_reason(static_cast<http::status>(response.status))));
    if (response.status != 204) text += "Content-Type: " + response.content_type + "\r\n";
    for (const auto& [name, value] : response.headers) text += name + ": " + value + "\r\n";
    text += keep_alive_ ? "Connection: keep-alive\r\n" : "Connection: close\r\n";
    return text;
  }

  void respond(const HttpResponse& response) {
    std::string text = head_text(response);
    if (response.status != 204) text += fmt::format("Content-Length: {}\r\n", response.body.size());
    text += "\r\n";
    if (!is_head_request_) text += response.body;
    send(std::move(text));
    end_answer();
  }

  void begin_stream(const HttpResponse& response) {
    if (!has_chunks_) close_after_answer();
    std::string text = head_text(response);
    if (has_chunks_) text += "Transfer-Encoding: chunked\r\n";
    send(text + "\r\n");
  }

  void write_piece(const std::string& piece) {
    if (piece.empty()) return;
    if (out_.size() + sending_.size() - sent_ + piece.size() > context_.limits.max_unsent) {
      return client_gone();  // it does not read
    }
    send(has_chunks_ ? fmt::format("{:x}\r\n{}\r\n", piece.size(), piece) : piece);
  }

  void finish_stream() {
    if (has_chunks_) send("0\r\n\r\n");
    end_answer();
  }

  void end_answer() {
    busy_ = false;
    on_gone_ = nullptr;
    parser_.reset();
    since_ = Clock::now();
    if (!keep_alive_) {
      closing_ = true;
      if (sending_.empty()) linger();
      return;
    }
    // The next request may have been read already; on the strand, but not deeper on its stack.
    run([](auto& self) {
      if (self.closed_) return;
      self.parse();
      self.read();
    });
  }

  void send(std::string text) {
    if (out_.empty()) {
      out_ = std::move(text);
    } else {
      out_ += text;
    }
    if (sending_.empty()) send_next();
  }

  void send_next() {
    if (sent_ == sending_.size()) {
      sending_ = std::exchange(out_, {});
      sent_ = 0;
      sent_at_ = Clock::now();
    }
    if (sending_.empty()) {
      if (closing_) linger();
      return;
    }
    stream_.async_write_some(
        asio::buffer(sending_.data() + sent_, sending_.size() - sent_),
        [self = this->shared_from_this()](const error_code& error, size_t bytes) {
          if (self->closed_) return;
          if (error) return self->client_gone();
          self->sent_ += bytes;
          self->sent_at_ = Clock::now();
          self->send_next();
        });
  }

  // All is sent. A socket that is closed with unread bytes resets the connection, and the client
  // may lose the answer: it is given time to read it.
  void linger() {
    if (std::exchange(lingering_, true)) return;
    since_ = Clock::now();
    buffer_.consume(buffer_.size());
    if constexpr (std::is_same_v<Stream, TlsStream>) {
      stream_.async_shutdown(
          [self = this->shared_from_this()](const error_code&) { self->close(); });
    } else {
      error_code ignored;
      stream_.shutdown(tcp::socket::shutdown_send, ignored);
      read();
    }
  }

  void client_gone() {
    const auto callback = std::exchange(on_gone_, nullptr);
    close();
    if (callback) callback();
  }

  void close() {
    if (std::exchange(closed_, true)) return;
    error_code ignored;
    socket_of(stream_).close(ignored);
    if (const auto callback = std::exchange(on_gone_, nullptr)) callback();
  }

  void check_time(Clock::time_point now) {
    if (closed_) return;
    const HttpLimits& limits = context_.limits;
    const auto waited = now - since_;
    if (lingering_) {
      if (waited > kLinger) close();
      return;
    }
    if (in_handshake_) {
      if (waited > limits.receive) close();
      return;
    }
    if (!sending_.empty()) {
      if (now - sent_at_ > limits.send) client_gone();
      return;
    }
    if (busy_) return;
    if (parser_) {
      const std::chrono::seconds more(
          has_head_ ? static_cast<int64_t>(received_) / kLeastBytesPerSecond : 0);
      if (waited > limits.receive + more) refuse(408, "the request did not arrive in time");
    } else if (waited > limits.idle || context_.draining) {
      close();
    }
  }

  ConnectionContext& context_;
  Stream stream_;
  std::array<char, kReadBytes> input_;  // of the read under way
  boost::beast::flat_buffer buffer_;    // what came and is not parsed yet
  std::optional<http::request_parser<http::string_body>> parser_;  // of a request that has begun
  bool has_head_ = false;                                          // of it
  size_t received_ = 0;                                            // bytes of it
  Clock::time_point since_;  // begin of the request, or of waiting for one, or of lingering

  bool busy_ = false;  // a request is being answered
  uint64_t number_ = 0;
  bool keep_alive_ = true, is_head_request_ = false, has_chunks_ = true;
  std::function<void()> on_gone_;

  std::string out_, sending_;  // to be sent after what is being sent
  size_t sent_ = 0;            // of sending_
  Clock::time_point sent_at_;

  bool reading_ = false, in_handshake_ = false;
  bool closing_ = false;  // once all is sent
  bool lingering_ = false, closed_ = false;
};

}  // namespace

std::shared_ptr<Connection> make_connection(tcp::socket socket, asio::ssl::context* tls,
                                            ConnectionContext& context) {
  if (tls != nullptr) {
    return std::make_shared<ConnectionImpl<TlsStream>>(context, std::move(socket), *tls);
  }
  return std::make_shared<ConnectionImpl<tcp::socket>>(context, std::move(socket));
}

}  // namespace moe4::server
