// Paths, their bodies and what comes back.
#include "server/openapi.h"

#include "server/chat_request.h"
#include "server/completion_request.h"
#include "server/messages_request.h"
#include "server/responses_request.h"
#include "server/token_requests.h"

namespace moe4::server {
namespace {

JsonValue json_content(JsonValue schema) {
  return {{"application/json", {{"schema", std::move(schema)}}}};
}

JsonValue reference(const char* name) {
  return {{"$ref", std::string("#/components/schemas/") + name}};
}

void add_errors(JsonValue& responses, std::initializer_list<const char*> statuses) {
  for (const char* status : statuses) {
    responses[status] = {{"description", "An error"},
                         {"content", json_content(reference("Error"))}};
  }
}

JsonValue get(const char* summary, JsonValue content) {
  JsonValue responses = {{"200", {{"description", "Done"}, {"content", std::move(content)}}}};
  add_errors(responses, {"401", "503"});
  return {{"summary", summary}, {"responses", std::move(responses)}};
}

JsonValue post(const char* summary, const char* body, JsonValue content) {
  JsonValue responses = {{"200", {{"description", "Done"}, {"content", std::move(content)}}}};
  add_errors(responses, {"400", "401", "404", "413", "429", "500", "503"});
  return {{"summary", summary},
          {"requestBody", {{"required", true}, {"content", json_content(reference(body))}}},
          {"responses", std::move(responses)}};
}

JsonValue object_with(std::initializer_list<const char*> required) {
  JsonValue names = JsonValue::array();
  for (const char* name : required) names.push_back(name);
  return {{"type", "object"}, {"required", std::move(names)}};
}

JsonValue reply_or_events(std::initializer_list<const char*> required) {
  JsonValue content = json_content(object_with(required));
  content["text/event-stream"] = {{"schema",
                                   {{"type", "object"},
                                    {"properties", {{"data", {{"type", "string"}}}}},
                                    {"required", {"data"}}}}};
  return content;
}

}  // namespace

JsonValue openapi_document(const std::string& version) {
  const JsonValue object = json_content({{"type", "object"}});
  const JsonValue text = {{"text/plain", {{"schema", {{"type", "string"}}}}}};
  JsonValue paths = {
      {"/v1/chat/completions",
       {{"post", post("Answer a conversation", "ChatRequest",
                      reply_or_events({"id", "object", "created", "model", "choices", "usage"}))}}},
      {"/v1/completions",
       {{"post", post("Continue a text", "CompletionRequest",
                      reply_or_events({"id", "object", "created", "model", "choices", "usage"}))}}},
      {"/v1/responses",
       {{"post", post("Answer a conversation", "ResponsesRequest",
                      reply_or_events({"id", "object", "status", "model", "output", "usage"}))}}},
      {"/v1/messages",
       {{"post", post("Answer a conversation, as Anthropic has it", "MessagesRequest",
                      reply_or_events({"id", "type", "role", "content", "model", "usage"}))}}},
      {"/v1/models", {{"get", get("The model", json_content(object_with({"object", "data"})))}}},
      {"/tokenize",
       {{"post", post("Token ids of a text or a conversation", "TokenizeRequest",
                      json_content(object_with({"count", "max_model_len", "tokens"})))}}},
      {"/detokenize",
       {{"post",
         post("Text of token ids", "DetokenizeRequest", json_content(object_with({"prompt"})))}}},
      {"/apply-template",
       {{"post", post("The prompt of a conversation", "TokenizeRequest",
                      json_content(object_with({"prompt"})))}}},
      {"/health", {{"get", get("Whether the engine works", object)}}},
      {"/ping", {{"get", get("The same", object)}}},
      {"/version", {{"get", get("Version of moe4", json_content(object_with({"version"})))}}},
      {"/metrics", {{"get", get("Metrics in Prometheus' text format", text)}}},
      {"/props", {{"get", get("Settings, as llama-server has them", object)}}},
      {"/slots",
       {{"get", get("Slots, as llama-server has them",
                    json_content({{"type", "array"}, {"items", {{"type", "object"}}}}))}}},
      {"/plan",
       {{"get", get("Which backend serves which layers",
                    json_content({{"type", "array"}, {"items", {{"type", "object"}}}}))}}},
  };
  const JsonValue error = {{"type", "object"},
                           {"required", {"error"}},
                           {"properties",
                            {{"error",
                              {{"type", "object"},
                               {"required", {"message", "type", "param", "code"}},
                               {"properties",
                                {{"message", {{"type", "string"}}},
                                 {"type", {{"type", "string"}}},
                                 {"param", {{"type", {"string", "null"}}}},
                                 {"code", {{"type", "integer"}}}}}}}}}};
  JsonValue schemas = {{"Error", error},
                       {"ChatRequest", schema_of(chat_fields())},
                       {"CompletionRequest", schema_of(completion_fields())},
                       {"ResponsesRequest", schema_of(responses_fields())},
                       {"MessagesRequest", schema_of(messages_fields())},
                       {"TokenizeRequest", schema_of(tokenize_fields())},
                       {"DetokenizeRequest", schema_of(detokenize_fields())}};
  return {{"openapi", "3.1.0"},
          {"info", {{"title", "moe4"}, {"version", version}}},
          {"paths", std::move(paths)},
          {"components",
           {{"schemas", std::move(schemas)},
            {"securitySchemes", {{"bearer", {{"type", "http"}, {"scheme", "bearer"}}}}}}},
          {"security", JsonValue::array({JsonValue::object(), {{"bearer", JsonValue::array()}}})}};
}

}  // namespace moe4::server
