// Neighbouring pieces of one kind become one delta.
#include "dialog/output.h"

#include <random>
#include <utility>

#include "base/error.h"

namespace moe4 {
namespace {

std::string random_call_id() {
  thread_local std::mt19937_64 random{(static_cast<uint64_t>(std::random_device{}()) << 32U) ^
                                      std::random_device{}()};
  std::string id = "call_";
  for (int i = 0; i < 24; ++i) id += "0123456789abcdef"[random() % 16];
  return id;
}

}  // namespace

DialogOutput::DialogOutput(bool stream_calls, std::function<std::string()> make_call_id)
    : stream_calls_(stream_calls),
      make_call_id_(make_call_id ? std::move(make_call_id) : random_call_id) {}

void DialogOutput::add(Delta::Kind kind, std::string_view text) {
  if (text.empty()) return;
  if (deltas_.empty() || deltas_.back().kind != kind) deltas_.push_back({.kind = kind});
  deltas_.back().text += text;
}

void DialogOutput::begin_call(std::string name, std::string id) {
  MOE4_CHECK(!in_call_);
  in_call_ = true;
  call_ = {.kind = Delta::Kind::kToolCall,
           .index = next_index_,
           .id = id.empty() ? make_call_id_() : std::move(id),
           .name = std::move(name)};
  if (!stream_calls_) return;
  ++next_index_;
  deltas_.push_back(call_);
}

void DialogOutput::arguments(std::string_view piece) {
  MOE4_CHECK(in_call_);
  if (piece.empty()) return;
  if (!stream_calls_) {
    call_.text += piece;
    return;
  }
  if (deltas_.empty() || deltas_.back().kind != Delta::Kind::kToolCall ||
      deltas_.back().index != call_.index)
    deltas_.push_back({.kind = Delta::Kind::kToolCall, .index = call_.index});
  deltas_.back().text += piece;
}

void DialogOutput::end_call() {
  MOE4_CHECK(in_call_);
  in_call_ = false;
  ++complete_calls_;
  if (stream_calls_) return;
  ++next_index_;
  deltas_.push_back(std::move(call_));
}

void DialogOutput::abandon_call() { in_call_ = false; }

std::vector<Delta> DialogOutput::take() { return std::exchange(deltas_, {}); }

}  // namespace moe4
