// Templates, tokenizer and the limits of a context.
#include "server/prompt_text.h"

#include <algorithm>
#include <utility>

#include "server/api_error.h"

namespace moe4::server {
namespace {

constexpr char kSource[] = "the request";

// What templates write after the last message is cut off.
std::string cut_after_last_content(std::string prompt, const JsonValue& messages) {
  const JsonValue& content = messages.back()["content"];
  std::string text = content.is_string() ? content.get<std::string>() : "";
  const size_t end = text.find_last_not_of(" \t\r\n");
  text.erase(end == std::string::npos ? 0 : end + 1);
  const size_t at = text.empty() ? std::string::npos : prompt.rfind(text);
  if (at == std::string::npos) {
    refuse_field("continue_final_message",
                 "the last message's text is not in the prompt as it is: it cannot be continued");
  }
  prompt.erase(at + text.size());
  return prompt;
}

}  // namespace

std::string render_conversation(const Serving& serving, const ConversationRequest& request) {
  if (!serving.chat_template) {
    throw ApiError(400,
                   "the model has no chat template: start the server with --chat-template, or use "
                   "/v1/completions");
  }
  TemplateContext context;
  context.set("messages", dump(request.messages), kSource);
  context.set("add_generation_prompt", request.add_generation_prompt ? "true" : "false", kSource);
  if (!request.tools.is_null()) context.set("tools", dump(request.tools), kSource);
  if (!request.documents.is_null()) context.set("documents", dump(request.documents), kSource);
  for (const auto& [name, value] : request.template_variables.items()) {
    context.set(name, dump(value), kSource);
  }
  std::string prompt = serving.chat_template->render(context);
  if (!request.continue_final_message) return prompt;
  return cut_after_last_content(std::move(prompt), request.messages);
}

std::vector<int32_t> prompt_ids(const Tokenizer& tokenizer, int64_t vocab_size,
                                const Prompt& prompt, const std::string& name) {
  if (const auto* text = std::get_if<std::string>(&prompt)) return tokenizer.encode(*text);
  const auto& ids = std::get<std::vector<int32_t>>(prompt);
  const auto bad =
      std::find_if(ids.begin(), ids.end(), [&](int32_t id) { return id >= vocab_size; });
  if (bad != ids.end()) {
    refuse_field(name, fmt::format("there is no token {}: expected 0 to {}, the model's vocabulary",
                                   *bad, vocab_size - 1));
  }
  return ids;
}

int64_t tokens_to_generate(int64_t max_model_len, int64_t prompt_tokens,
                           std::optional<int64_t> asked, std::optional<int64_t> fallback,
                           const std::string& prompt_name) {
  if (prompt_tokens == 0) {
    refuse_field(prompt_name, "the prompt is empty: there is nothing to continue");
  }
  const int64_t room = max_model_len - prompt_tokens;
  if (room < 0 || (room == 0 && asked.value_or(1) > 0)) {
    refuse_field(prompt_name,
                 fmt::format("the prompt has {} tokens and this model's maximum context length is "
                             "{} tokens: shorten it",
                             prompt_tokens, max_model_len));
  }
  if (asked && *asked > room) {
    refuse_field("max_tokens",
                 fmt::format("this model's maximum context length is {} tokens; the prompt has {} "
                             "and {} more were asked for",
                             max_model_len, prompt_tokens, *asked));
  }
  return asked.value_or(std::min(fallback.value_or(room), room));
}

std::string token_text(const Serving& serving, int32_t id) {
  return serving.tokenizer.decode({id}, /*skip_special=*/false);
}

}  // namespace moe4::server
