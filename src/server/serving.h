// What all endpoints need to answer: the model, its text, the engine and the server's settings.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "dialog/formats.h"
#include "engine/generation_defaults.h"
#include "models/model.h"
#include "server/engine_loop.h"
#include "server/http_exchange.h"
#include "server/metrics.h"
#include "server/reply_queue.h"
#include "server/structure.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace moe4::server {

/// References outlive the server. Read by many threads.
struct Serving {
  const Model& model;
  const Tokenizer& tokenizer;
  std::shared_ptr<const ChatTemplate> chat_template;  ///< null: the checkpoint has none
  std::string chat_template_source;
  GenerationDefaults defaults;
  FormatChoice formats;                 ///< of tool calls and reasoning
  std::vector<int32_t> visible_tokens;  ///< special tokens that those formats need in the text
  std::vector<std::string> names;       ///< of the model; the first is in answers
  std::string model_path;
  std::string version;    ///< of moe4
  std::string plan_json;  ///< as `moe4 plan --json` has it
  int64_t max_model_len = 0;
  int64_t created = 0;  ///< Unix time
  StructureCache& structures;
  EngineLoop& engine;
  ReplyQueue& replies;  ///< flushed by the engine's loop
  Metrics& metrics;
};

/// A request and how to answer it.
struct Call {
  HttpRequest request;
  std::shared_ptr<HttpExchange> exchange;
  std::string id;  ///< of the request, also in X-Request-Id

  void respond_json(std::string body, int status = 200) const;
  /// The headers that every response has.
  HttpHeaders headers() const;
};

/// Logs names of members that no endpoint knows, each once.
void note_unknown_fields(const std::string& path, const std::vector<std::string>& names);

/// Throws ApiError(404) unless `name` is empty or one of the model's.
void check_model_name(const Serving& serving, const std::string& name);

/// 128 random bits in hexadecimal digits, and 64 random bits.
std::string random_name();
uint64_t random_seed();

}  // namespace moe4::server
