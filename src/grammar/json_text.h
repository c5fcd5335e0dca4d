// JSON as rules: white space, values of any kind, given values.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "grammar/automaton.h"

namespace moe4::grammar {

/// Rules that many places of a schema share; each is made when it is first asked for.
///
/// White space is allowed after { [ , : and before } ]: nothing, a space, or a line break with up
/// to kMaxIndent spaces or tabs. Bounded, so that no model stays in it for ever.
class JsonRules {
 public:
  static constexpr int kMaxIndent = 64;

  explicit JsonRules(AutomatonBuilder& builder) : builder_(builder) {}

  RuleId space();
  RuleId any_string();  ///< every escape allowed
  RuleId any_value();
  RuleId any_object();
  RuleId any_array();
  RuleId literal(const nlohmann::ordered_json& value);

  /// A way for `text` as JSON's punctuation with white space after it (before it for } and ]).
  StateId open(StateId from, char bracket);
  void close(StateId from, char bracket, StateId to);
  StateId separator(StateId from, char text);

  /// Members of objects: a rule for a key, and one for what comes after the colon.
  StateId member(StateId from, RuleId key, RuleId value);

 private:
  StateId value_way(StateId from, const nlohmann::ordered_json& value);

  AutomatonBuilder& builder_;
  std::optional<RuleId> space_, any_string_, any_value_, any_object_, any_array_;
};

}  // namespace moe4::grammar
