// Renders a checkpoint's chat template: jinja2 as transformers sets it up, without Python.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <string_view>

#include "text/template_context.h"

namespace moe4 {

class ChatTemplate {
 public:
  /// From chat_template.jinja, else tokenizer_config.json, else chat_template.json (see
  /// template_files.h). nullptr when the checkpoint has none. Throws Error(kBadInput) for
  /// unreadable files.
  static std::unique_ptr<ChatTemplate> load(const std::filesystem::path& directory);
  /// `source` instead of the checkpoint's own, with the special tokens of the checkpoint.
  static std::unique_ptr<ChatTemplate> load(const std::filesystem::path& directory,
                                            std::string_view source, const std::string& name);
  /// Throws Error(kBadInput) naming the construct that is not known and its line.
  static std::unique_ptr<ChatTemplate> parse(std::string_view source, const std::string& name);
  ~ChatTemplate();

  /// `context`: messages, tools, add_generation_prompt, enable_thinking, ... exactly as
  /// transformers' apply_chat_template would pass them. Of several templates by name, "tool_use"
  /// serves contexts with tools, else "default". raise_exception() and run-away loops become
  /// Error(kBadInput).
  std::string render(const TemplateContext& context) const;
  /// The same from a JSON object.
  std::string render(const std::string& context_json) const;

 private:
  struct Impl;
  explicit ChatTemplate(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace moe4
