// Forms of answers other than the model's own.
#include "server/answer_reader.h"

#include <algorithm>
#include <iterator>

#include "server/json_body.h"
#include "server/serving.h"

namespace moe4::server {
namespace {

std::string call_id() { return "call_" + random_name().substr(0, 24); }

}  // namespace

void AnswerReader::feed_form(std::string content, std::vector<Delta>& deltas) {
  if (content.empty()) return;
  text_ += content;
  if (form_ == AnswerForm::kCalls) return;
  Delta delta{.kind = Delta::Kind::kToolCall, .text = std::move(content)};
  if (calls_++ == 0) {
    delta.id = call_id();
    delta.name = function_;
  }
  deltas.push_back(std::move(delta));
}

std::vector<Delta> AnswerReader::in_form(std::vector<Delta> parsed) {
  if (form_ == AnswerForm::kDialog || form_ == AnswerForm::kText) return parsed;
  std::vector<Delta> deltas;
  for (Delta& delta : parsed) {
    if (delta.kind == Delta::Kind::kContent) {
      feed_form(std::move(delta.text), deltas);
    } else {
      deltas.push_back(std::move(delta));
    }
  }
  return deltas;
}

std::vector<Delta> AnswerReader::feed(std::string_view piece) {
  return in_form(parser_.feed(piece));
}

std::vector<Delta> AnswerReader::finish() {
  std::vector<Delta> deltas = in_form(parser_.finish());
  if (form_ == AnswerForm::kCalls) read_calls(deltas);
  is_complete_ = form_ == AnswerForm::kArguments && JsonValue::accept(text_);
  return deltas;
}

// The grammar allows nothing else, unless the answer was cut short.
void AnswerReader::read_calls(std::vector<Delta>& deltas) {
  std::vector<Delta> calls;
  try {
    const JsonValue list = parse_body(text_);
    for (const JsonValue& call : list) {
      calls.push_back({.kind = Delta::Kind::kToolCall,
                       .text = dump(call.at("parameters")),
                       .index = static_cast<int64_t>(calls.size()),
                       .id = call_id(),
                       .name = call.at("name").get<std::string>()});
    }
    calls_ = static_cast<int64_t>(calls.size());
  } catch (const std::exception&) {
    calls.clear();
    if (!text_.empty()) calls.push_back({.text = text_});
  }
  std::move(calls.begin(), calls.end(), std::back_inserter(deltas));
}

int64_t AnswerReader::complete_calls() const {
  switch (form_) {
    case AnswerForm::kArguments:
      return is_complete_ ? 1 : 0;
    case AnswerForm::kCalls:
      return calls_;
    default:
      return parser_.complete_calls();
  }
}

}  // namespace moe4::server
