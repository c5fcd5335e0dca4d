// Checks what a user hands to a chat template before the template sees it.
#include "cli/template_flags.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <cctype>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "cli/options.h"
#include "text/read_text_file.h"

namespace moe4::cli {
namespace {

using nlohmann::json;

constexpr int64_t kMaxFileBytes = int64_t{64} << 20;

bool is_identifier(const std::string& name) {
  const auto is_letter = [](unsigned char c) { return std::isalpha(c) != 0 || c == '_'; };
  return !name.empty() && is_letter(static_cast<unsigned char>(name[0])) &&
         std::all_of(name.begin(), name.end(), [&](char c) {
           return is_letter(static_cast<unsigned char>(c)) || (c >= '0' && c <= '9');
         });
}

// The value as JSON.
std::string argument_value(const std::string& name, const std::string& text) {
  if (json::accept(text)) return text;
  static constexpr std::array<std::string_view, 3> kPython = {"True", "False", "None"};
  if (std::find(kPython.begin(), kPython.end(), text) != kPython.end()) {
    throw Error(ErrorCode::kUsage,
                "--template-arg " + name + "=" + text + ": JSON writes true, false and null");
  }
  if (!text.empty() && std::string_view("{[\"").find(text[0]) != std::string_view::npos) {
    throw Error(ErrorCode::kUsage,
                "--template-arg " + name + ": not valid JSON: '" + printable(text, 100) + "'");
  }
  return json(text).dump(-1, ' ', false, json::error_handler_t::replace);
}

std::string read_json(const std::string& path, json* parsed) {
  auto text = read_text_file(path, kMaxFileBytes);
  if (!text) throw_bad_input({.what = "no such file", .file = path});
  try {
    *parsed = json::parse(*text);
  } catch (const json::parse_error& error) {
    throw_bad_input({.what = "not valid JSON", .file = path, .found = error.what()});
  } catch (const json::exception&) {
    // A number that does not fit into nlohmann's types: the template's own reader judges it.
    *parsed = json();
  }
  return std::move(*text);
}

void check_messages(const json& messages, const std::string& path) {
  if (!messages.is_array()) {
    throw_bad_input({.what = "messages are not a list", .file = path, .tensor = "messages"});
  }
  for (size_t i = 0; i < messages.size(); ++i) {
    const bool good = messages[i].is_object() && messages[i].value("role", json()).is_string();
    if (good) continue;
    throw_bad_input({.what = "a message has no role",
                     .file = path,
                     .tensor = "messages[" + std::to_string(i) + "]",
                     .expected = R"(an object such as {"role": "user", "content": "Hi"})"});
  }
}

}  // namespace

void add_template_flags(CLI::App& command, TemplateFlags& flags) {
  with_env(command
               .add_option("--template-arg", flags.arguments,
                           "NAME=JSON: a variable of the chat template, such as "
                           "enable_thinking=false; may be repeated")
               ->allow_extra_args(false));
}

TemplateArguments template_arguments(const TemplateFlags& flags) {
  TemplateArguments arguments;
  for (const std::string& text : flags.arguments) {
    const size_t equals = text.find('=');
    const std::string name = text.substr(0, equals);
    if (equals == std::string::npos || !is_identifier(name)) {
      throw Error(ErrorCode::kUsage, "--template-arg '" + printable(text, 100) +
                                         "': expected NAME=JSON, such as enable_thinking=false");
    }
    if (name == "messages") {
      throw Error(ErrorCode::kUsage, "--template-arg cannot replace the messages");
    }
    arguments.emplace_back(name, argument_value(name, text.substr(equals + 1)));
  }
  return arguments;
}

void add_messages_file(const std::string& path, TemplateContext& context) {
  json parsed;
  const std::string text = read_json(path, &parsed);
  if (parsed.is_object()) {
    check_messages(parsed.value("messages", json()), path);
    context.add_object(text, path);
  } else {
    check_messages(parsed, path);
    context.set("messages", text, path);
  }
}

void add_tools_file(const std::string& path, TemplateContext& context) {
  json parsed;
  const std::string text = read_json(path, &parsed);
  if (!parsed.is_array()) {
    throw_bad_input({.what = "tools are not a list", .file = path, .expected = "a JSON array"});
  }
  context.set("tools", text, path);
}

}  // namespace moe4::cli
