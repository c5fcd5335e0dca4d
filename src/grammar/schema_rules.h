// Rules of an automaton for the normal forms of a JSON schema.
#pragma once

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "grammar/automaton.h"
#include "grammar/json_text.h"
#include "grammar/schema_form.h"

namespace moe4::grammar {

/// Members come in the order of the schema's properties, required names that have no property after
/// them, all others last.
class SchemaRules {
 public:
  SchemaRules(AutomatonBuilder& builder, SchemaForms& forms)
      : builder_(builder), json_(builder), forms_(forms) {}

  /// The rule of the slot, with all that it needs. Throws Error(kUsage) and TooComplex.
  RuleId add(const Slot& slot);

 private:
  struct Member {
    RuleId rule;
    bool is_required;
  };
  struct Members {
    std::vector<Member> named;  // in order
    std::vector<RuleId> others;
  };

  RuleId rule(const Slot& slot);  // its states may come later
  RuleId language_rule(const Dfa& dfa);
  RuleId member_rule(RuleId key, const Slot& value);
  void fill(const Slot& slot, RuleId rule);
  void add_scalars(const std::vector<Alternative>& forms, StateId from, StateId to);
  void add_array(const Alternative& array, StateId from, StateId to);
  void add_object(const Alternative& object, StateId from, StateId to);
  Members members_of(const Alternative& object);
  void add_other_members(const Alternative& object, const std::vector<std::string>& named,
                         const Language& keys, Members& members);

  AutomatonBuilder& builder_;
  JsonRules json_;
  SchemaForms& forms_;
  std::map<Slot, RuleId> rules_;
  std::vector<Slot> open_;  // those whose states are to come
  std::map<std::string, RuleId> language_rules_;
  std::map<std::pair<RuleId, RuleId>, RuleId> member_rules_;
};

}  // namespace moe4::grammar
