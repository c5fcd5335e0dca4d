// Chooses among a checkpoint's templates and adds what transformers adds to the context.
#include "text/chat_template.h"

#include <algorithm>
#include <optional>
#include <vector>

#include "base/error.h"
#include "text/jinja/interpreter.h"
#include "text/jinja/json.h"
#include "text/jinja/parser.h"
#include "text/template_context_impl.h"
#include "text/template_files.h"
#include "text/utf8.h"

namespace moe4 {
namespace {

constexpr size_t kMaxTemplateBytes = size_t{4} << 20;

struct Parsed {
  std::string name;
  std::string file;
  jinja::Body body;
  std::optional<Error> broken;  // thrown when this one is asked for
};

jinja::Body parse_source(std::string_view source, const std::string& file) {
  if (source.size() > kMaxTemplateBytes) {
    throw_bad_input(
        {.what = "chat template is too large", .file = file, .expected = "at most 4 MiB"});
  }
  try {
    return jinja::parse_template(utf8_lossy(source));
  } catch (const jinja::SyntaxError& error) {
    throw_bad_input({.what = "chat template is not understood: " + printable(error.message),
                     .file = file,
                     .tensor = "line " + std::to_string(error.line)});
  }
}

}  // namespace

struct ChatTemplate::Impl {
  std::vector<Parsed> templates;  // not empty
  std::vector<std::pair<std::string, jinja::Value>> special_tokens;

  void add_special_tokens(const std::filesystem::path& directory) {
    for (const auto& [name, token] : find_special_tokens(directory)) {
      special_tokens.emplace_back(name, jinja::parse_json(token));
    }
  }

  // get_chat_template of transformers.
  const Parsed& choose(const jinja::Dict& context) const {
    const auto named = [&](const char* name) {
      return std::find_if(templates.begin(), templates.end(),
                          [&](const Parsed& one) { return one.name == name; });
    };
    const jinja::Value* tools = context.find("tools");
    auto chosen = templates.end();
    if (tools != nullptr && !tools->is_none()) chosen = named("tool_use");
    if (chosen == templates.end()) chosen = named("default");
    if (chosen == templates.end()) {
      std::string names;
      for (const Parsed& one : templates) names += (names.empty() ? "" : ", ") + one.name;
      throw_bad_input({.what = "the checkpoint has chat templates by name but no default",
                       .file = templates.front().file,
                       .tensor = "chat_template",
                       .expected = "one called default",
                       .found = names});
    }
    if (chosen->broken) throw Error(*chosen->broken);
    return *chosen;
  }
};

ChatTemplate::ChatTemplate(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
ChatTemplate::~ChatTemplate() = default;

std::unique_ptr<ChatTemplate> ChatTemplate::load(const std::filesystem::path& directory) {
  const std::vector<NamedTemplate> found = find_templates(directory);
  if (found.empty()) return nullptr;
  auto impl = std::make_unique<Impl>();
  for (const NamedTemplate& one : found) {
    Parsed parsed{.name = one.name, .file = one.file};
    try {
      parsed.body = parse_source(one.source, one.file);
    } catch (const Error& error) {
      if (found.size() == 1) throw;
      parsed.broken = error;
    }
    impl->templates.push_back(std::move(parsed));
  }
  impl->add_special_tokens(directory);
  return std::unique_ptr<ChatTemplate>(new ChatTemplate(std::move(impl)));
}

std::unique_ptr<ChatTemplate> ChatTemplate::load(const std::filesystem::path& directory,
                                                 std::string_view source, const std::string& name) {
  auto chat_template = parse(source, name);
  chat_template->impl_->add_special_tokens(directory);
  return chat_template;
}

std::unique_ptr<ChatTemplate> ChatTemplate::parse(std::string_view source,
                                                  const std::string& name) {
  auto impl = std::make_unique<Impl>();
  impl->templates.push_back({.name = "default", .file = name, .body = parse_source(source, name)});
  return std::unique_ptr<ChatTemplate>(new ChatTemplate(std::move(impl)));
}

std::string ChatTemplate::render(const TemplateContext& given) const {
  const Parsed& chosen = impl_->choose(given.impl_->variables);
  jinja::Dict context = given.impl_->variables;
  const auto set_default = [&](const std::string& key, const jinja::Value& value) {
    if (context.find(key) == nullptr) context.set(jinja::Value(key), value);
  };
  set_default("tools", jinja::Value());
  set_default("documents", jinja::Value());
  set_default("add_generation_prompt", jinja::Value(false));
  for (const auto& [key, token] : impl_->special_tokens) set_default(key, token);
  jinja::Interpreter interpreter(chosen.body, context);
  try {
    return interpreter.render();
  } catch (const jinja::TemplateError& error) {
    throw_bad_input({.what = "chat template: " + printable(error.what(), 1000),
                     .file = chosen.file,
                     .tensor = "line " + std::to_string(interpreter.line())});
  }
}

std::string ChatTemplate::render(const std::string& context_json) const {
  TemplateContext context;
  context.add_object(context_json, "the context of the chat template");
  return render(context);
}

}  // namespace moe4
