// Forms of answers other than the model's own.
#include "server/answer_reader.h"

#include "server/api_error.h"
#include "server/json_body.h"
#include "server/serving.h"

namespace moe4::server {
namespace {

std::string call_id() { return "call_" + random_name().substr(0, 24); }

Delta content(std::string_view text) { return {.text = std::string(text)}; }

}  // namespace

std::vector<Delta> AnswerReader::feed(std::string_view piece) {
  if (parser_) return parser_->feed(piece);
  if (piece.empty()) return {};
  if (form_ == AnswerForm::kText) return {content(piece)};
  text_ += piece;
  if (form_ == AnswerForm::kCalls) return {};
  Delta delta{.kind = Delta::Kind::kToolCall, .text = std::string(piece)};
  if (calls_++ == 0) {
    delta.id = call_id();
    delta.name = function_;
  }
  return {std::move(delta)};
}

std::vector<Delta> AnswerReader::finish() {
  if (parser_) return parser_->finish();
  if (form_ == AnswerForm::kCalls) return read_calls();
  is_complete_ = form_ == AnswerForm::kArguments && JsonValue::accept(text_);
  return {};
}

// The grammar allows nothing else, unless the answer was cut short.
std::vector<Delta> AnswerReader::read_calls() {
  std::vector<Delta> deltas;
  try {
    const JsonValue calls = parse_body(text_);
    for (const JsonValue& call : calls) {
      deltas.push_back({.kind = Delta::Kind::kToolCall,
                        .text = dump(call.at("parameters")),
                        .index = calls_++,
                        .id = call_id(),
                        .name = call.at("name").get<std::string>()});
    }
  } catch (const ApiError&) {
    return {content(text_)};
  } catch (const JsonValue::exception&) {
    return {content(text_)};
  }
  return deltas;
}

int64_t AnswerReader::complete_calls() const {
  if (parser_) return parser_->complete_calls();
  if (form_ == AnswerForm::kArguments) return is_complete_ ? 1 : 0;
  return calls_;
}

}  // namespace moe4::server
