// What calls whose parameters stand between tags have in common: names, values up to a tag,
// arguments as one object.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <set>
#include <span>
#include <string>
#include <string_view>

#include "dialog/format.h"
#include "dialog/tool_schemas.h"

namespace moe4 {

class XmlFormat : public CallFormat {
 protected:
  explicit XmlFormat(const nlohmann::json* tool_list) : schemas_(tool_list) {}

  /// A call begins.
  void reset();
  /// Reads a name up to one of `ends` into *name; *end: which.
  static Progress read_name(TextReader& reader, std::span<const std::string_view> ends,
                            std::string* name, size_t* end);
  /// Reads key_'s value up to `close` into value_. Behind it one of `followers` must come after
  /// white space, and is left unread; else it was text of the value.
  Progress read_value(TextReader& reader, std::string_view close,
                      std::span<const std::string_view> followers);
  /// Tells key_ with this JSON for its value; false when the call has that parameter already.
  bool tell_parameter(TextReader& reader, DialogOutput& output, std::string_view json);
  void tell_end(TextReader& reader, DialogOutput& output);

  ToolSchemas schemas_;
  std::string tool_, key_, value_;

 private:
  std::set<std::string> seen_;
  bool closing_ = false;  // after the tag that may close a value
  std::string space_;     // ... and what came behind it
};

}  // namespace moe4
