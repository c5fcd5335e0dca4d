// Prompts in their four forms.
#include "server/completion_request.h"

#include <utility>

namespace moe4::server {
namespace {

constexpr int64_t kMaxLogprobs = 20;
constexpr size_t kMaxPrompts = 2048;

std::vector<int32_t> read_ids(const JsonValue& list, const std::string& name) {
  std::vector<int32_t> ids;
  ids.reserve(list.size());
  for (size_t i = 0; i < list.size(); ++i) {
    ids.push_back(
        static_cast<int32_t>(read_integer(list[i], fmt::format("{}[{}]", name, i), 0, INT32_MAX)));
  }
  return ids;
}

void read_prompt(const JsonValue& value, CompletionRequest& request) {
  if (value.is_string()) {
    request.prompts.emplace_back(value.get<std::string>());
    return;
  }
  if (!value.is_array() || value.empty()) {
    refuse_field("prompt",
                 fmt::format("expected text, a list of texts, token ids or a list of lists of "
                             "token ids, found {}",
                             value.is_array() ? "an empty list" : type_words(value)));
  }
  if (value[0].is_number()) {
    request.prompts.emplace_back(read_ids(value, "prompt"));
    return;
  }
  if (value.size() > kMaxPrompts) {
    refuse_field("prompt", fmt::format("{} prompts: expected at most {} in a request", value.size(),
                                       kMaxPrompts));
  }
  for (size_t i = 0; i < value.size(); ++i) {
    const std::string name = fmt::format("prompt[{}]", i);
    if (value[i].is_array()) {
      request.prompts.emplace_back(read_ids(value[i], name));
    } else {
      request.prompts.emplace_back(read_string(value[i], name));
    }
  }
}

Fields<CompletionRequest> make_fields() {
  using R = CompletionRequest;
  const JsonValue text = {{"type", "string"}};
  const JsonValue id = {{"type", "integer"}, {"minimum", 0}, {"maximum", INT32_MAX}};
  const JsonValue ids = {{"type", "array"}, {"items", id}, {"minItems", 1}};
  Fields<R> fields = {
      custom_field<R>(
          "prompt",
          {{"anyOf",
            {text,
             {{"type", "array"}, {"items", text}, {"minItems", 1}, {"maxItems", kMaxPrompts}},
             ids,
             {{"type", "array"}, {"items", ids}, {"minItems", 1}, {"maxItems", kMaxPrompts}}}}},
          read_prompt, "Text to continue, or several; or token ids", /*required=*/true),
      integer_field("logprobs", &R::logprobs, 0, kMaxLogprobs,
                    "Log probabilities of the tokens, with so many of the likeliest"),
      boolean_field("echo", &R::echo, "The answer begins with the prompt"),
      ignored_field<R>("add_special_tokens", "Changes nothing: none are added"),
      refused_field<R>("suffix", "", "not supported: text is only continued"),
      refused_field<R>("prompt_embeds", JsonValue(), "not supported"),
  };
  append_fields(fields, sampling_fields());
  return fields;
}

}  // namespace

const Fields<CompletionRequest>& completion_fields() {
  static const Fields<CompletionRequest> fields = make_fields();
  return fields;
}

CompletionRequest parse_completion_request(const JsonValue& body,
                                           std::vector<std::string>& unknown) {
  CompletionRequest request = read_request(body, completion_fields(), unknown);
  if (request.echo && request.stream && request.logprobs) {
    refuse_field("echo", "with logprobs it cannot be streamed");
  }
  return request;
}

}  // namespace moe4::server
