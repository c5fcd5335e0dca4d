// The messages of a conversation and the prompt that a chat template makes of them.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "cli/template_flags.h"
#include "text/chat_template.h"

namespace moe4::cli {

/// The template of a checkpoint folder, or of the folder that a checkpoint file lies in. Throws
/// Error(kBadInput) when there is none.
std::unique_ptr<ChatTemplate> load_chat_template(const std::filesystem::path& model);

class Conversation {
 public:
  /// `arguments`: variables that the template sees in every turn. Throws Error(kBadInput) when the
  /// checkpoint has no chat template.
  explicit Conversation(const std::filesystem::path& model, TemplateArguments arguments = {});
  /// `role`: "system", "user" or "assistant".
  void add(const std::string& role, const std::string& text) { messages_.emplace_back(role, text); }
  void clear() { messages_.clear(); }
  /// Forgets the oldest message that is not the system's, and all up to the next one of the user.
  /// False when only the newest of the user's is left.
  bool drop_oldest_turn();
  /// Takes the newest message back.
  void remove_last() { messages_.pop_back(); }
  /// The whole conversation rendered, ready for the assistant's next words.
  std::string prompt() const;

 private:
  std::unique_ptr<ChatTemplate> template_;
  TemplateArguments arguments_;
  std::vector<std::pair<std::string, std::string>> messages_;
};

}  // namespace moe4::cli
