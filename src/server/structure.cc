// From fields of requests to masks of tokens.
#include "server/structure.h"

#include <fmt/format.h>

#include "base/error.h"
#include "server/request_fields.h"

namespace moe4::server {
namespace {

using Kind = StructureRequest::Kind;

void set(StructureRequest& request, StructureRequest found) {
  if (request.kind != Kind::kNone) {
    refuse_field(found.field, "the answer has a form already by " + request.field);
  }
  request = std::move(found);
}

// An object, or its text.
std::string schema_text(const JsonValue& value, const std::string& field) {
  if (value.is_string()) return value.get<std::string>();
  if (!value.is_object() && !value.is_boolean()) {
    refuse_field(field, fmt::format("expected a schema, found {}", type_words(value)));
  }
  return dump(value);
}

std::shared_ptr<const Grammar> compile_form(const StructureRequest& request) {
  switch (request.kind) {
    case Kind::kJsonObject:
      return compile_json_object();
    case Kind::kJsonSchema:
      return compile_json_schema(request.text);
    case Kind::kRegex:
      return compile_regex(request.text);
    case Kind::kCalls:
      return compile_tagged_answer(request.calls);
    default:
      return compile_choice(request.choices);
  }
}

std::shared_ptr<const Grammar> compile(const StructureRequest& request) {
  try {
    const auto form = compile_form(request);
    return request.reasoned ? compile_reasoned_answer(*request.reasoned, *form) : form;
  } catch (const Error& error) {
    refuse_field(request.field, error.what());
  }
}

// All that makes the grammar, each text with its length before it.
std::string key_of(const StructureRequest& request) {
  std::string key = std::to_string(static_cast<int>(request.kind));
  const auto add = [&key](const std::string& text) {
    key += " " + std::to_string(text.size()) + ":" + text;
  };
  add(request.text);
  for (const std::string& choice : request.choices) add(choice);
  const TaggedAnswer& calls = request.calls;
  for (const TaggedJson& call : calls.tags) {
    for (const std::string* text : {&call.begin, &call.schema, &call.end}) add(*text);
  }
  for (const std::string* text : {&calls.trigger, &calls.before, &calls.separator, &calls.after}) {
    add(*text);
  }
  key += calls.needs_call ? " needed" : "";
  key += calls.allows_more ? " more" : "";
  if (!request.reasoned) return key;
  const ReasonedAnswer& reasoned = *request.reasoned;
  for (const std::string* text : {&reasoned.begin, &reasoned.end, &reasoned.answer_begin}) {
    add(*text);
  }
  key += reasoned.is_optional ? " optional" : "";
  key += reasoned.has_line_breaks ? " lines" : "";
  return key;
}

}  // namespace

void read_guided(const char* kind, const JsonValue& value, const std::string& field,
                 StructureRequest& request) {
  const std::string_view name = kind;
  StructureRequest found{.field = field};
  if (name == "json") {
    found.kind = Kind::kJsonSchema;
    found.text = schema_text(value, field);
  } else if (name == "regex") {
    found.kind = Kind::kRegex;
    found.text = read_string(value, field);
  } else if (name == "choice") {
    found.kind = Kind::kChoice;
    read_array(value, field);
    for (size_t i = 0; i < value.size(); ++i) {
      found.choices.push_back(read_string(value[i], fmt::format("{}[{}]", field, i)));
    }
  } else if (name == "json_object") {
    if (!read_boolean(value, field)) return;
    found.kind = Kind::kJsonObject;
  } else {
    refuse_field(field, "not supported; json, json_object, regex and choice are");
  }
  set(request, std::move(found));
}

void read_structured_outputs(const JsonValue& value, StructureRequest& request) {
  read_object(value, "structured_outputs");
  for (const auto& [name, member] : value.items()) {
    // How the JSON is written: any of them gives what the schema accepts.
    if (member.is_null() || name == "disable_any_whitespace" ||
        name == "disable_additional_properties" || name == "whitespace_pattern") {
      continue;
    }
    read_guided(name.c_str(), member, "structured_outputs." + printable(name, 40), request);
  }
}

void read_response_format(const JsonValue& value, const std::string& field,
                          StructureRequest& request) {
  read_object(value, field);
  const auto type = value.find("type");
  if (type == value.end()) refuse_field(field + ".type", "the field is missing");
  const std::string kind = read_string(*type, field + ".type");
  if (kind == "text") return;
  if (kind == "json_object") return read_guided("json_object", true, field, request);
  if (kind != "json_schema") {
    refuse_field(field + ".type", fmt::format("'{}': expected text, json_object or json_schema",
                                              printable(kind, 40)));
  }
  // Chat completions have it in an object of its own, responses beside the type.
  const auto wrapped = value.find("json_schema");
  const JsonValue& holder =
      wrapped == value.end() ? value : read_object(*wrapped, field + ".json_schema");
  const std::string name = wrapped == value.end() ? field : field + ".json_schema";
  const auto schema = holder.find("schema");
  if (schema == holder.end()) refuse_field(name + ".schema", "the field is missing");
  read_guided("json", *schema, name + ".schema", request);
}

std::shared_ptr<const TokenMasks> StructureCache::masks(const StructureRequest& request) {
  if (request.kind == Kind::kNone) return nullptr;
  std::string key = key_of(request);
  {
    const std::lock_guard lock(mutex_);
    if (const auto found = by_key_.find(key); found != by_key_.end()) {
      entries_.splice(entries_.begin(), entries_, found->second);
      return entries_.front().second;
    }
  }
  std::call_once(has_vocabulary_,
                 [&] { vocabulary_ = std::make_shared<const Vocabulary>(tokenizer_); });
  auto masks = std::make_shared<const TokenMasks>(compile(request), vocabulary_);
  const std::lock_guard lock(mutex_);
  if (by_key_.contains(key)) return masks;  // of another thread, at the same time
  entries_.emplace_front(key, masks);
  by_key_.emplace(std::move(key), entries_.begin());
  if (entries_.size() > kMaxEntries) {
    by_key_.erase(entries_.back().first);
    entries_.pop_back();
  }
  return masks;
}

}  // namespace moe4::server
