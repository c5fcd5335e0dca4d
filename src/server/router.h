// Which endpoint answers which path, and what holds for all of them: keys, ids, CORS, errors.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "server/serving.h"

namespace moe4::server {

struct RouterOptions {
  std::vector<std::string> api_keys;  ///< none: everyone is served
  std::string root_path;              ///< "/prefix" that a proxy leaves in paths; may be empty
};

/// Thread-safe.
class Router {
 public:
  Router(Serving& serving, RouterOptions options);

  /// Refuses what need not be read: a wrong key, a path or method that is not there. `request` has
  /// no body.
  std::optional<HttpResponse> gate(const HttpRequest& request) const;
  /// Answers; never throws.
  void handle(HttpRequest request, std::shared_ptr<HttpExchange> exchange) const;

 private:
  std::string path_of(const HttpRequest& request) const;
  void check(const HttpRequest& request, const std::string& path) const;

  Serving& serving_;
  const RouterOptions options_;
};

}  // namespace moe4::server
