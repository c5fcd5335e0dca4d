// JSON schemas in a normal form: what a value may be, as alternatives of one JSON type each.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <tuple>
#include <vector>

#include "grammar/dfa.h"
#include "grammar/schema_document.h"

namespace moe4::grammar {

/// A schema of the document that a value must fulfil, or must not.
struct Requirement {
  uint32_t schema = 0;  // SchemaDocument::id
  bool is_negated = false;
  bool operator==(const Requirement&) const = default;
  bool operator<(const Requirement& other) const {
    return std::tie(schema, is_negated) < std::tie(other.schema, other.is_negated);
  }
};

/// All of them; none: any value. Sorted. `is_never`: no value at all.
struct Slot {
  std::vector<Requirement> all;
  bool is_never = false;
  bool operator<(const Slot& other) const {
    return std::tie(is_never, all) < std::tie(other.is_never, other.all);
  }

  bool is_any() const { return all.empty() && !is_never; }
};
Slot both(const Slot& a, const Slot& b);

using Language = std::shared_ptr<const Dfa>;

enum class JsonKind { kNull, kBoolean, kNumber, kString, kArray, kObject };

/// What the keywords of one schema object say of an object's members.
struct MemberRules {
  struct Pattern {
    Language keys;  // contents of keys
    Slot value;
  };
  std::vector<std::pair<std::string, Slot>> properties;
  std::vector<Pattern> patterns;
  Slot additional;  // of members that are neither
};

struct Contains {
  Slot item;
  int64_t min = 1;
  uint32_t schema = 0;  // for messages
};

/// A value of one type. Restrictions of other types are empty.
struct Alternative {
  JsonKind kind = JsonKind::kNull;
  bool allows_false = true, allows_true = true;
  Language values;          // of numbers, by value; null: any
  bool is_integer = false;  // numbers are written as integers
  Language content;         // of strings; null: any
  /// Arrays and objects that are given as they are; empty: described by what follows.
  std::vector<const SchemaJson*> literals;
  // Arrays: items, and properties of objects; both.
  std::vector<Slot> prefix;
  Slot rest;
  std::optional<Contains> contains;
  std::optional<uint32_t> unique;  // the schema that wants items to differ
  std::vector<MemberRules> members;
  std::vector<std::string> required;
  Slot names;
  std::optional<uint32_t> counted;  // the schema that bounds the number of members
  int64_t min = 0;                  // items or members
  std::optional<int64_t> max;

  bool is_free() const;
};

/// Computes normal forms, and remembers them.
class SchemaForms {
 public:
  static constexpr size_t kMaxAlternatives = 1'000;

  explicit SchemaForms(const SchemaDocument& document) : document_(document) {}

  /// Throws Error(kUsage) for keywords that cannot be honoured, TooComplex past the limits.
  std::vector<Alternative> forms(const Slot& slot);
  const std::vector<Alternative>& forms(const SchemaJson& schema);

  /// What a member of that name must be, by all rules together.
  static Slot member_slot(const std::vector<MemberRules>& rules, const std::string& name);
  /// Whether an alternative surely has no value. False where that is not known.
  bool is_empty(const Alternative& alternative, int depth = 0);
  /// Whether the value fulfils the slot.
  bool holds(const SchemaJson& value, const Slot& slot);
  /// Texts that may be the content of a key, or null for any.
  Language key_language(const Slot& names);

  const SchemaDocument& document() const { return document_; }

 private:
  using Forms = std::vector<Alternative>;

  Forms compute(const SchemaJson& schema);
  Forms keywords(const SchemaJson& schema);
  void number_keywords(const SchemaJson& schema, Alternative& number);
  void string_keywords(const SchemaJson& schema, Alternative& string);
  void array_keywords(const SchemaJson& schema, Alternative& array);
  void object_keywords(const SchemaJson& schema, Alternative& object);
  Forms dependencies(const SchemaJson& schema, const std::string& keyword, Forms forms);
  Forms literal_forms(const std::vector<const SchemaJson*>& values);
  Forms one_of(const SchemaJson& schema, const SchemaJson& list);
  Forms unite(Forms a, const Forms& b);
  Forms intersect(const Forms& a, const Forms& b);
  std::optional<Alternative> intersect(const Alternative& a, const Alternative& b);
  /// Nothing where it cannot be said.
  std::optional<Forms> negate(const Forms& forms);
  std::optional<Forms> negate(const Alternative& alternative);
  bool holds(const SchemaJson& value, const Alternative& alternative);

  Slot slot(const SchemaJson& schema) const;
  const SchemaJson& checked(const SchemaJson& schema, const char* keyword, bool good,
                            const char* expected) const;
  int64_t count(const SchemaJson& schema, const char* keyword) const;
  Language integers();
  Language language(const std::string& key, const std::function<Dfa()>& make);

  const SchemaDocument& document_;
  std::map<uint32_t, Forms> known_;
  std::set<uint32_t> open_;  // being computed: a reference to one of them has no end
  std::map<std::string, Language> languages_;
};

}  // namespace moe4::grammar
