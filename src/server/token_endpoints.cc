// POST /tokenize, /detokenize and /apply-template: text without the model.
#include "server/endpoints.h"
#include "server/prompt_text.h"
#include "server/token_requests.h"

namespace moe4::server {
namespace {

TokenizeRequest parse(const Serving& serving, const Call& call) {
  std::vector<std::string> unknown;
  TokenizeRequest request = parse_tokenize_request(parse_body(call.request.body), unknown);
  note_unknown_fields(call.request.path, unknown);
  check_model_name(serving, request.model);
  return request;
}

}  // namespace

void tokenize(Serving& serving, const Call& call) {
  const TokenizeRequest request = parse(serving, call);
  const std::vector<int32_t> ids = serving.tokenizer.encode(
      request.has_prompt ? request.prompt : render_conversation(serving, request));
  JsonValue body = {
      {"count", ids.size()}, {"max_model_len", serving.max_model_len}, {"tokens", ids}};
  if (request.return_token_strs) {
    JsonValue texts = JsonValue::array();
    for (const int32_t id : ids) texts.push_back(token_text(serving, id));
    body["token_strs"] = std::move(texts);
  }
  call.respond_json(dump(body));
}

void detokenize(Serving& serving, const Call& call) {
  std::vector<std::string> unknown;
  const DetokenizeRequest request =
      parse_detokenize_request(parse_body(call.request.body), unknown);
  note_unknown_fields(call.request.path, unknown);
  check_model_name(serving, request.model);
  const std::vector<int32_t> ids =
      prompt_ids(serving.tokenizer, serving.model.config().vocab_size, request.tokens, "tokens");
  const std::string text = serving.tokenizer.decode(ids, /*skip_special=*/false);
  call.respond_json(dump({{"prompt", text}, {"content", text}}));
}

void apply_template(Serving& serving, const Call& call) {
  const TokenizeRequest request = parse(serving, call);
  if (request.has_prompt) throw ApiError(400, "give messages", "messages");
  call.respond_json(dump({{"prompt", render_conversation(serving, request)}}));
}

}  // namespace moe4::server
