// Renders messages through the chat template.
#include "cli/conversation.h"

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

std::string Conversation::prompt() const {
  nlohmann::json context = {{"messages", nlohmann::json::array()}, {"add_generation_prompt", true}};
  for (const auto& [role, text] : messages_)
    context["messages"].push_back({{"role", role}, {"content", text}});
  return template_->render(context.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
}

}  // namespace moe4::cli
