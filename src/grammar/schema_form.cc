// The algebra of alternatives: union, intersection, complement, emptiness.
#include "grammar/schema_form.h"

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "grammar/number_language.h"
#include "grammar/string_language.h"

namespace moe4::grammar {
namespace {

constexpr JsonKind kKinds[] = {JsonKind::kNull,   JsonKind::kBoolean, JsonKind::kNumber,
                               JsonKind::kString, JsonKind::kArray,   JsonKind::kObject};

JsonKind kind_of(const SchemaJson& value) {
  if (value.is_null()) return JsonKind::kNull;
  if (value.is_boolean()) return JsonKind::kBoolean;
  if (value.is_number()) return JsonKind::kNumber;
  if (value.is_string()) return JsonKind::kString;
  return value.is_array() ? JsonKind::kArray : JsonKind::kObject;
}

Language share(Dfa dfa) { return std::make_shared<const Dfa>(std::move(dfa)); }

// Of languages where null is every text.
Language both_languages(const Language& a, const Language& b) {
  if (!a || a == b) return b;
  if (!b) return a;
  return share(intersect(*a, *b));
}

Alternative only(JsonKind kind) { return {.kind = kind}; }

}  // namespace

Slot both(const Slot& a, const Slot& b) {
  Slot slot{.is_never = a.is_never || b.is_never};
  if (slot.is_never) return slot;
  std::set_union(a.all.begin(), a.all.end(), b.all.begin(), b.all.end(),
                 std::back_inserter(slot.all));
  return slot;
}

bool Alternative::is_free() const {
  return allows_false && allows_true && !values && !is_integer && !content && literals.empty() &&
         prefix.empty() && rest.is_any() && !contains && !unique && members.empty() &&
         required.empty() && names.is_any() && min == 0 && !max;
}

std::vector<Alternative> SchemaForms::forms(const Slot& slot) {
  if (slot.is_never) return {};
  Forms result;
  for (const JsonKind kind : kKinds) result.push_back(only(kind));
  for (const Requirement& requirement : slot.all) {
    const SchemaJson& schema = document_.place(requirement.schema);
    const Forms& own = forms(schema);
    if (!requirement.is_negated) {
      result = intersect(result, own);
      continue;
    }
    const std::optional<Forms> negated = negate(own);
    if (!negated) document_.fail(schema, "", "its opposite cannot be expressed exactly");
    result = intersect(result, *negated);
  }
  return result;
}

const std::vector<Alternative>& SchemaForms::forms(const SchemaJson& schema) {
  const uint32_t id = document_.id(schema);
  if (const auto it = known_.find(id); it != known_.end()) return it->second;
  constexpr size_t kMaxDepth = 300;
  if (open_.size() == kMaxDepth) {
    document_.fail(schema, "", "references and applicators nest too deeply to compile");
  }
  if (!open_.insert(id).second) {
    document_.fail(schema, "$ref", "the schema refers to itself without anything between");
  }
  Forms computed;
  try {
    computed = compute(schema);
  } catch (const TooComplex& error) {
    document_.fail(schema, "", std::string("too complex: ") + error.what());
  }
  open_.erase(id);
  return known_[id] = std::move(computed);
}

Language SchemaForms::language(const std::string& key, const std::function<Dfa()>& make) {
  Language& known = languages_[key];
  if (!known) known = share(make());
  return known;
}

Language SchemaForms::integers() {
  return language("number multipleOf 1", [] { return multiples_of({.integer = "1"}); });
}

Slot SchemaForms::member_slot(const std::vector<MemberRules>& rules, const std::string& name) {
  Slot slot;
  for (const MemberRules& rule : rules) {
    bool is_known = false;
    for (const auto& [key, value] : rule.properties) {
      if (key != name) continue;
      is_known = true;
      slot = both(slot, value);
    }
    for (const MemberRules::Pattern& pattern : rule.patterns) {
      if (!pattern.keys->accepts(name)) continue;
      is_known = true;
      slot = both(slot, pattern.value);
    }
    if (!is_known) slot = both(slot, rule.additional);
  }
  return slot;
}

Language SchemaForms::key_language(const Slot& names) {
  if (names.is_any()) return nullptr;
  Dfa result;
  for (const Alternative& alternative : forms(names)) {
    if (alternative.kind != JsonKind::kString) continue;
    if (!alternative.content) return nullptr;
    result = grammar::unite(result, *alternative.content);
  }
  return share(std::move(result));
}

SchemaForms::Forms SchemaForms::unite(Forms a, const Forms& b) {
  a.insert(a.end(), b.begin(), b.end());
  if (a.size() > kMaxAlternatives) {
    throw TooComplex("it has more than " + std::to_string(kMaxAlternatives) + " alternatives");
  }
  return a;
}

SchemaForms::Forms SchemaForms::intersect(const Forms& a, const Forms& b) {
  Forms result;
  for (const Alternative& x : a) {
    for (const Alternative& y : b) {
      if (auto both = intersect(x, y)) result = unite(std::move(result), {std::move(*both)});
    }
  }
  return result;
}

std::optional<Alternative> SchemaForms::intersect(const Alternative& a, const Alternative& b) {
  if (a.kind != b.kind) return std::nullopt;
  charge_work(20 + (a.required.size() + 1) * (b.required.size() + 1) + a.members.size() +
              b.members.size() + a.prefix.size() + b.prefix.size());
  if (a.is_free()) return b;
  if (b.is_free()) return a;
  Alternative result = a;
  result.allows_false = a.allows_false && b.allows_false;
  result.allows_true = a.allows_true && b.allows_true;
  if (!result.allows_false && !result.allows_true) return std::nullopt;
  result.values = both_languages(a.values, b.values);
  result.is_integer = a.is_integer || b.is_integer;
  if (result.is_integer && result.values) {
    result.values = both_languages(result.values, integers());
  }
  result.content = both_languages(a.content, b.content);
  if (result.values && result.values->is_empty()) return std::nullopt;
  if (result.content && result.content->is_empty()) return std::nullopt;
  if (!a.literals.empty() || !b.literals.empty()) {
    const Alternative& given = a.literals.empty() ? b : a;
    const Alternative& other = a.literals.empty() ? a : b;
    result = given;
    std::erase_if(result.literals, [&](const SchemaJson* value) { return !holds(*value, other); });
    return result.literals.empty() ? std::nullopt : std::optional(std::move(result));
  }
  result.prefix.resize(std::max(a.prefix.size(), b.prefix.size()));
  for (size_t i = 0; i < result.prefix.size(); ++i) {
    result.prefix[i] = both(i < a.prefix.size() ? a.prefix[i] : a.rest,
                            i < b.prefix.size() ? b.prefix[i] : b.rest);
  }
  result.rest = both(a.rest, b.rest);
  if (a.contains && b.contains) {
    document_.fail(document_.place(b.contains->schema), "contains",
                   "two of them on one array are not supported");
  }
  result.contains = a.contains ? a.contains : b.contains;
  result.unique = a.unique ? a.unique : b.unique;
  result.members.insert(result.members.end(), b.members.begin(), b.members.end());
  for (const std::string& name : b.required) {
    if (std::find(a.required.begin(), a.required.end(), name) == a.required.end()) {
      result.required.push_back(name);
    }
  }
  result.names = both(a.names, b.names);
  result.counted = a.counted ? a.counted : b.counted;
  result.min = std::max(a.min, b.min);
  if (b.max) result.max = std::min(a.max.value_or(*b.max), *b.max);
  if (result.max && *result.max < result.min) return std::nullopt;
  return result;
}

bool SchemaForms::is_empty(const Alternative& alternative, int depth) {
  constexpr int kMaxDepth = 6;
  charge_work(100);
  if (!alternative.literals.empty() || depth > kMaxDepth) return false;
  const auto is_never = [&](const Slot& slot) {
    const Forms found = forms(slot);
    return std::all_of(found.begin(), found.end(),
                       [&](const Alternative& a) { return is_empty(a, depth + 1); });
  };
  switch (alternative.kind) {
    case JsonKind::kNull:
      return false;
    case JsonKind::kBoolean:
      return !alternative.allows_false && !alternative.allows_true;
    case JsonKind::kNumber:
      return alternative.values && alternative.values->is_empty();
    case JsonKind::kString:
      return alternative.content && alternative.content->is_empty();
    case JsonKind::kArray: {
      const auto needed = static_cast<size_t>(std::min<int64_t>(alternative.min, 1'000));
      for (size_t i = 0; i < std::min(needed, alternative.prefix.size()); ++i) {
        if (is_never(alternative.prefix[i])) return true;
      }
      return needed > alternative.prefix.size() && is_never(alternative.rest);
    }
    case JsonKind::kObject:
      return std::any_of(alternative.required.begin(), alternative.required.end(),
                         [&](const std::string& name) {
                           return is_never(member_slot(alternative.members, name));
                         });
  }
  return false;
}

std::optional<SchemaForms::Forms> SchemaForms::negate(const Forms& forms) {
  Forms result;
  for (const JsonKind kind : kKinds) result.push_back(only(kind));
  for (const Alternative& alternative : forms) {
    const std::optional<Forms> negated = negate(alternative);
    if (!negated) return std::nullopt;
    result = intersect(result, *negated);
  }
  return result;
}

std::optional<SchemaForms::Forms> SchemaForms::negate(const Alternative& a) {
  Forms result;
  for (const JsonKind kind : kKinds) {
    if (kind != a.kind) result.push_back(only(kind));
  }
  if (a.is_free()) return result;
  if (!a.literals.empty() || a.contains || a.unique || !a.names.is_any()) return std::nullopt;
  const auto add = [&](const std::function<void(Alternative&)>& set) {
    result.push_back(only(a.kind));
    set(result.back());
  };
  const auto negated = [](const Slot& slot) -> std::vector<Slot> {
    std::vector<Slot> slots;  // any of them
    if (slot.is_never) slots.emplace_back();
    for (const Requirement& r : slot.all) slots.push_back({.all = {{r.schema, !r.is_negated}}});
    return slots;
  };
  if (a.kind == JsonKind::kBoolean) {
    add([&](Alternative& x) {
      x.allows_false = !a.allows_false;
      x.allows_true = !a.allows_true;
    });
  }
  if (a.kind == JsonKind::kNumber) {
    const Language values = a.values ? a.values : integers();
    add([&](Alternative& x) { x.values = share(subtract(all_decimals(), *values)); });
  }
  if (a.kind == JsonKind::kString) {
    add([&](Alternative& x) { x.content = share(subtract(any_text(), *a.content)); });
  }
  if (a.kind == JsonKind::kArray || a.kind == JsonKind::kObject) {
    if (a.min > 0) {
      add([&](Alternative& x) {
        x.max = a.min - 1;
        x.counted = a.counted;
      });
    }
    if (a.max) {
      add([&](Alternative& x) {
        x.min = *a.max + 1;
        x.counted = a.counted;
      });
    }
  }
  if (a.kind == JsonKind::kArray) {
    for (size_t i = 0; i < a.prefix.size(); ++i) {
      for (const Slot& slot : negated(a.prefix[i])) {
        add([&](Alternative& x) {
          x.prefix.resize(i + 1);
          x.prefix.back() = slot;
          x.min = static_cast<int64_t>(i) + 1;
        });
      }
    }
    // Some item past the prefix is wrong: any number of items may be before it.
    if (a.rest.is_never) {
      add([&](Alternative& x) { x.min = static_cast<int64_t>(a.prefix.size()) + 1; });
    } else if (!a.rest.is_any()) {
      if (!a.prefix.empty()) return std::nullopt;
      for (const Slot& slot : negated(a.rest)) {
        add([&](Alternative& x) {
          x.contains = {.item = slot, .schema = slot.all.front().schema};
        });
      }
    }
  }
  for (const MemberRules& rules : a.members) {
    if (!rules.additional.is_any() || !rules.patterns.empty()) return std::nullopt;
    for (const auto& property : rules.properties) {
      for (const Slot& wrong : negated(property.second)) {
        add([&](Alternative& x) {
          x.members.push_back({.properties = {{property.first, wrong}}});
          x.required = {property.first};
        });
      }
    }
  }
  for (const std::string& name : a.required) {
    add([&](Alternative& x) { x.members.push_back({.properties = {{name, {.is_never = true}}}}); });
  }
  std::erase_if(result, [&](const Alternative& x) { return is_empty(x, 6); });
  return result;
}

bool SchemaForms::holds(const SchemaJson& value, const Slot& slot) {
  const Forms found = forms(slot);
  return std::any_of(found.begin(), found.end(),
                     [&](const Alternative& a) { return holds(value, a); });
}

bool SchemaForms::holds(const SchemaJson& value, const Alternative& a) {
  if (kind_of(value) != a.kind) return false;
  switch (a.kind) {
    case JsonKind::kNull:
      return true;
    case JsonKind::kBoolean:
      return value.get<bool>() ? a.allows_true : a.allows_false;
    case JsonKind::kNumber: {
      const std::optional<Decimal> number = parse_decimal(value.dump());
      if (a.is_integer && (!number || !number->fraction.empty())) return false;
      return !a.values || (number && a.values->accepts(number->text()));
    }
    case JsonKind::kString:
      return !a.content || a.content->accepts(value.get_ref<const std::string&>());
    case JsonKind::kArray:
    case JsonKind::kObject:
      break;
  }
  if (!a.literals.empty()) {
    return std::any_of(a.literals.begin(), a.literals.end(), [&](const SchemaJson* literal) {
      return nlohmann::json::parse(literal->dump()) == nlohmann::json::parse(value.dump());
    });
  }
  const auto size = static_cast<int64_t>(value.size());
  if (size < a.min || (a.max && size > *a.max)) return false;
  if (a.kind == JsonKind::kArray) {
    int64_t found = 0;
    for (size_t i = 0; i < value.size(); ++i) {
      if (!holds(value[i], i < a.prefix.size() ? a.prefix[i] : a.rest)) return false;
      if (a.contains && holds(value[i], a.contains->item)) ++found;
      if (!a.unique) continue;
      for (size_t j = 0; j < i; ++j) {
        if (value[i] == value[j]) return false;
      }
    }
    return !a.contains || found >= a.contains->min;
  }
  for (const std::string& name : a.required) {
    if (!value.contains(name)) return false;
  }
  const Language keys = key_language(a.names);
  for (const auto& [name, member] : value.items()) {
    if (keys && !keys->accepts(name)) return false;
    if (!holds(member, member_slot(a.members, name))) return false;
  }
  return true;
}

}  // namespace moe4::grammar
