// JSON into template variables.
#include "text/template_context.h"

#include "base/error.h"
#include "text/jinja/error.h"
#include "text/jinja/json.h"
#include "text/template_context_impl.h"

namespace moe4 {
namespace {

jinja::Value parse(std::string_view json, const std::string& file, const std::string& name) {
  try {
    return jinja::parse_json(json);
  } catch (const jinja::TemplateError& error) {
    throw_bad_input({.what = printable(error.what(), 400), .file = file, .tensor = name});
  }
}

}  // namespace

TemplateContext::TemplateContext() : impl_(std::make_unique<Impl>()) {}
TemplateContext::~TemplateContext() = default;
TemplateContext::TemplateContext(TemplateContext&&) noexcept = default;
TemplateContext& TemplateContext::operator=(TemplateContext&&) noexcept = default;

void TemplateContext::add_object(std::string_view json, const std::string& file) {
  const jinja::Value value = parse(json, file, "");
  const jinja::Dict* object = value.dict_or_null();
  if (object == nullptr) throw_bad_input({.what = "not a JSON object", .file = file});
  for (const auto& [key, item] : object->entries()) impl_->variables.set(key, item);
}

void TemplateContext::set(const std::string& name, std::string_view json, const std::string& file) {
  impl_->variables.set(jinja::Value(name), parse(json, file, name));
}

bool TemplateContext::contains(const std::string& name) const {
  return impl_->variables.find(name) != nullptr;
}

}  // namespace moe4
