// What the server says about itself.
#include <fmt/format.h>

#include "server/api_error.h"
#include "server/endpoints.h"
#include "server/json_body.h"
#include "server/openapi.h"
#include "server/page/page.h"

namespace moe4::server {
namespace {

JsonValue model_card(const Serving& serving, const std::string& name) {
  return {{"id", name},
          {"object", "model"},
          {"created", serving.created},
          {"owned_by", "moe4"},
          {"root", serving.model_path},
          {"parent", nullptr},
          {"max_model_len", serving.max_model_len}};
}

}  // namespace

void list_models(Serving& serving, const Call& call) {
  JsonValue cards = JsonValue::array();
  for (const std::string& name : serving.names) cards.push_back(model_card(serving, name));
  call.respond_json(dump({{"object", "list"}, {"data", std::move(cards)}}));
}

void describe_model(Serving& serving, const Call& call) {
  const std::string name = call.request.path.substr(std::string("/v1/models/").size());
  if (name.empty()) throw ApiError(404, "there is no such endpoint");
  check_model_name(serving, name);
  call.respond_json(dump(model_card(serving, name)));
}

void show_page(Serving&, const Call& call) {
  call.exchange->respond({.content_type = "text/html; charset=utf-8",
                          .body = std::string(chat_page()),
                          .headers = call.headers()});
}

void health(Serving& serving, const Call& call) {
  if (!serving.engine.is_alive()) throw ApiError(503, "the engine has failed");
  call.respond_json("{}");
}

void ping(Serving& serving, const Call& call) { health(serving, call); }

void version(Serving& serving, const Call& call) {
  call.respond_json(dump({{"version", serving.version}}));
}

void metrics(Serving& serving, const Call& call) {
  call.exchange->respond({.content_type = "text/plain; version=0.0.4; charset=utf-8",
                          .body = serving.metrics.render(serving.engine.stats()),
                          .headers = call.headers()});
}

void properties(Serving& serving, const Call& call) {
  const GenerationConfig& config = serving.defaults.config;
  JsonValue body = {{"default_generation_settings",
                     {{"n_ctx", serving.max_model_len},
                      {"params",
                       {{"temperature", config.do_sample ? config.temperature : 1.0f},
                        {"top_k", config.top_k},
                        {"top_p", config.top_p},
                        {"min_p", config.min_p},
                        {"repeat_penalty", config.repetition_penalty}}}}},
                    {"total_slots", serving.engine.limits().max_seqs},
                    {"model_alias", serving.names.front()},
                    {"model_path", serving.model_path},
                    {"chat_template", serving.chat_template_source},
                    {"modalities", {{"vision", false}, {"audio", false}}},
                    {"build_info", "moe4 " + serving.version}};
  call.respond_json(dump(body));
}

// Requests have no fixed place; as many slots are busy as requests run.
void slots(Serving& serving, const Call& call) {
  const EngineStats stats = serving.engine.stats();
  JsonValue body = JsonValue::array();
  for (int64_t i = 0; i < serving.engine.limits().max_seqs; ++i) {
    body.push_back({{"id", i},
                    {"n_ctx", serving.max_model_len},
                    {"speculative", false},
                    {"is_processing", i < stats.running}});
  }
  call.respond_json(dump(body));
}

void plan(Serving& serving, const Call& call) { call.respond_json(serving.plan_json); }

void openapi(Serving& serving, const Call& call) {
  call.respond_json(dump(openapi_document(serving.version)));
}

}  // namespace moe4::server
