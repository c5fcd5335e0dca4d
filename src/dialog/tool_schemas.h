// Values of parameters that models write as bare text: which JSON they are by the tool's schema.
#pragma once

#include <map>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace moe4 {

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

 private:
  using Types = std::vector<std::string>;  // JSON schema's words
  std::map<std::string, std::map<std::string, Types>> types_;
};

}  // namespace moe4
