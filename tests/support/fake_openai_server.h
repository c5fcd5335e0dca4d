// A small HTTP server for tests of clients: answers as a function says, a thread a connection.
#pragma once

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base/error.h"

namespace moe4::testing {

class FakeOpenAiServer {
 public:
  struct Request {
    std::string head, body;  // the head with the request's line
  };
  class Connection {
   public:
    explicit Connection(int socket) : socket_(socket) {}
    void write(const std::string& text) const {
      // A client that has gone is no failure of the server.
      [[maybe_unused]] const ssize_t sent = send(socket_, text.data(), text.size(), MSG_NOSIGNAL);
    }
    /// The head of a chunked stream of events, an event, and the end.
    void begin_stream() const {
      write(
          "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: "
          "chunked\r\n\r\n");
    }
    void event(const std::string& data) const {
      const std::string text = "data: " + data + "\n\n";
      char size[32];
      snprintf(size, sizeof size, "%zx\r\n", text.size());
      write(size + text + "\r\n");
    }
    void end_stream() const { write("0\r\n\r\n"); }
    void reply(int status, const std::string& body) const {
      write("HTTP/1.1 " + std::to_string(status) + " X\r\nContent-Type: application/json\r\n" +
            "Content-Length: " + std::to_string(body.size()) + "\r\n\r\n" + body);
    }

   private:
    int socket_;
  };
  using Answer = std::function<void(const Request&, const Connection&)>;

  explicit FakeOpenAiServer(Answer answer) : answer_(std::move(answer)) {
    listener_ = socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    auto* const plain = reinterpret_cast<sockaddr*>(&address);
    MOE4_CHECK(bind(listener_, plain, size) == 0 && listen(listener_, 64) == 0);
    MOE4_CHECK(getsockname(listener_, plain, &size) == 0);
    port_ = ntohs(address.sin_port);
    acceptor_ = std::thread([this] { accept_all(); });
  }
  ~FakeOpenAiServer() {
    shutdown(listener_, SHUT_RDWR);
    acceptor_.join();
    for (std::thread& thread : threads_) thread.join();
    close(listener_);
  }
  FakeOpenAiServer(const FakeOpenAiServer&) = delete;
  FakeOpenAiServer& operator=(const FakeOpenAiServer&) = delete;

  std::string url() const { return "http://127.0.0.1:" + std::to_string(port_); }
  /// Most requests that were being answered at once.
  int peak() const { return peak_; }
  std::vector<Request> requests() {
    const std::lock_guard lock(mutex_);
    return requests_;
  }

 private:
  void accept_all() {
    for (;;) {
      const int connection = accept(listener_, nullptr, nullptr);
      if (connection < 0) return;
      threads_.emplace_back([this, connection] { serve(connection); });
    }
  }

  void serve(int connection) {
    Request request;
    if (read(connection, &request)) {
      {
        const std::lock_guard lock(mutex_);
        requests_.push_back(request);
        peak_ = std::max(peak_.load(), ++running_);
      }
      answer_(request, Connection(connection));
      --running_;
    }
    close(connection);
  }

  static bool read(int connection, Request* request) {
    std::string text;
    size_t head = std::string::npos;
    char buffer[4096];
    while (head == std::string::npos || text.size() < head + 4 + body_size(text)) {
      const ssize_t count = recv(connection, buffer, sizeof buffer, 0);
      if (count <= 0) return false;
      text.append(buffer, static_cast<size_t>(count));
      head = text.find("\r\n\r\n");
    }
    *request = {text.substr(0, head), text.substr(head + 4)};
    return true;
  }

  static size_t body_size(const std::string& head) {
    const size_t at = head.find("Content-Length: ");
    return at == std::string::npos ? 0 : std::stoul(head.substr(at + 16));
  }

  Answer answer_;
  int listener_ = -1;
  int port_ = 0;
  std::atomic<int> running_ = 0, peak_ = 0;
  std::mutex mutex_;
  std::vector<Request> requests_;
  std::vector<std::thread> threads_;
  std::thread acceptor_;
};

}  // namespace moe4::testing
