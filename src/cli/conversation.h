// Messages of a chat and the prompt that the checkpoint's template makes of them.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "text/chat_template.h"

namespace moe4::cli {

class Conversation {
 public:
  /// Throws Error(kBadInput) when the checkpoint has no chat template.
  explicit Conversation(const std::filesystem::path& model_directory);
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
  std::vector<std::pair<std::string, std::string>> messages_;
};

}  // namespace moe4::cli
