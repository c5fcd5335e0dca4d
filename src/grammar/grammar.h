// What a constrained answer may be: compiled from a JSON schema, a regular expression, a list of
// choices, or tags around JSON.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace moe4 {

namespace grammar {
class Automaton;
}

/// A language of UTF-8 texts. Immutable; made once, shared by requests and threads.
class Grammar {
 public:
  explicit Grammar(std::unique_ptr<const grammar::Automaton> automaton);
  ~Grammar();
  Grammar(const Grammar&) = delete;
  Grammar& operator=(const Grammar&) = delete;

  const grammar::Automaton& automaton() const { return *automaton_; }
  /// Whether the whole text is in the language. Slow; for tests and tools.
  bool accepts(std::string_view text) const;

 private:
  std::unique_ptr<const grammar::Automaton> automaton_;
};

// All of these throw Error(kUsage) for what is wrong, not supported, or too large to compile. The
// message names the place: a JSON pointer into the schema with its keyword, or a position in the
// regular expression.

/// JSON that the schema accepts (drafts 7 and 2020-12). What cannot be honoured exactly is refused;
/// docs/structured_output.md lists keywords, spelling and limits.
std::shared_ptr<const Grammar> compile_json_schema(std::string_view schema);
/// Any JSON object.
std::shared_ptr<const Grammar> compile_json_object();
/// How grammars spell a special token: its name behind a byte that no UTF-8 text has. So JSON,
/// patterns and free text hold none, and what wants one says so.
std::string special_token_text(std::string_view name);

/// A call of a tool inside of an answer: `begin`, JSON of the schema, `end`.
struct TaggedJson {
  std::string begin;
  std::string schema;
  std::string end;
};

/// Answers with such calls.
struct TaggedAnswer {
  std::vector<TaggedJson> tags;  ///< at least one
  /// Where free text ends: once it has this, one of the tags must follow, all of which begin with
  /// it. Empty: there is no free text.
  std::string trigger;
  // Where there is no free text:
  std::string before;     ///< the first call
  std::string separator;  ///< between two calls
  std::string after;      ///< the last call
  bool needs_call = false;
  bool allows_more = true;  ///< than one call; without it the first call ends the answer
};
std::shared_ptr<const Grammar> compile_tagged_answer(const TaggedAnswer& answer);

/// An answer that reasoning may stand before: `begin`, any text, `end`, `answer_begin`, the answer.
struct ReasonedAnswer {
  std::string begin;             ///< empty: the reasoning has begun already
  std::string end;               ///< of the reasoning, in which it does not occur; not empty
  std::string answer_begin;      ///< with or without reasoning
  bool is_optional = false;      ///< the reasoning
  bool has_line_breaks = false;  ///< up to two may follow `end`
};
std::shared_ptr<const Grammar> compile_reasoned_answer(const ReasonedAnswer& reasoned,
                                                       const Grammar& answer);

/// Texts that match as a whole.
std::shared_ptr<const Grammar> compile_regex(std::string_view pattern);
/// One of these texts, as it is. At least one, none of them empty.
std::shared_ptr<const Grammar> compile_choice(const std::vector<std::string>& choices);

}  // namespace moe4
