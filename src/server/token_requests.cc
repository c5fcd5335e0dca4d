// Tables of their fields.
#include "server/token_requests.h"

namespace moe4::server {
namespace {

Fields<TokenizeRequest> make_tokenize_fields() {
  using R = TokenizeRequest;
  const auto read_text = [](const char* name) {
    return [name](const JsonValue& value, R& request) {
      request.prompt = read_string(value, name);
      request.has_prompt = true;
    };
  };
  const JsonValue text = {{"type", {"string", "null"}}};
  Fields<R> fields = {
      string_field("model", &R::model, "Name of the model"),
      custom_field<R>("prompt", text, read_text("prompt"), "Text"),
      custom_field<R>("content", text, read_text("content"), "Text; llama-server's name of it"),
      boolean_field("return_token_strs", &R::return_token_strs, "Also the tokens as text"),
      ignored_field<R>("add_special", "Changes nothing: none are added"),
  };
  append_fields(fields, conversation_fields());
  for (Field<R>& field : fields) field.required = false;
  return fields;
}

Fields<DetokenizeRequest> make_detokenize_fields() {
  using R = DetokenizeRequest;
  return {
      string_field("model", &R::model, "Name of the model"),
      custom_field<R>(
          "tokens",
          {{"type", "array"},
           {"items", {{"type", "integer"}, {"minimum", 0}, {"maximum", INT32_MAX}}}},
          [](const JsonValue& value, R& request) {
            read_array(value, "tokens");
            for (size_t i = 0; i < value.size(); ++i) {
              request.tokens.push_back(static_cast<int32_t>(
                  read_integer(value[i], fmt::format("tokens[{}]", i), 0, INT32_MAX)));
            }
          },
          "Token ids", /*required=*/true),
  };
}

}  // namespace

const Fields<TokenizeRequest>& tokenize_fields() {
  static const Fields<TokenizeRequest> fields = make_tokenize_fields();
  return fields;
}

const Fields<DetokenizeRequest>& detokenize_fields() {
  static const Fields<DetokenizeRequest> fields = make_detokenize_fields();
  return fields;
}

TokenizeRequest parse_tokenize_request(const JsonValue& body, std::vector<std::string>& unknown) {
  TokenizeRequest request = read_request(body, tokenize_fields(), unknown);
  if (request.has_prompt == !request.messages.empty()) {
    throw ApiError(400, "give either prompt or messages",
                   request.has_prompt ? "messages" : "prompt");
  }
  return request;
}

DetokenizeRequest parse_detokenize_request(const JsonValue& body,
                                           std::vector<std::string>& unknown) {
  return read_request(body, detokenize_fields(), unknown);
}

}  // namespace moe4::server
