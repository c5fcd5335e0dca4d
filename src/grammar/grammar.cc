// Compilation of everything that is no schema.
#include "grammar/grammar.h"

#include <algorithm>
#include <string_view>
#include <utility>

#include "base/error.h"
#include "grammar/automaton.h"
#include "grammar/dfa.h"
#include "grammar/json_text.h"
#include "grammar/regex.h"
#include "grammar/schema_document.h"
#include "grammar/schema_form.h"
#include "grammar/schema_rules.h"
#include "grammar/stack_sets.h"
#include "grammar/tagged_text.h"
#include "text/utf8.h"

namespace moe4 {
namespace {

using grammar::AutomatonBuilder;
using grammar::RuleId;

// `what` begins the message when no text is left, or too much work.
template <typename AddRoot>
std::shared_ptr<const Grammar> compile(const std::string& what, const AddRoot& add_root) {
  const grammar::CompileBudget budget;
  try {
    AutomatonBuilder builder;
    const RuleId root = add_root(builder);
    bool has_texts = false;
    auto automaton = std::make_unique<const grammar::Automaton>(builder.build(root, &has_texts));
    if (!has_texts) throw Error(ErrorCode::kUsage, what + " matches no text at all");
    return std::make_shared<const Grammar>(std::move(automaton));
  } catch (const grammar::TooComplex& error) {
    throw Error(ErrorCode::kUsage, what + " is too complex: " + error.what());
  }
}

RuleId add_schema(AutomatonBuilder& builder, grammar::SchemaForms& forms) {
  const grammar::SchemaDocument& document = forms.document();
  return grammar::SchemaRules(builder, forms).add({.all = {{document.id(document.root()), false}}});
}

}  // namespace

Grammar::Grammar(std::unique_ptr<const grammar::Automaton> automaton)
    : automaton_(std::move(automaton)) {}

Grammar::~Grammar() = default;

bool Grammar::accepts(std::string_view text) const {
  grammar::StackSets stacks(*automaton_);
  auto position = stacks.position_of(automaton_->start());
  for (const char c : text) position = stacks.step(position, static_cast<uint8_t>(c));
  return stacks.may_end(position);
}

std::shared_ptr<const Grammar> compile_json_schema(std::string_view schema) {
  const grammar::SchemaDocument document(schema);
  return compile("the JSON schema", [&](AutomatonBuilder& builder) {
    grammar::SchemaForms forms(document);
    return add_schema(builder, forms);
  });
}

std::shared_ptr<const Grammar> compile_tagged_answer(const TaggedAnswer& answer) {
  std::vector<std::unique_ptr<grammar::SchemaDocument>> documents;
  for (const TaggedJson& tag : answer.tags) {
    documents.push_back(std::make_unique<grammar::SchemaDocument>(tag.schema));
  }
  return compile("the tagged answer", [&](AutomatonBuilder& builder) {
    std::vector<grammar::Tag> tags;
    for (size_t i = 0; i < answer.tags.size(); ++i) {
      grammar::SchemaForms forms(*documents[i]);
      tags.push_back({.begin = answer.tags[i].begin,
                      .body = add_schema(builder, forms),
                      .end = answer.tags[i].end});
    }
    return grammar::add_tagged_text(builder, tags,
                                    {.trigger = answer.trigger,
                                     .before = answer.before,
                                     .separator = answer.separator,
                                     .after = answer.after,
                                     .needs_tag = answer.needs_call,
                                     .allows_more = answer.allows_more});
  });
}

std::string special_token_text(std::string_view name) { return "\xff" + std::string(name); }

std::shared_ptr<const Grammar> compile_reasoned_answer(const ReasonedAnswer& reasoned,
                                                       const Grammar& answer) {
  return compile("reasoning before the answer", [&](AutomatonBuilder& builder) {
    const RuleId body = builder.add_automaton(answer.automaton());
    const RuleId rule = builder.add_rule();
    const auto start = builder.start(rule);
    const auto done = builder.add_state();
    builder.accept(done);
    // States of their own: the answer's texts may begin as the reasoning or with line breaks.
    const auto add_answer = [&](grammar::StateId from) {
      const auto begin = builder.add_state();
      builder.add_empty(from, begin);
      builder.add_call(builder.add_text(begin, reasoned.answer_begin), body, done);
    };
    if (reasoned.is_optional) add_answer(start);
    const auto reasoning = builder.add_state();
    builder.add_empty(builder.add_text(start, reasoned.begin), reasoning);
    auto at = grammar::add_free_text(builder, reasoned.end, reasoning, /*may_end=*/false);
    add_answer(at);
    // Models part the two by an empty line.
    constexpr int kMaxLineBreaks = 2;
    for (int i = 0; reasoned.has_line_breaks && i < kMaxLineBreaks; ++i) {
      at = builder.add_text(at, "\n");
      add_answer(at);
    }
    return rule;
  });
}

std::shared_ptr<const Grammar> compile_json_object() {
  return compile("a JSON object", [](AutomatonBuilder& builder) {
    return grammar::JsonRules(builder).any_object();
  });
}

std::shared_ptr<const Grammar> compile_regex(std::string_view pattern) {
  return compile(
      "regular expression '" + printable(std::string(pattern), 120) + "'",
      [&](AutomatonBuilder& builder) {
        return builder.add_language(grammar::regex_language(pattern, grammar::RegexMatch::kWhole));
      });
}

std::shared_ptr<const Grammar> compile_choice(const std::vector<std::string>& choices) {
  if (choices.empty()) throw Error(ErrorCode::kUsage, "a choice needs at least one text");
  for (const std::string& choice : choices) {
    if (choice.empty()) throw Error(ErrorCode::kUsage, "a choice is empty: expected a text");
    if (utf8_lossy(choice) != choice) {
      throw Error(ErrorCode::kUsage, "choice '" + printable(choice) + "' is no valid UTF-8");
    }
  }
  return compile(
      "a choice of " + std::to_string(choices.size()) + " texts", [&](AutomatonBuilder& builder) {
        return builder.add_language(grammar::literal_language({choices.begin(), choices.end()}));
      });
}

}  // namespace moe4
