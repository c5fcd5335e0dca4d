// Renders a checkpoint's chat template: a Jinja subset that covers the templates of shipped chat
// models.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

namespace moe4 {

class ChatTemplate {
 public:
  /// chat_template.jinja, else tokenizer_config.json's `chat_template` (a string, or a list with a
  /// "default"). nullptr when the checkpoint has none. Throws Error(kBadInput) for unreadable
  /// files.
  static std::unique_ptr<ChatTemplate> load(const std::filesystem::path& directory);
  /// Throws Error(kBadInput) naming the construct that is not known and its line.
  static std::unique_ptr<ChatTemplate> parse(std::string_view source, const std::string& name);
  ~ChatTemplate();

  /// `context_json`: an object with messages, tools, add_generation_prompt, enable_thinking, ...
  /// exactly as transformers' apply_chat_template would pass them. raise_exception() and run-away
  /// loops become Error(kBadInput).
  std::string render(const std::string& context_json) const;

 private:
  struct Impl;
  explicit ChatTemplate(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace moe4
