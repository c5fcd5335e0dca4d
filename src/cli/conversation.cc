// Renders messages through the chat template.
#include "cli/conversation.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "gguf/file.h"

namespace moe4::cli {

std::unique_ptr<ChatTemplate> load_chat_template(const std::filesystem::path& model) {
  std::error_code failure;
  if (!std::filesystem::exists(model, failure)) {
    throw_bad_input({.what = "no such checkpoint", .file = model.string()});
  }
  // A GGUF file has its own; beside one of safetensors they lie in the folder.
  const bool is_weights = std::filesystem::is_regular_file(model, failure) && !is_gguf_file(model);
  auto chat_template = ChatTemplate::load(is_weights ? model.parent_path() : model);
  if (chat_template) return chat_template;
  throw_bad_input({.what = "the checkpoint has no chat template",
                   .file = model.string(),
                   .expected = "chat_template.jinja, or chat_template in tokenizer_config.json or "
                               "chat_template.json",
                   .found = "none of them",
                   .hint = "moe4 run without --chat needs none"});
}

Conversation::Conversation(const std::filesystem::path& model, TemplateArguments arguments)
    : template_(load_chat_template(model)), arguments_(std::move(arguments)) {}

bool Conversation::drop_oldest_turn() {
  const auto is_system = [](const auto& message) { return message.first == "system"; };
  const auto is_user = [](const auto& message) { return message.first == "user"; };
  const auto oldest = std::find_if_not(messages_.begin(), messages_.end(), is_system);
  if (oldest == messages_.end()) return false;
  const auto next = std::find_if(oldest + 1, messages_.end(), is_user);
  if (next == messages_.end()) return false;
  messages_.erase(oldest, next);
  return true;
}

std::string Conversation::prompt() const {
  auto messages = nlohmann::ordered_json::array();  // role first, as everywhere
  for (const auto& [role, text] : messages_)
    messages.push_back({{"role", role}, {"content", text}});
  TemplateContext context;
  context.set("add_generation_prompt", "true", "");
  context.set("messages", messages.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace),
              "");
  for (const auto& [name, value] : arguments_) context.set(name, value, "--template-arg");
  return template_->render(context);
}

}  // namespace moe4::cli
