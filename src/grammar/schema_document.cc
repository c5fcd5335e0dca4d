// Parsing with limits, pointers and references.
#include "grammar/schema_document.h"

#include <fmt/format.h>

#include <algorithm>
#include <initializer_list>
#include <set>
#include <utility>

#include "base/error.h"

namespace moe4::grammar {
namespace {

[[noreturn]] void refuse(const std::string& what) {
  throw Error(ErrorCode::kUsage, "JSON schema: " + what);
}

// Looks a document over before it is built: how deep, how large, keys given twice.
class Limits : public nlohmann::json_sax<SchemaJson> {
 public:
  bool null() override { return count(); }
  bool boolean(bool) override { return count(); }
  bool number_integer(number_integer_t) override { return count(); }
  bool number_unsigned(number_unsigned_t) override { return count(); }
  bool number_float(number_float_t, const string_t&) override { return count(); }
  bool string(string_t&) override { return count(); }
  bool binary(binary_t&) override { return count(); }
  bool start_object(size_t) override { return open(); }
  bool start_array(size_t) override { return open(); }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }
  bool key(string_t& key) override {
    if (!keys_.back().insert(key).second) {
      refuse(fmt::format("the key '{}' is in one object twice: remove one", printable(key)));
    }
    if (keys_.back().size() > SchemaDocument::kMaxMembers) {
      refuse(fmt::format("an object has more than {} members: expected at most that many",
                         SchemaDocument::kMaxMembers));
    }
    return true;
  }
  bool parse_error(size_t position, const std::string&,
                   const nlohmann::detail::exception& error) override {
    refuse(fmt::format("it is no valid JSON, byte {}: {}", position, printable(error.what())));
  }

 private:
  bool count() {
    if (++values_ > SchemaDocument::kMaxValues) {
      refuse(
          fmt::format("it has more than {} values: make it smaller", SchemaDocument::kMaxValues));
    }
    return true;
  }
  bool open() {
    if (keys_.size() == SchemaDocument::kMaxDepth) {
      refuse(fmt::format("it nests deeper than {} levels", SchemaDocument::kMaxDepth));
    }
    keys_.emplace_back();
    return count();
  }
  bool close() {
    keys_.pop_back();
    return true;
  }

  std::vector<std::set<std::string>> keys_;
  size_t values_ = 0;
};

std::string percent_decoded(std::string_view text) {
  const auto digit = [](char c) {
    const std::string_view digits = "0123456789abcdef";
    return digits.find(static_cast<char>(c >= 'A' && c <= 'F' ? c + 32 : c));
  };
  std::string result;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '%' && i + 2 < text.size() && digit(text[i + 1]) != std::string_view::npos &&
        digit(text[i + 2]) != std::string_view::npos) {
      result += static_cast<char>(digit(text[i + 1]) * 16 + digit(text[i + 2]));
      i += 2;
    } else {
      result += text[i];
    }
  }
  return result;
}

std::string replaced(std::string text, std::string_view from, std::string_view to) {
  for (size_t at = 0; (at = text.find(from, at)) != std::string::npos; at += to.size()) {
    text.replace(at, from.size(), to);
  }
  return text;
}

std::string text_of(const SchemaJson& object, const char* key) {
  if (!object.is_object()) return {};
  const auto it = object.find(key);
  return it != object.end() && it->is_string() ? it->get<std::string>() : std::string();
}

}  // namespace

SchemaDocument::SchemaDocument(std::string_view text) {
  if (text.size() > kMaxBytes) {
    refuse(fmt::format("it has {} bytes: expected at most {}", text.size(), kMaxBytes));
  }
  Limits limits;
  SchemaJson::sax_parse(text, &limits);
  root_ = SchemaJson::parse(text);
  index(root_, nullptr, "");
  const std::string dialect = text_of(root_, "$schema");
  for (const char* old : {"draft-03", "draft-04", "draft-06", "draft-07"}) {
    if (dialect.find(old) != std::string::npos) ref_stands_alone_ = true;
  }
}

// Recursion as deep as the document, which kMaxDepth bounds.
void SchemaDocument::index(const SchemaJson& value, const SchemaJson* parent, std::string key) {
  places_[&value] = {parent, std::move(key), static_cast<uint32_t>(order_.size())};
  order_.push_back(&value);
  if (value.is_object()) {
    for (const auto& [name, member] : value.items()) index(member, &value, name);
  } else if (value.is_array()) {
    for (size_t i = 0; i < value.size(); ++i) index(value[i], &value, std::to_string(i));
  }
}

// Whether it is inside of a value that a keyword gives, where $anchor is a name like any other.
bool SchemaDocument::is_data(const SchemaJson& place) const {
  const auto is_one_of = [](const std::string& key, std::initializer_list<const char*> keys) {
    return std::any_of(keys.begin(), keys.end(), [&](const char* k) { return key == k; });
  };
  for (const Place* at = &places_.at(&place); at->parent != nullptr; at = &places_.at(at->parent)) {
    const Place& parent = places_.at(at->parent);
    const bool is_name = is_one_of(parent.key, {"properties", "patternProperties", "$defs",
                                                "definitions", "dependentSchemas"});
    if (!is_name && is_one_of(at->key, {"enum", "const", "default", "examples"})) return true;
  }
  return false;
}

std::string SchemaDocument::pointer(const SchemaJson& place) const {
  std::string result;
  for (const Place* at = &places_.at(&place); at->parent != nullptr; at = &places_.at(at->parent)) {
    result.insert(0, "/" + replaced(replaced(at->key, "~", "~0"), "/", "~1"));
  }
  return result;
}

const SchemaJson& SchemaDocument::resolve(const SchemaJson& from,
                                          const std::string& reference) const {
  // Under another base a reference means another document.
  for (const SchemaJson* at = &from; at != &root_; at = places_.at(at).parent) {
    const std::string base = text_of(*at, "$id");
    if (!base.empty() && !base.starts_with('#')) {
      fail(from, "$ref", "references inside of a nested $id are not supported");
    }
  }
  const size_t hash = reference.find('#');
  const std::string document = reference.substr(0, hash);
  if (!document.empty()) {
    std::string own = text_of(root_, "$id");
    if (own.empty()) own = text_of(root_, "id");
    if (own.substr(0, own.find('#')) != document) {
      fail(from, "$ref",
           fmt::format("'{}' is outside of this document: expected '#/...', so copy it to $defs",
                       printable(reference)));
    }
  }
  const std::string fragment =
      hash == std::string::npos ? "" : percent_decoded(reference.substr(hash + 1));
  if (!fragment.empty() && !fragment.starts_with('/')) {
    for (const SchemaJson* place : order_) {
      const std::string anchor = text_of(*place, "$anchor");
      const bool is_meant = anchor == fragment || text_of(*place, "$id") == "#" + fragment;
      if (is_meant && !is_data(*place)) return *place;
    }
    fail(from, "$ref", fmt::format("no $anchor is called '{}'", printable(fragment)));
  }
  const SchemaJson* at = &root_;
  std::string_view rest = fragment;
  while (!rest.empty()) {
    rest.remove_prefix(1);
    const size_t end = std::min(rest.find('/'), rest.size());
    const std::string key =
        replaced(replaced(std::string(rest.substr(0, end)), "~1", "/"), "~0", "~");
    rest.remove_prefix(end);
    const SchemaJson* next = nullptr;
    if (at->is_object()) {
      const auto it = at->find(key);
      if (it != at->end()) next = &*it;
    } else if (at->is_array() && !key.empty() && key.size() < 7 &&
               key.find_first_not_of("0123456789") == std::string::npos) {
      const size_t i = std::stoul(key);
      if (i < at->size()) next = &(*at)[i];
    }
    if (next == nullptr) {
      fail(from, "$ref", fmt::format("'{}' leads nowhere", printable(reference)));
    }
    at = next;
  }
  return *at;
}

void SchemaDocument::fail(const SchemaJson& schema, std::string_view keyword,
                          const std::string& what) const {
  std::string path = pointer(schema);
  if (!keyword.empty()) {
    path += "/" + replaced(replaced(std::string(keyword), "~", "~0"), "/", "~1");
  }
  throw Error(ErrorCode::kUsage,
              fmt::format("JSON schema, {}: {}", path.empty() ? "root" : printable(path), what));
}

}  // namespace moe4::grammar
