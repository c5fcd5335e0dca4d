// Deltas as text of a terminal.
#include "cli/answer_display.h"

#include <unistd.h>

#include <cstdlib>

namespace moe4::cli {
namespace {

constexpr std::string_view kDim = "\033[2m", kPlain = "\033[0m";

}  // namespace

AnswerDisplay::AnswerDisplay(ReasoningFormat reasoning, std::string_view prompt, bool styled)
    : is_harmony_(reasoning == ReasoningFormat::kHarmony), styled_(styled) {
  if (is_harmony_ || (styled && reasoning != ReasoningFormat::kNone))
    parser_.emplace(DialogOptions{.reasoning = reasoning, .prompt = prompt});
}

std::string AnswerDisplay::show(std::string_view piece) {
  return parser_ ? print(parser_->feed(piece)) : std::string(piece);
}

std::string AnswerDisplay::finish() {
  if (!parser_) return "";
  std::string text = print(parser_->finish());
  if (styled_ && last_ == Delta::Kind::kReasoning) text += kPlain;
  return text;
}

std::string AnswerDisplay::print(const std::vector<Delta>& deltas) {
  std::string text;
  for (const Delta& delta : deltas) {
    if (last_ != delta.kind) {
      const bool reasoning = delta.kind == Delta::Kind::kReasoning;
      if (styled_ && !reasoning && last_) text += kPlain;
      if (last_) text += "\n\n";
      if (styled_ && reasoning) text += kDim;
      last_ = delta.kind;
    }
    text += delta.text;
    if (delta.kind == Delta::Kind::kContent) said_ += delta.text;
  }
  return text;
}

std::string AnswerDisplay::remembered(const std::string& text) const {
  return is_harmony_ ? said_ : text;
}

bool output_is_styled() {
  const char* term = std::getenv("TERM");
  const char* no_color = std::getenv("NO_COLOR");
  const bool dumb = term == nullptr || std::string_view(term) == "dumb";
  return !dumb && (no_color == nullptr || *no_color == '\0') && isatty(STDOUT_FILENO) == 1;
}

}  // namespace moe4::cli
