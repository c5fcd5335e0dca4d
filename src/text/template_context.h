// The variables that a chat template is rendered with.
#pragma once

#include <memory>
#include <string>
#include <string_view>

namespace moe4 {

/// Values by name, from JSON. Integers keep every digit and objects the order of their keys, so
/// that what a template prints is what transformers would print.
class TemplateContext {
 public:
  TemplateContext();
  ~TemplateContext();
  TemplateContext(TemplateContext&&) noexcept;
  TemplateContext& operator=(TemplateContext&&) noexcept;

  /// Every entry of a JSON object becomes a variable. Throws Error(kBadInput) naming `file`.
  void add_object(std::string_view json, const std::string& file);
  /// One variable, in place of the one there was. Throws Error(kBadInput) naming `file` and `name`.
  void set(const std::string& name, std::string_view json, const std::string& file);
  bool contains(const std::string& name) const;

 private:
  friend class ChatTemplate;
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace moe4
