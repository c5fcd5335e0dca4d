// Takes an answer's text apart into content, reasoning and tool calls, as its request asks for it.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "dialog/dialog_parser.h"

namespace moe4::server {

/// What an answer is.
enum class AnswerForm {
  kDialog,     ///< what the model likes to say; a DialogParser finds calls in it
  kText,       ///< content, all of it: it has a form of its own
  kArguments,  ///< the arguments of one call
  kCalls,      ///< a list of {"name", "parameters"}
};

class AnswerReader {
 public:
  explicit AnswerReader(const DialogOptions& options) : parser_(DialogParser(options)) {}
  /// `function`: the name of the call, with kArguments.
  explicit AnswerReader(AnswerForm form, std::string function = {})
      : form_(form), function_(std::move(function)) {}

  std::vector<Delta> feed(std::string_view piece);
  std::vector<Delta> finish();
  /// Known once it is finished.
  int64_t complete_calls() const;

 private:
  std::vector<Delta> read_calls();

  AnswerForm form_ = AnswerForm::kDialog;
  std::optional<DialogParser> parser_;  // of kDialog
  std::string function_;
  std::string text_;  // of kCalls and kArguments, all of it
  int64_t calls_ = 0;
  bool is_complete_ = false;
};

}  // namespace moe4::server
