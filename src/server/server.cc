// Puts the parts together.
#include "server/server.h"

#include <fmt/format.h>

#include <ctime>
#include <optional>
#include <utility>

#include "server/api_error.h"
#include "server/engine_loop.h"
#include "server/metrics.h"
#include "server/serving.h"

namespace moe4::server {

void run_server(const Model& model, const Tokenizer& tokenizer, ServerOptions options) {
  Metrics metrics(options.names.front(), options.limits.max_context);
  std::optional<Router> router;
  // The address is taken before memory is: two servers on one port are found out at once.
  HttpServer http(
      options.http,
      {.handle =
           [&](HttpRequest request, std::shared_ptr<HttpExchange> exchange) {
             router->handle(std::move(request), std::move(exchange));
           },
       .gate = [&](const HttpRequest& request) { return router->gate(request); },
       .error_body = [](int status,
                        const std::string& message) { return ApiError(status, message).body(); }});
  StructureCache structures(tokenizer);
  ReplyQueue replies;
  EngineLoop engine(
      model, options.limits, options.max_queued,
      {.step = [&](int64_t tokens) { metrics.step(tokens); }, .turn = [&] { replies.flush(); }});
  Serving serving{
      .model = model,
      .tokenizer = tokenizer,
      .chat_template = options.chat_template,
      .chat_template_source = options.chat_template_source,
      .defaults = options.defaults,
      .formats = options.formats,
      .visible_tokens = tag_tokens(tokenizer, options.formats.tools, options.formats.reasoning),
      .names = options.names,
      .model_path = options.model_path,
      .version = options.version,
      .plan_json = options.plan_json,
      .max_model_len = options.limits.max_context,
      .created = std::time(nullptr),
      .structures = structures,
      .engine = engine,
      .replies = replies,
      .metrics = metrics};
  // No callback of a request comes once what it answers with is gone.
  struct Stop {
    EngineLoop& engine;
    ReplyQueue& replies;
    ~Stop() {
      engine.stop();
      replies.stop();
    }
  } const stop{engine, replies};
  router.emplace(serving, options.router);
  const bool has_tls = !options.http.certificate_file.empty();
  const bool is_v6 = options.http.host.find(':') != std::string::npos;
  options.say(fmt::format("serving {} on {}://{}{}{}:{}", options.names.front(),
                          has_tls ? "https" : "http", is_v6 ? "[" : "", options.http.host,
                          is_v6 ? "]" : "", http.port()));
  http.run([&](int signal_count) {
    if (signal_count > 1) return http.stop();
    options.say(
        fmt::format("shutting down: {} requests are in progress; a second signal cuts "
                    "them off",
                    engine.num_active()));
    engine.drain();
    http.drain();
  });
}

}  // namespace moe4::server
