// Where a checkpoint keeps its template, and what transformers adds to the context.
#include "text/chat_template.h"

#include <array>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "text/jinja/interpreter.h"
#include "text/jinja/json.h"
#include "text/jinja/parser.h"
#include "text/read_text_file.h"
#include "text/utf8.h"

namespace moe4 {
namespace {

using nlohmann::json;

constexpr int64_t kMaxTemplateBytes = int64_t{4} << 20;
constexpr int64_t kMaxConfigBytes = int64_t{64} << 20;

constexpr std::array<const char*, 7> kSpecialTokens = {
    "bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"};

json read_config(const std::filesystem::path& path) {
  const auto text = read_text_file(path, kMaxConfigBytes);
  if (!text) return json::object();
  try {
    json config = json::parse(*text);
    if (config.is_object()) return config;
  } catch (const json::exception& error) {
    throw_bad_input({.what = "not valid JSON", .file = path.string(), .found = error.what()});
  }
  throw_bad_input({.what = "not a JSON object", .file = path.string()});
}

// A string, or a list of {name, template} with a "default".
std::optional<std::string> template_of(const json& config, const std::string& file) {
  const auto found = config.find("chat_template");
  if (found == config.end() || found->is_null()) return std::nullopt;
  if (found->is_string()) return found->get<std::string>();
  if (found->is_array()) {
    for (const json& entry : *found) {
      if (entry.is_object() && entry.value("name", json()) == "default" &&
          entry.value("template", json()).is_string()) {
        return entry["template"].get<std::string>();
      }
    }
  }
  throw_bad_input({.what = "chat_template is neither a string nor a list with a default",
                   .file = file,
                   .tensor = "chat_template"});
}

std::string token_text(const json& token) {
  if (token.is_string()) return token.get<std::string>();
  if (token.is_object() && token.value("content", json()).is_string()) {
    return token["content"].get<std::string>();
  }
  return "";
}

}  // namespace

struct ChatTemplate::Impl {
  std::string name;
  jinja::Body body;
  std::vector<std::pair<std::string, std::string>> special_tokens;
};

ChatTemplate::ChatTemplate(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
ChatTemplate::~ChatTemplate() = default;

std::unique_ptr<ChatTemplate> ChatTemplate::load(const std::filesystem::path& directory) {
  const std::filesystem::path own_file = directory / "chat_template.jinja";
  const std::filesystem::path config_file = directory / "tokenizer_config.json";
  const json config = read_config(config_file);
  auto source = read_text_file(own_file, kMaxTemplateBytes);
  const std::string name = source ? own_file.string() : config_file.string();
  if (!source) source = template_of(config, name);
  if (!source) return nullptr;
  auto result = parse(*source, name);
  for (const char* key : kSpecialTokens) {
    const auto found = config.find(key);
    const std::string text = found == config.end() ? "" : token_text(*found);
    if (!text.empty()) result->impl_->special_tokens.emplace_back(key, text);
  }
  return result;
}

std::unique_ptr<ChatTemplate> ChatTemplate::parse(std::string_view source,
                                                  const std::string& name) {
  if (static_cast<int64_t>(source.size()) > kMaxTemplateBytes) {
    throw_bad_input(
        {.what = "chat template is too large", .file = name, .expected = "at most 4 MiB"});
  }
  try {
    auto impl = std::make_unique<Impl>();
    impl->name = name;
    impl->body = jinja::parse_template(utf8_lossy(source));
    return std::unique_ptr<ChatTemplate>(new ChatTemplate(std::move(impl)));
  } catch (const jinja::SyntaxError& error) {
    throw_bad_input({.what = "chat template is not understood: " + printable(error.message),
                     .file = name,
                     .tensor = "line " + std::to_string(error.line)});
  }
}

std::string ChatTemplate::render(const std::string& context_json) const {
  jinja::Dict context;
  const auto set_default = [&](const std::string& key, jinja::Value value) {
    if (context.find(key) == nullptr) context.set(jinja::Value(key), std::move(value));
  };
  int line = 0;
  try {
    context = jinja::parse_json_object(context_json);
    set_default("tools", jinja::Value());
    set_default("documents", jinja::Value());
    set_default("add_generation_prompt", jinja::Value(false));
    for (const auto& [key, text] : impl_->special_tokens) set_default(key, jinja::Value(text));
    jinja::Interpreter interpreter(impl_->body, context);
    try {
      return interpreter.render();
    } catch (const jinja::TemplateError&) {
      line = interpreter.line();
      throw;
    }
  } catch (const jinja::TemplateError& error) {
    throw_bad_input({.what = "chat template: " + printable(error.what(), 1000),
                     .file = impl_->name,
                     .tensor = line == 0 ? "" : "line " + std::to_string(line)});
  }
}

}  // namespace moe4
