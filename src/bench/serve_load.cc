// One coroutine a request on one thread; the chunks of an answer are timed as they are read.
#include "bench/serve_load.h"

#include <algorithm>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/ssl/context.hpp>
#include <boost/asio/ssl/host_name_verification.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/core/tcp_stream.hpp>
#include <boost/beast/http.hpp>
#include <boost/beast/ssl/ssl_stream.hpp>
#include <chrono>
#include <cmath>
#include <exception>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <random>
#include <utility>

#include "base/error.h"

namespace moe4 {
namespace {

namespace asio = boost::asio;
namespace http = boost::beast::http;
using Clock = std::chrono::steady_clock;
using nlohmann::json;
using Endpoints = asio::ip::tcp::resolver::results_type;
using Parser = http::response_parser<http::string_body>;

constexpr size_t kMaxEventBytes = size_t{16} << 20;  // an event without end, or a body that is none

std::chrono::nanoseconds nanoseconds(double seconds) {
  return std::chrono::nanoseconds(std::llround(seconds * 1e9));
}

double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

// Where requests go.
class Server {
 public:
  /// Throws Error(kUnavailable) for a host that is not known.
  Server(asio::io_context& context, const BaseUrl& base) : base_(base) {
    boost::system::error_code failure;
    endpoints_ = asio::ip::tcp::resolver(context).resolve(base.host, base.port, failure);
    if (failure) {
      throw Error(ErrorCode::kUnavailable,
                  "the host " + base.host + " is not known: " + failure.message());
    }
    if (!base.is_tls) return;
    tls_.set_default_verify_paths();
    tls_.set_verify_mode(asio::ssl::verify_peer);
  }

  const BaseUrl& base() const { return base_; }
  const Endpoints& endpoints() const { return endpoints_; }
  asio::ssl::context& tls() { return tls_; }

 private:
  BaseUrl base_;
  Endpoints endpoints_;
  asio::ssl::context tls_{asio::ssl::context::tls_client};
};

http::request<http::string_body> make_request(const BaseUrl& base, const std::string& api_key,
                                              http::verb verb, const std::string& target) {
  http::request<http::string_body> request(verb, base.path + target, 11);
  request.set(http::field::host, base.host + ":" + base.port);
  request.set(http::field::user_agent, "moe4");
  request.set(http::field::connection, "close");
  if (!api_key.empty()) request.set(http::field::authorization, "Bearer " + api_key);
  return request;
}

// OpenAI's error object, or the begin of what came instead.
std::string error_text(unsigned status, const std::string& body) {
  const json reply = json::parse(body, nullptr, false);
  std::string message = body;
  if (reply.is_object() && reply.contains("error")) {
    const json& error = reply["error"];
    if (error.is_string()) message = error.get<std::string>();
    if (error.is_object() && error.contains("message") && error["message"].is_string())
      message = error["message"].get<std::string>();
  }
  return (status == 200 ? "the server says: " : "HTTP " + std::to_string(status) + ": ") +
         printable(message);
}

int64_t count_of(const json& usage, const char* key) {
  const auto found = usage.find(key);
  return found != usage.end() && found->is_number_integer() ? found->get<int64_t>() : 0;
}

bool has_text(const json& object, std::initializer_list<const char*> keys) {
  return std::ranges::any_of(keys, [&object](const char* key) {
    const auto found = object.find(key);
    return found != object.end() && !found->is_null();
  });
}

// Reads an answer's events.
class AnswerReader {
 public:
  AnswerReader(Clock::time_point begin, ServedRequest& result) : begin_(begin), result_(result) {}

  // Takes whole lines off the front of *body.
  void read(std::string* body) {
    size_t at = 0;
    for (size_t end = body->find('\n'); end != std::string::npos; end = body->find('\n', at)) {
      std::string_view line(body->data() + at, end - at);
      at = end + 1;
      if (line.ends_with('\r')) line.remove_suffix(1);
      if (line.starts_with("data:")) read_event(line.substr(5));
    }
    body->erase(0, at);
    if (body->size() > kMaxEventBytes) result_.error = "an event of the stream has no end";
  }

  void finish() {
    if (!is_done_ && result_.error.empty()) result_.error = "the answer ended before [DONE]";
    if (!has_first_ && result_.error.empty()) result_.error = "the answer has no text";
    if (result_.output_tokens == 0) result_.output_tokens = chunks_;
  }

 private:
  void read_event(std::string_view data) {
    data.remove_prefix(std::min(data.find_first_not_of(' '), data.size()));
    if (data == "[DONE]") {
      is_done_ = true;
      return;
    }
    const json event = json::parse(data, nullptr, false);
    if (!event.is_object()) {
      result_.error = "an event of the stream is no JSON object: " + printable(std::string(data));
      return;
    }
    if (event.contains("error")) {
      result_.error = error_text(200, event.dump(-1, ' ', false, json::error_handler_t::replace));
      return;
    }
    if (const auto usage = event.find("usage"); usage != event.end() && usage->is_object()) {
      result_.output_tokens = count_of(*usage, "completion_tokens");
      result_.prompt_tokens = count_of(*usage, "prompt_tokens");
    }
    const auto choices = event.find("choices");
    if (choices == event.end() || !choices->is_array() || choices->empty()) return;
    const json& choice = choices->front();
    if (!choice.is_object()) return;
    const auto delta = choice.find("delta");
    const bool is_text =
        delta != choice.end() && delta->is_object()
            ? has_text(*delta, {"content", "reasoning", "reasoning_content", "tool_calls"})
            : has_text(choice, {"text"});
    if (is_text) count_chunk();
  }

  // As vLLM's client: the first chunk is the first token, gaps lie between chunks.
  void count_chunk() {
    const double now = seconds_since(begin_);
    if (has_first_) {
      result_.gaps.push_back(now - result_.last_token);
    } else {
      result_.first_token = now;
    }
    has_first_ = true;
    result_.last_token = now;
    ++chunks_;
  }

  Clock::time_point begin_;
  ServedRequest& result_;
  bool is_done_ = false, has_first_ = false;
  int64_t chunks_ = 0;
};

// One request and its response on a stream that is open; `on_body` may take from the body as it
// grows.
template <typename Stream>
asio::awaitable<void> exchange_on(Stream& stream, const http::request<http::string_body>& request,
                                  Parser& parser, double timeout,
                                  const std::function<void(std::string*)>& on_body) {
  co_await http::async_write(stream, request, asio::use_awaitable);
  boost::beast::flat_buffer buffer;
  parser.body_limit(boost::none);
  while (!parser.is_done()) {
    boost::beast::get_lowest_layer(stream).expires_after(nanoseconds(timeout));
    co_await http::async_read_some(stream, buffer, parser, asio::use_awaitable);
    if (parser.is_header_done()) on_body(&parser.get().body());
  }
}

asio::awaitable<void> exchange(Server& server, const http::request<http::string_body>& request,
                               Parser& parser, double timeout,
                               const std::function<void(std::string*)>& on_body) {
  boost::beast::tcp_stream tcp(co_await asio::this_coro::executor);
  tcp.expires_after(nanoseconds(timeout));
  co_await tcp.async_connect(server.endpoints(), asio::use_awaitable);
  tcp.socket().set_option(asio::ip::tcp::no_delay(true));
  if (!server.base().is_tls) {
    co_await exchange_on(tcp, request, parser, timeout, on_body);
    co_return;
  }
  boost::beast::ssl_stream<boost::beast::tcp_stream> stream(std::move(tcp), server.tls());
  const std::string& host = server.base().host;
  stream.set_verify_callback(asio::ssl::host_name_verification(host));
  if (SSL_set_tlsext_host_name(stream.native_handle(), host.c_str()) != 1)
    throw std::runtime_error("the host's name is none that TLS takes");
  co_await stream.async_handshake(asio::ssl::stream_base::client, asio::use_awaitable);
  co_await exchange_on(stream, request, parser, timeout, on_body);
}

std::string text_of(const std::exception_ptr& failure) {
  try {
    std::rethrow_exception(failure);
  } catch (const boost::system::system_error& error) {
    return error.code() == boost::beast::error::timeout ? "the server sends nothing"
                                                        : error.code().message();
  } catch (const std::exception& error) {
    return error.what();
  }
}

std::string request_body(const ServeLoad& load, size_t index) {
  json body = {{"model", load.model},
               {"max_tokens", load.output_tokens[index]},
               {"temperature", load.temperature},
               {"stream", true},
               {"stream_options", {{"include_usage", true}}}};
  if (load.ignore_eos) body["ignore_eos"] = true;
  if (load.chat) {
    body["messages"] = {{{"role", "user"}, {"content", load.chat_prompts[index]}}};
  } else {
    body["prompt"] = load.prompts[index];
  }
  return body.dump();
}

class LoadRun {
 public:
  LoadRun(const ServeLoad& load, const std::function<void(int64_t)>& on_done)
      : load_(load), on_done_(on_done), server_(context_, load.base) {
    result_.requests.resize(load.chat ? load.chat_prompts.size() : load.prompts.size());
    MOE4_CHECK(load.output_tokens.size() >= result_.requests.size());
  }

  ServedLoad run() {
    begin_ = Clock::now();
    asio::co_spawn(context_, send_all(), asio::detached);
    context_.run();
    result_.seconds = std::chrono::duration<double>(end_ - begin_).count();
    return std::move(result_);
  }

 private:
  // When requests are due. As vLLM's client does, the last one comes exactly at n / rate.
  std::vector<double> arrivals() const {
    std::vector<double> times(result_.requests.size());
    if (!std::isfinite(load_.request_rate)) return times;
    std::mt19937_64 random(load_.seed);
    std::exponential_distribution<double> interval(load_.request_rate);
    double time = 0;
    for (double& at : times) at = time += interval(random);
    const double scale = static_cast<double>(times.size()) / load_.request_rate / time;
    for (double& at : times) at *= scale;
    return times;
  }

  asio::awaitable<void> send_all() {
    const std::vector<double> times = arrivals();
    asio::steady_timer timer(context_);
    for (size_t i = 0; i < times.size(); ++i) {
      if (times[i] > 0) {
        timer.expires_at(begin_ + nanoseconds(times[i]));
        co_await timer.async_wait(asio::use_awaitable);
      }
      due_.push_back(i);
      send_due();
    }
  }

  void send_due() {
    while (next_ < due_.size() &&
           (load_.max_concurrency == 0 || running_ < load_.max_concurrency)) {
      ++running_;
      asio::co_spawn(context_, send(due_[next_++]), asio::detached);
    }
  }

  asio::awaitable<void> send(size_t index) {
    ServedRequest& result = result_.requests[index];
    auto request = make_request(load_.base, load_.api_key, http::verb::post,
                                load_.chat ? "/v1/chat/completions" : "/v1/completions");
    request.set(http::field::content_type, "application/json");
    request.body() = request_body(load_, index);
    request.prepare_payload();
    Parser parser;
    AnswerReader reader(Clock::now(), result);
    const std::function<void(std::string*)> on_body = [&](std::string* body) {
      if (parser.get().result() == http::status::ok) reader.read(body);
      if (!result.error.empty()) throw std::runtime_error(result.error);
    };
    std::exception_ptr failure;
    try {
      co_await exchange(server_, request, parser, load_.timeout_seconds, on_body);
    } catch (...) {
      failure = std::current_exception();
    }
    if (failure) {
      if (result.error.empty()) result.error = text_of(failure);
    } else if (parser.get().result() != http::status::ok) {
      result.error = error_text(parser.get().result_int(), parser.get().body());
    }
    reader.finish();
    if (result.prompt_tokens == 0 && !load_.chat)
      result.prompt_tokens = static_cast<int64_t>(load_.prompts[index].size());
    end_ = Clock::now();
    --running_;
    if (on_done_) on_done_(++done_);
    send_due();
  }

  const ServeLoad& load_;
  const std::function<void(int64_t)>& on_done_;
  asio::io_context context_{1};
  Server server_;
  ServedLoad result_;
  Clock::time_point begin_, end_;
  std::vector<size_t> due_;
  size_t next_ = 0;
  int64_t running_ = 0, done_ = 0;
};

}  // namespace

BaseUrl parse_base_url(std::string_view url) {
  const auto refuse = [url](const std::string& why) -> BaseUrl {
    throw Error(ErrorCode::kUsage, "--base-url " + printable(std::string(url)) + " " + why);
  };
  BaseUrl base;
  base.is_tls = url.starts_with("https://");
  if (!base.is_tls && !url.starts_with("http://"))
    return refuse("must begin with http:// or https://");
  std::string_view rest = url.substr(base.is_tls ? 8 : 7);
  const size_t slash = std::min(rest.find('/'), rest.size());
  base.path = rest.substr(slash);
  while (base.path.ends_with('/')) base.path.pop_back();
  rest = rest.substr(0, slash);
  const size_t bracket = rest.starts_with('[') ? rest.find(']') : 0;  // [::1]:8000
  if (bracket == std::string_view::npos) return refuse("has no ] after its address");
  const size_t colon = rest.find(':', bracket);
  base.host = bracket > 0 ? rest.substr(1, bracket - 1) : rest.substr(0, colon);
  base.port = colon == std::string_view::npos ? std::string_view(base.is_tls ? "443" : "80")
                                              : rest.substr(colon + 1);
  const bool is_port = !base.port.empty() && base.port.size() <= 5 &&
                       base.port.find_first_not_of("0123456789") == std::string::npos;
  if (base.host.empty() || !is_port || std::stoi(base.port) == 0 || std::stoi(base.port) > 65535)
    return refuse("must be http[s]://HOST[:PORT][/PATH], with a port from 1 to 65535");
  const auto is_plain = [](const std::string& text) {
    return std::ranges::all_of(text, [](char c) { return c > ' ' && c < 0x7f && c != '@'; });
  };
  if (!is_plain(base.host) || !is_plain(base.path))
    return refuse("has characters that a URL cannot have, or a user");
  return base;
}

ServedLoad run_load(const ServeLoad& load, const std::function<void(int64_t)>& on_done) {
  return LoadRun(load, on_done).run();
}

std::string first_model(const BaseUrl& base, const std::string& api_key) {
  asio::io_context context(1);
  Server server(context, base);
  const auto request = make_request(base, api_key, http::verb::get, "/v1/models");
  Parser parser;
  std::exception_ptr failure;
  const std::function<void(std::string*)> keep = [](std::string* body) {
    if (body->size() > kMaxEventBytes) throw std::runtime_error("the list of models has no end");
  };
  asio::co_spawn(context, exchange(server, request, parser, 60, keep),
                 [&failure](std::exception_ptr error) { failure = std::move(error); });
  context.run();
  const std::string where = std::string(base.is_tls ? "https://" : "http://") + base.host + ":" +
                            base.port + base.path + "/v1/models";
  if (failure)
    throw Error(ErrorCode::kUnavailable, "no answer from " + where + ": " + text_of(failure));
  const std::string& body = parser.get().body();
  if (parser.get().result() != http::status::ok)
    throw Error(ErrorCode::kUnavailable,
                where + ": " + error_text(parser.get().result_int(), body));
  const json list = json::parse(body, nullptr, false);
  const json::json_pointer id("/data/0/id");
  if (!list.is_object() || !list.contains(id) || !list[id].is_string())
    throw Error(ErrorCode::kUnavailable, where + " names no model; give --model");
  return list[id].get<std::string>();
}

}  // namespace moe4
