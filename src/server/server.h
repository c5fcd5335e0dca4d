// The server as a whole: engine, endpoints and connections, from start to the last answer.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "dialog/formats.h"
#include "engine/generation_defaults.h"
#include "models/model.h"
#include "server/http_server.h"
#include "server/router.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace moe4::server {

struct ServerOptions {
  HttpServerOptions http;
  RouterOptions router;
  EngineLimits limits;
  int64_t max_queued = 2048;       ///< requests that may wait
  std::vector<std::string> names;  ///< of the model, at least one
  std::shared_ptr<const ChatTemplate> chat_template;
  std::string chat_template_source;
  GenerationDefaults defaults;
  FormatChoice formats;  ///< of tool calls and reasoning
  std::string model_path, version, plan_json;
  std::function<void(const std::string&)> say;  ///< lines for the user
};

/// Serves until a signal ends it: the first SIGINT or SIGTERM lets answers end, the second cuts
/// them off. `model` and `tokenizer` outlive it. Throws as HttpServer and Engine do.
void run_server(const Model& model, const Tokenizer& tokenizer, ServerOptions options);

}  // namespace moe4::server
