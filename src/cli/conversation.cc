// Renders messages through the chat template.
#include "cli/conversation.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/error.h"

namespace moe4::cli {

Conversation::Conversation(const std::filesystem::path& model_directory)
    : template_(ChatTemplate::load(model_directory)) {
  if (template_) return;
  throw_bad_input({.what = "the checkpoint has no chat template",
                   .file = model_directory.string(),
                   .expected = "chat_template.jinja, or chat_template in tokenizer_config.json",
                   .found = "neither",
                   .hint = "use moe4 run without --chat"});
}

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
  nlohmann::json context = {{"messages", nlohmann::json::array()}, {"add_generation_prompt", true}};
  for (const auto& [role, text] : messages_)
    context["messages"].push_back({{"role", role}, {"content", text}});
  return template_->render(context.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
}

}  // namespace moe4::cli
