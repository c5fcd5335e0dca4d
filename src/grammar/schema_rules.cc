// States for values, items and members.
#include "grammar/schema_rules.h"

#include <algorithm>
#include <utility>

#include "grammar/number_language.h"
#include "grammar/string_language.h"

namespace moe4::grammar {
namespace {

constexpr size_t kMaxPatterns = 6;  // every subset of them is a kind of key

}  // namespace

RuleId SchemaRules::add(const Slot& slot) {
  const RuleId root = rule(slot);
  while (!open_.empty()) {
    const Slot next = std::move(open_.back());
    open_.pop_back();
    fill(next, rules_.at(next));
  }
  return root;
}

RuleId SchemaRules::rule(const Slot& slot) {
  if (slot.is_any()) return json_.any_value();
  if (const auto it = rules_.find(slot); it != rules_.end()) return it->second;
  const RuleId fresh = builder_.add_rule();
  rules_.emplace(slot, fresh);
  open_.push_back(slot);
  return fresh;
}

RuleId SchemaRules::language_rule(const Dfa& dfa) {
  std::string key(dfa.classes.of.begin(), dfa.classes.of.end());
  key.append(dfa.accepting.begin(), dfa.accepting.end());
  key.append(reinterpret_cast<const char*>(dfa.next.data()), dfa.next.size() * sizeof(uint32_t));
  const auto it = language_rules_.find(key);
  if (it != language_rules_.end()) return it->second;
  return language_rules_[std::move(key)] = builder_.add_language(dfa);
}

void SchemaRules::fill(const Slot& slot, RuleId rule) {
  const std::vector<Alternative> forms = forms_.forms(slot);
  const StateId start = builder_.start(rule), end = builder_.add_state();
  builder_.accept(end);
  add_scalars(forms, start, end);
  for (const Alternative& form : forms) {
    if (form.kind != JsonKind::kArray && form.kind != JsonKind::kObject) continue;
    const bool is_array = form.kind == JsonKind::kArray;
    if (!form.literals.empty()) {
      for (const SchemaJson* value : form.literals) {
        builder_.add_call(start, json_.literal(*value), end);
      }
    } else if (form.is_free()) {
      builder_.add_call(start, is_array ? json_.any_array() : json_.any_object(), end);
    } else if (is_array) {
      add_array(form, start, end);
    } else {
      add_object(form, start, end);
    }
  }
}

// One language for all alternatives of a type, so that no two of them run side by side.
void SchemaRules::add_scalars(const std::vector<Alternative>& forms, StateId from, StateId to) {
  bool has_null = false, has_false = false, has_true = false;
  std::optional<Dfa> numbers, strings;
  bool is_any_string = false;
  for (const Alternative& form : forms) {
    has_null = has_null || form.kind == JsonKind::kNull;
    if (form.kind == JsonKind::kBoolean) {
      has_false = has_false || form.allows_false;
      has_true = has_true || form.allows_true;
    }
    if (form.kind == JsonKind::kNumber) {
      const Dfa own = form.values ? number_spelling(*form.values, form.is_integer)
                                  : any_number(form.is_integer);
      numbers = numbers ? unite(*numbers, own) : own;
    }
    if (form.kind == JsonKind::kString) {
      if (!form.content) {
        is_any_string = true;
      } else {
        strings = strings ? unite(*strings, *form.content) : *form.content;
      }
    }
  }
  const auto word = [&](bool has, const char* text) {
    if (has) builder_.add_empty(builder_.add_text(from, text), to);
  };
  word(has_null, "null");
  word(has_false, "false");
  word(has_true, "true");
  if (numbers) builder_.add_call(from, language_rule(*numbers), to);
  if (is_any_string) {
    builder_.add_call(from, json_.any_string(), to);
  } else if (strings) {
    builder_.add_call(from, language_rule(json_spelling(*strings)), to);
  }
}

// States by the number of items so far, and of those that `contains` is about; both are counted no
// further than it matters.
void SchemaRules::add_array(const Alternative& array, StateId from, StateId to) {
  const SchemaDocument& document = forms_.document();
  if (array.unique && !(array.max && *array.max <= 1)) {
    document.fail(document.place(*array.unique), "uniqueItems",
                  "not supported for arrays of more than one item");
  }
  const auto least = static_cast<int64_t>(array.prefix.size());
  const int64_t last = array.max.value_or(std::max(least, array.min));
  const int64_t found_last = array.contains ? array.contains->min : 0;
  if (last > static_cast<int64_t>(kMaxStates) || found_last > static_cast<int64_t>(kMaxStates)) {
    throw TooComplex("it counts more than " + std::to_string(kMaxStates) + " items");
  }
  std::map<std::pair<int64_t, int64_t>, StateId> places;  // after so many items, before the next
  std::vector<std::pair<int64_t, int64_t>> open;
  const auto place = [&](int64_t items, int64_t found) {
    const auto [it, fresh] = places.try_emplace({items, found}, 0);
    if (fresh) {
      it->second = builder_.add_state();
      open.emplace_back(items, found);
    }
    return it->second;
  };
  const StateId inside = json_.open(from, '[');
  if (array.min == 0 && found_last == 0) builder_.add_bytes(inside, ']', ']', to);
  builder_.add_empty(inside, place(0, 0));
  while (!open.empty()) {
    const int64_t items = open.back().first, found = open.back().second;
    open.pop_back();
    if (array.max && items == *array.max) continue;
    const StateId here = places.at({items, found});
    const Slot& slot = items < least ? array.prefix[static_cast<size_t>(items)] : array.rest;
    const int64_t next = array.max ? items + 1 : std::min(items + 1, last);
    const auto add_item = [&](const Slot& item, int64_t next_found) {
      const StateId after = builder_.add_state();
      builder_.add_call(here, rule(item), after);
      if (items + 1 >= array.min && next_found >= found_last) json_.close(after, ']', to);
      if (array.max && items + 1 == *array.max) return;
      builder_.add_empty(json_.separator(after, ','), place(next, next_found));
    };
    add_item(slot, found);
    if (found < found_last) add_item(both(slot, array.contains->item), found + 1);
  }
}

RuleId SchemaRules::member_rule(RuleId key, const Slot& value) {
  const RuleId value_rule = rule(value);
  const auto [it, fresh] = member_rules_.try_emplace({key, value_rule}, 0);
  if (fresh) {
    it->second = builder_.add_rule();
    builder_.accept(json_.member(builder_.start(it->second), key, value_rule));
  }
  return it->second;
}

// Keys that no property names, by which of the patterns they match.
void SchemaRules::add_other_members(const Alternative& object,
                                    const std::vector<std::string>& named, const Language& keys,
                                    Members& members) {
  struct Pattern {
    const MemberRules* rules;
    const MemberRules::Pattern* pattern;
  };
  std::vector<Pattern> patterns;
  for (const MemberRules& rules : object.members) {
    for (const MemberRules::Pattern& pattern : rules.patterns)
      patterns.push_back({&rules, &pattern});
  }
  if (patterns.size() > kMaxPatterns) {
    throw TooComplex("an object has more than " + std::to_string(kMaxPatterns) +
                     " patternProperties");
  }
  if (patterns.empty() && named.empty() && !keys) {
    Slot value;
    for (const MemberRules& rules : object.members) value = both(value, rules.additional);
    if (!value.is_never) members.others.push_back(member_rule(json_.any_string(), value));
    return;
  }
  Dfa all = keys ? *keys : any_text();
  if (!named.empty()) all = subtract(all, literal_language({named.begin(), named.end()}));
  for (size_t subset = 0; subset < size_t{1} << patterns.size(); ++subset) {
    Dfa language = all;
    Slot value;
    for (size_t i = 0; i < patterns.size(); ++i) {
      const MemberRules::Pattern& pattern = *patterns[i].pattern;
      const bool matches = (subset >> i & 1) != 0;
      language = matches ? intersect(language, *pattern.keys) : subtract(language, *pattern.keys);
      if (matches) value = both(value, pattern.value);
    }
    for (const MemberRules& rules : object.members) {
      bool is_matched = false;
      for (size_t i = 0; i < patterns.size(); ++i) {
        is_matched = is_matched || (patterns[i].rules == &rules && (subset >> i & 1) != 0);
      }
      if (!is_matched) value = both(value, rules.additional);
    }
    if (language.is_empty() || value.is_never) continue;
    members.others.push_back(member_rule(language_rule(json_spelling(language)), value));
  }
}

SchemaRules::Members SchemaRules::members_of(const Alternative& object) {
  const auto is_in = [](const std::vector<std::string>& names, const std::string& name) {
    return std::find(names.begin(), names.end(), name) != names.end();
  };
  std::vector<std::string> named;
  std::map<std::string, bool> seen;
  const auto add_name = [&](const std::string& name) {
    if (seen.emplace(name, true).second) named.push_back(name);
  };
  for (const MemberRules& rules : object.members) {
    for (const auto& [name, value] : rules.properties) add_name(name);
  }
  for (const std::string& name : object.required) add_name(name);
  const Language keys = forms_.key_language(object.names);
  Members members;
  for (const std::string& name : named) {
    Slot value = SchemaForms::member_slot(object.members, name);
    if (keys && !keys->accepts(name)) value = {.is_never = true};
    const bool is_required = is_in(object.required, name);
    if (value.is_never && !is_required) continue;
    charge_work(object.required.size());
    const RuleId key = language_rule(json_spelling(literal_language({name})));
    members.named.push_back({member_rule(key, value), is_required});
  }
  add_other_members(object, named, keys, members);
  return members;
}

// States by the next property that may come and, where it matters, the number of members so far.
void SchemaRules::add_object(const Alternative& object, StateId from, StateId to) {
  const Members members = members_of(object);
  const auto named = static_cast<int64_t>(members.named.size());
  const auto required =
      static_cast<int64_t>(std::count_if(members.named.begin(), members.named.end(),
                                         [](const Member& member) { return member.is_required; }));
  const SchemaDocument& document = forms_.document();
  const int64_t min = object.min <= required ? 0 : object.min;  // 0: it goes without saying
  if (min > 1 && !members.others.empty() && object.counted) {
    document.fail(document.place(*object.counted), "minProperties",
                  "above 1 it needs additionalProperties false: names that are free may be equal");
  }
  const std::optional<int64_t> max = object.max;
  const int64_t counted = max.value_or(min);  // no further than this
  if (counted > static_cast<int64_t>(kMaxStates)) {
    throw TooComplex("it counts more than " + std::to_string(kMaxStates) + " members");
  }
  using Place = std::pair<int64_t, int64_t>;  // the next property, members so far
  std::map<Place, StateId> before, after;     // a key; after a member
  std::vector<Place> open_before, open_after;
  const auto place = [&](std::map<Place, StateId>& places, std::vector<Place>& open, Place at) {
    const auto [it, fresh] = places.try_emplace(at, 0);
    if (fresh) {
      it->second = builder_.add_state();
      open.push_back(at);
    }
    return it->second;
  };
  // Whether no required property is left from this one on.
  std::vector<bool> may_close(static_cast<size_t>(named) + 1, true);
  for (int64_t i = named; i-- > 0;) {
    may_close[static_cast<size_t>(i)] =
        may_close[static_cast<size_t>(i) + 1] && !members.named[static_cast<size_t>(i)].is_required;
  }
  const StateId inside = json_.open(from, '{');
  if (may_close[0] && min == 0) builder_.add_bytes(inside, '}', '}', to);
  builder_.add_empty(inside, place(before, open_before, {0, 0}));
  while (!open_before.empty() || !open_after.empty()) {
    if (!open_after.empty()) {
      const Place at = open_after.back();
      open_after.pop_back();
      const StateId here = after.at(at);
      if (may_close[static_cast<size_t>(at.first)] && at.second >= min) json_.close(here, '}', to);
      if (max && at.second == *max) continue;
      builder_.add_empty(json_.separator(here, ','), place(before, open_before, at));
      continue;
    }
    const Place at = open_before.back();
    open_before.pop_back();
    if (max && at.second == *max) continue;
    const StateId here = before.at(at);
    const int64_t next = std::min(at.second + 1, counted);
    if (at.first < named) {
      const Member& member = members.named[static_cast<size_t>(at.first)];
      builder_.add_call(here, member.rule, place(after, open_after, {at.first + 1, next}));
      if (!member.is_required) {
        builder_.add_empty(here, place(before, open_before, {at.first + 1, at.second}));
      }
      continue;
    }
    for (const RuleId other : members.others) {
      builder_.add_call(here, other, place(after, open_after, {named, next}));
    }
  }
}

}  // namespace moe4::grammar
