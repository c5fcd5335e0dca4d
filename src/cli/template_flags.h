// --template-arg, and the JSON files that become a chat template's variables.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "text/template_context.h"

namespace CLI {
class App;
}

namespace moe4::cli {

/// As given: NAME=JSON.
struct TemplateFlags {
  std::vector<std::string> arguments;
};
void add_template_flags(CLI::App& command, TemplateFlags& flags);

/// Variables by name, each a JSON text.
using TemplateArguments = std::vector<std::pair<std::string, std::string>>;
/// A value that is not JSON is a string, unless it looks like JSON or like a constant of Python.
/// Throws Error(kUsage) for those, for bad names and for names that other flags set.
TemplateArguments template_arguments(const TemplateFlags& flags);

/// What --messages and --tools name. FILE holds an array of messages, or an object with `messages`
/// and other variables. Throws Error(kBadInput) for anything else.
void add_messages_file(const std::string& path, TemplateContext& context);
void add_tools_file(const std::string& path, TemplateContext& context);

}  // namespace moe4::cli
