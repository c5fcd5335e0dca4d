// What goes wrong inside a template, before the line and the file are known.
#pragma once

#include <stdexcept>
#include <string>

namespace moe4::jinja {

struct TemplateError : std::runtime_error {
  explicit TemplateError(const std::string& message) : std::runtime_error(message) {}
};

}  // namespace moe4::jinja
