// How chat shows an answer: reasoning dimmed on a terminal, apart from what is said.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "dialog/dialog_parser.h"

namespace moe4::cli {

class AnswerDisplay {
 public:
  /// `prompt`: what the answer follows. `styled`: the output is a terminal that can dim. Elsewhere
  /// <think> stays as the model writes it, and the channels of harmony are paragraphs.
  AnswerDisplay(ReasoningFormat reasoning, std::string_view prompt, bool styled);

  /// What to print for a piece of the answer.
  std::string show(std::string_view piece);
  /// ... and at its end.
  std::string finish();
  /// What the conversation goes on with: the text as it was written, of harmony what was said.
  std::string remembered(const std::string& text) const;

 private:
  std::string print(const std::vector<Delta>& deltas);

  bool is_harmony_, styled_;
  std::optional<DialogParser> parser_;
  std::optional<Delta::Kind> last_;
  std::string said_;
};

/// Whether standard output is a terminal that can dim text and may (NO_COLOR).
bool output_is_styled();

}  // namespace moe4::cli
