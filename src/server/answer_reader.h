// Takes an answer's text apart into content, reasoning and tool calls, as its request asks for it.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "dialog/dialog_parser.h"

namespace moe4::server {

/// What an answer is.
enum class AnswerForm {
  kDialog,     ///< what the model likes to say; a DialogParser finds calls in it
  kText,       ///< content: it has a form of its own
  kArguments,  ///< the arguments of one call
  kCalls,      ///< a list of {"name", "parameters"}
};

class AnswerReader {
 public:
  /// Forms other than kDialog are those of the content that `options` find: what comes after the
  /// reasoning. `function`: the name of the call, with kArguments.
  explicit AnswerReader(const DialogOptions& options, AnswerForm form = AnswerForm::kDialog,
                        std::string function = {})
      : parser_(options), form_(form), function_(std::move(function)) {}

  std::vector<Delta> feed(std::string_view piece);
  std::vector<Delta> finish();
  /// Known once it is finished.
  int64_t complete_calls() const;

 private:
  // Appends to `deltas` what the content makes of itself.
  void feed_form(std::string content, std::vector<Delta>& deltas);
  void read_calls(std::vector<Delta>& deltas);
  std::vector<Delta> in_form(std::vector<Delta> parsed);

  DialogParser parser_;
  AnswerForm form_;
  std::string function_;
  std::string text_;  // of kCalls and kArguments, all of it
  int64_t calls_ = 0;
  bool is_complete_ = false;
};

}  // namespace moe4::server
