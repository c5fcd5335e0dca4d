// The deltas of an answer, put together from what a format reads.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "dialog/dialog_parser.h"

namespace moe4 {

class DialogOutput {
 public:
  /// See DialogOptions.
  DialogOutput(bool stream_calls, std::function<std::string()> make_call_id);

  void content(std::string_view text) { add(Delta::Kind::kContent, text); }
  void reasoning(std::string_view text) { add(Delta::Kind::kReasoning, text); }
  /// A call begins; `id` may be empty.
  void begin_call(std::string name, std::string id = {});
  void arguments(std::string_view piece);
  void end_call();
  /// The call that may have begun is none; what was handed out of it stays.
  void abandon_call();
  /// Whether what is told of a call is handed out before its end.
  bool streams_calls() const { return stream_calls_; }
  int64_t complete_calls() const { return complete_calls_; }

  /// What has been told since the last time.
  std::vector<Delta> take();

 private:
  void add(Delta::Kind kind, std::string_view text);

  bool stream_calls_;
  std::function<std::string()> make_call_id_;
  std::vector<Delta> deltas_;
  bool in_call_ = false;
  Delta call_;  // not streamed: the whole call; else its delta that is being added to
  int64_t next_index_ = 0;
  int64_t complete_calls_ = 0;
};

}  // namespace moe4
