// Values of parameters that models write as bare text: which JSON they are by the tool's schema.
#pragma once

#include <map>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace moe4 {

/// A value between tags of its name: text, or other values between tags.
struct TaggedValue {
  std::string name;
  std::string text;
  std::vector<TaggedValue> children;
};

class ToolSchemas {
 public:
  enum class Unknown { kString, kJsonIfItIs };

  /// `tool_list`: OpenAI's list of tools, already checked or not: what is no schema says nothing.
  /// May be null. Follows anyOf, oneOf, allOf, enum, const and references into the same schema.
  explicit ToolSchemas(const nlohmann::json* tool_list);

  /// The JSON of `text`: of the first of the parameter's types that it can be, null before others;
  /// a string when it can be none of them. `unknown`: what a parameter without a schema is.
  std::string to_json(const std::string& tool, const std::string& parameter, std::string_view text,
                      Unknown unknown) const;
  /// The JSON of a parameter whose objects are values by name, and whose lists are values called
  /// "item". Such values are a list where the schema has one or says nothing, else an object with
  /// that key. An object's values of one name are a list. What holds nothing is the first of "",
  /// [] and {} that the schema has. Without a schema texts are strings.
  std::string to_json(const std::string& tool, const TaggedValue& parameter) const;

 private:
  // The schemas of the tools' arguments.
  std::map<std::string, std::shared_ptr<const nlohmann::json>> parameters_;
};

}  // namespace moe4
