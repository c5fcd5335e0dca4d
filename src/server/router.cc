// The table of endpoints.
#include "server/router.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <string_view>
#include <utility>

#include "base/error.h"
#include "server/api_error.h"
#include "server/endpoints.h"

namespace moe4::server {
namespace {

using Endpoint = void (*)(Serving&, const Call&);

struct Route {
  std::string_view method;
  std::string_view path;  // one that ends in '/' stands for all below
  Endpoint endpoint;
  bool needs_key = true;
};

constexpr std::array kRoutes = std::to_array<Route>({
    {"POST", "/v1/chat/completions", complete_chat},
    {"POST", "/v1/completions", complete},
    {"POST", "/v1/responses", create_response},
    {"POST", "/v1/messages", create_message},
    {"POST", "/v1/messages/count_tokens", count_message_tokens},
    {"GET", "/v1/models", list_models},
    {"GET", "/v1/models/", describe_model},
    {"POST", "/tokenize", tokenize},
    {"POST", "/detokenize", detokenize},
    {"POST", "/apply-template", apply_template},
    {"GET", "/props", properties},
    {"GET", "/slots", slots},
    {"GET", "/plan", plan},
    {"GET", "/", show_page, false},
    {"GET", "/health", health, false},
    {"GET", "/ping", ping, false},
    {"POST", "/ping", ping, false},
    {"GET", "/version", version, false},
    {"GET", "/metrics", metrics, false},
    {"GET", "/openapi.json", openapi, false},
});

bool matches(const Route& route, std::string_view path) {
  const bool is_folder = route.path.size() > 1 && route.path.ends_with('/');
  return route.path == path || (is_folder && path.starts_with(route.path));
}

// HEAD asks what GET would say.
std::string_view method_of(const HttpRequest& request) {
  return request.method == "HEAD" ? std::string_view("GET") : std::string_view(request.method);
}

const Route* find_route(std::string_view method, std::string_view path) {
  const auto found = std::find_if(kRoutes.begin(), kRoutes.end(), [&](const Route& route) {
    return route.method == method && matches(route, path);
  });
  return found == kRoutes.end() ? nullptr : &*found;
}

std::string allowed_methods(std::string_view path) {
  std::string methods;
  for (const Route& route : kRoutes) {
    if (!matches(route, path)) continue;
    methods += fmt::format("{}{}", methods.empty() ? "" : ", ", route.method);
    if (route.method == "GET") methods += ", HEAD";
  }
  return methods.empty() ? methods : methods + ", OPTIONS";
}

// In time that depends on the lengths alone.
bool equal_secrets(std::string_view given, std::string_view secret) {
  unsigned difference = given.size() == secret.size() ? 0 : 1;
  for (size_t i = 0; i < given.size(); ++i) {
    const char other = secret.empty() ? '\0' : secret[i % secret.size()];
    difference |= static_cast<unsigned char>(given[i] ^ other);
  }
  return difference == 0;
}

std::string_view given_key(const HttpRequest& request) {
  if (const auto authorization = request.header("authorization")) {
    constexpr std::string_view kBearer = "bearer ";
    const std::string_view scheme = authorization->substr(0, kBearer.size());
    const bool is_bearer =
        std::equal(scheme.begin(), scheme.end(), kBearer.begin(), kBearer.end(),
                   [](char a, char b) { return (a >= 'A' && a <= 'Z' ? a - 'A' + 'a' : a) == b; });
    return is_bearer ? authorization->substr(kBearer.size()) : std::string_view();
  }
  return request.header("x-api-key").value_or("");
}

std::string request_id(const HttpRequest& request) {
  const std::string_view given = request.header("x-request-id").value_or("");
  const bool usable = !given.empty() && given.size() <= 128 &&
                      std::all_of(given.begin(), given.end(),
                                  [](char c) { return c > ' ' && c <= '~' && c != '"'; });
  return usable ? std::string(given) : random_name();
}

void add_cors(HttpHeaders& headers) { headers.emplace_back("Access-Control-Allow-Origin", "*"); }

// Adds the headers for pages of other origins to every response.
class CorsExchange final : public HttpExchange {
 public:
  explicit CorsExchange(std::shared_ptr<HttpExchange> inner) : inner_(std::move(inner)) {}
  void respond(HttpResponse response) override {
    add_cors(response.headers);
    inner_->respond(std::move(response));
  }
  void begin_stream(HttpResponse head) override {
    add_cors(head.headers);
    inner_->begin_stream(std::move(head));
  }
  void write(std::string piece) override { inner_->write(std::move(piece)); }
  void finish() override { inner_->finish(); }
  void on_gone(std::function<void()> callback) override { inner_->on_gone(std::move(callback)); }

 private:
  const std::shared_ptr<HttpExchange> inner_;
};

HttpResponse error_response(const ApiError& error, const HttpRequest& request,
                            const std::string& path) {
  const bool is_anthropic = path.starts_with("/v1/messages");
  HttpResponse response{.status = error.status(),
                        .body = is_anthropic ? anthropic_body(error) : error.body()};
  response.headers.emplace_back("X-Request-Id", request_id(request));
  if (error.status() == 401) response.headers.emplace_back("WWW-Authenticate", "Bearer");
  if (error.status() == 405) response.headers.emplace_back("Allow", allowed_methods(path));
  if (error.status() == 429) response.headers.emplace_back("Retry-After", "1");
  return response;
}

}  // namespace

Router::Router(Serving& serving, RouterOptions options)
    : serving_(serving), options_(std::move(options)) {}

std::string Router::path_of(const HttpRequest& request) const {
  const std::string& root = options_.root_path;
  if (!root.empty() && request.path.starts_with(root + "/"))
    return request.path.substr(root.size());
  return request.path;
}

void Router::check(const HttpRequest& request, const std::string& path) const {
  if (request.method == "OPTIONS") return;
  const Route* route = find_route(method_of(request), path);
  const std::string methods = route == nullptr ? allowed_methods(path) : "";
  if (!options_.api_keys.empty() && (route == nullptr || route->needs_key)) {
    const std::string_view given = given_key(request);
    bool good = false;
    for (const std::string& key : options_.api_keys) good |= equal_secrets(given, key);
    if (!good) {
      throw ApiError(401, "a valid API key is needed: send it as Authorization: Bearer KEY");
    }
  }
  if (route != nullptr) return;
  if (methods.empty()) {
    throw ApiError(404, "there is no endpoint " + printable(request.path, 200));
  }
  throw ApiError(405, fmt::format("{} has no method {}; it has {}", printable(request.path, 200),
                                  printable(request.method, 20), methods));
}

std::optional<HttpResponse> Router::gate(const HttpRequest& request) const {
  const std::string path = path_of(request);
  try {
    check(request, path);
    return std::nullopt;
  } catch (const std::exception& error) {
    HttpResponse response = error_response(to_api_error(error), request, path);
    if (request.header("origin")) add_cors(response.headers);
    return response;
  }
}

void Router::handle(HttpRequest request, std::shared_ptr<HttpExchange> exchange) const {
  if (request.header("origin")) exchange = std::make_shared<CorsExchange>(std::move(exchange));
  request.path = path_of(request);
  const std::string path = request.path;
  if (request.method == "OPTIONS") {
    const std::string methods = allowed_methods(path);
    exchange->respond({.status = methods.empty() ? 404 : 204,
                       .headers = {{"Allow", methods},
                                   {"Access-Control-Allow-Methods", methods},
                                   {"Access-Control-Allow-Headers", "*, Authorization"},
                                   {"Access-Control-Max-Age", "600"}}});
    return;
  }
  Call call{.request = std::move(request), .exchange = exchange};
  try {
    call.id = request_id(call.request);
    const Route* route = find_route(method_of(call.request), path);
    MOE4_CHECK(route != nullptr);  // the gate has let it pass
    route->endpoint(serving_, call);
  } catch (const std::exception& error) {
    exchange->respond(error_response(to_api_error(error), call.request, path));
  }
}

}  // namespace moe4::server
