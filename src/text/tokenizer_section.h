// A JSON object inside tokenizer.json that knows its path, so that every complaint says where.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"

namespace moe4 {

class TokenizerSection {
 public:
  TokenizerSection(const nlohmann::json& value, std::string path, const std::string& file)
      : value_(value), path_(std::move(path)), file_(file) {
    if (!value.is_object()) refuse("not a JSON object", value_.type_name());
  }

  [[noreturn]] void refuse(const std::string& what, const std::string& found,
                           const std::string& expected = "") const {
    throw_bad_input(
        {.what = what, .file = file_, .tensor = path_, .expected = expected, .found = found});
  }

  bool has(const char* key) const {
    const auto found = value_.find(key);
    return found != value_.end() && !found->is_null();
  }

  std::string text(const char* key) const {
    if (!has(key) || !value_[key].is_string()) refuse("missing string", "no " + std::string(key));
    return value_[key].get<std::string>();
  }

  std::string type() const { return text("type"); }

  bool flag(const char* key, bool otherwise) const {
    if (!has(key)) return otherwise;
    if (!value_[key].is_boolean()) refuse("not a boolean", key);
    return value_[key].get<bool>();
  }

  TokenizerSection child(const char* key) const {
    if (!has(key)) refuse("missing section", "no " + std::string(key));
    return TokenizerSection(value_[key], path_ + "." + key, file_);
  }

  std::vector<TokenizerSection> children(const char* key) const {
    if (!has(key) || !value_[key].is_array()) refuse("missing array", "no " + std::string(key));
    std::vector<TokenizerSection> sections;
    for (const nlohmann::json& element : value_[key]) {
      sections.emplace_back(element,
                            path_ + "." + key + "[" + std::to_string(sections.size()) + "]", file_);
    }
    return sections;
  }

  const nlohmann::json& at(const char* key) const { return value_[key]; }
  const std::string& file() const { return file_; }

 private:
  const nlohmann::json& value_;
  std::string path_;
  const std::string& file_;
};

}  // namespace moe4
