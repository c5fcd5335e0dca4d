// Words of reasoning as a grammar has them.
#include "dialog/reasoned_answer.h"

#include "dialog/written_form.h"
#include "grammar/grammar_text.h"

namespace moe4 {

std::optional<ReasonedAnswer> reasoned_answer(const Tokenizer& tokenizer,
                                              const FormatChoice& formats,
                                              std::string_view prompt) {
  const std::optional<ReasoningWords> words = reasoning_words(formats.reasoning, prompt);
  if (!words) return std::nullopt;
  const std::vector<std::string> tags = format_tags(formats.tools, formats.reasoning);
  const auto spelled = [&](const std::string& text) { return grammar_text(tokenizer, tags, text); };
  return ReasonedAnswer{.begin = spelled(words->begin),
                        .end = spelled(words->end),
                        .answer_begin = spelled(words->answer_begin),
                        .is_optional = words->is_optional,
                        .has_line_breaks = words->has_line_breaks};
}

}  // namespace moe4
