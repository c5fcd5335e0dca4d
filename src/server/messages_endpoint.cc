// POST /v1/messages and /v1/messages/count_tokens.
#include <fmt/format.h>

#include <iterator>
#include <utility>

#include "server/answer_group.h"
#include "server/conversation_answers.h"
#include "server/endpoints.h"
#include "server/event_stream.h"
#include "server/json_text.h"
#include "server/messages_request.h"
#include "server/prompt_text.h"

namespace moe4::server {
namespace {

const char* stop_reason(const AnswerResult& result, const AnswerReader& reader) {
  if (reader.complete_calls() > 0) return "tool_use";
  if (result.generated.reason == StopReason::kStopString) return "stop_sequence";
  return std::string_view(result.finish_reason) == "length" ? "max_tokens" : "end_turn";
}

// "stop_reason": ..., "stop_sequence": ...
void append_stop(std::string& out, const AnswerResult& result, const AnswerReader& reader) {
  fmt::format_to(std::back_inserter(out), R"("stop_reason": "{}", "stop_sequence": )",
                 stop_reason(result, reader));
  if (result.generated.reason == StopReason::kStopString) {
    append_json_string(out, result.generated.stop_string);
  } else {
    out += "null";
  }
}

void append_usage(std::string& out, int64_t prompt, int64_t cached, int64_t generated) {
  fmt::format_to(std::back_inserter(out),
                 R"({{"input_tokens": {}, "output_tokens": {}, "cache_read_input_tokens": {}, )"
                 R"("cache_creation_input_tokens": 0}})",
                 prompt - cached, generated, cached);
}

std::string message_head(const Serving& serving, const Call& call) {
  std::string head = R"("type": "message", "role": "assistant", "id": )";
  append_json_string(head, "msg_" + call.id);
  append_json_string(head += R"(, "model": )", serving.names.front());
  return head;
}

class WholeMessage final : public ReplyWriter {
 public:
  WholeMessage(const Serving& serving, Call call, AnswerReader reader, bool thinks)
      : serving_(serving), call_(std::move(call)), reader_(std::move(reader)), thinks_(thinks) {}

  void piece(size_t, const AnswerPiece& piece) override { message_.add(reader_.feed(piece.text)); }
  void end(size_t, const AnswerResult& result) override {
    message_.add(reader_.finish());
    result_ = result;
  }
  void fail(const ApiError& error) override {
    call_.respond_json(anthropic_body(error), error.status());
  }

  void done() override {
    std::string content;
    const auto begin = [&](const char* type) {
      content += fmt::format(R"({}{{"type": "{}", )", content.empty() ? "" : ", ", type);
    };
    if (thinks_ && !message_.reasoning.empty()) {
      begin("thinking");
      append_json_string(content += R"("thinking": )", message_.reasoning);
      content += R"(, "signature": ""})";
    }
    if (!message_.content.empty() || message_.tool_calls.empty()) {
      begin("text");
      append_json_string(content += R"("text": )", message_.content);
      content += '}';
    }
    for (const ToolCall& call : message_.tool_calls) {
      begin("tool_use");
      append_json_string(content += R"("id": )", call.id);
      append_json_string(content += R"(, "name": )", call.name);
      content += R"(, "input": )" + call.arguments + "}";
    }
    std::string body = "{" + message_head(serving_, call_) + R"(, "content": [)" + content + "], ";
    append_stop(body, result_, reader_);
    append_usage(body += R"(, "usage": )", result_.generated.prompt_tokens,
                 result_.generated.cached_tokens, result_.completion_tokens);
    call_.respond_json(body + "}");
  }

 private:
  const Serving& serving_;
  const Call call_;
  AnswerReader reader_;
  const bool thinks_;
  DialogMessage message_;
  AnswerResult result_;
};

// Blocks of content follow each other: each begins, grows and stops.
class StreamedMessage final : public ReplyWriter {
 public:
  StreamedMessage(const Serving& serving, Call call, AnswerReader reader, bool thinks,
                  int64_t prompt_tokens)
      : head_(message_head(serving, call)),
        stream_(std::move(call)),
        reader_(std::move(reader)),
        thinks_(thinks),
        prompt_tokens_(prompt_tokens) {}

  void piece(size_t, const AnswerPiece& piece) override {
    begin();
    for (const Delta& delta : reader_.feed(piece.text)) show(delta);
  }

  void end(size_t, const AnswerResult& result) override {
    begin();
    for (const Delta& delta : reader_.finish()) show(delta);
    close_block();
    std::string event = R"({"type": "message_delta", "delta": {)";
    append_stop(event, result, reader_);
    append_usage(event += R"(}, "usage": )", result.generated.prompt_tokens,
                 result.generated.cached_tokens, result.completion_tokens);
    stream_.send(event + "}", "message_delta");
  }

  void done() override {
    stream_.send(R"({"type": "message_stop"})", "message_stop");
    stream_.finish("");
  }

  void fail(const ApiError& error) override {
    if (!stream_.has_begun()) {
      return stream_.call().respond_json(anthropic_body(error), error.status());
    }
    stream_.send(anthropic_body(error), "error");
    stream_.finish("");
  }

 private:
  enum class Block { kNone, kText, kThinking, kTool };

  void begin() {
    if (stream_.has_begun()) return;
    std::string event = R"({"type": "message_start", "message": {)" + head_ +
                        R"(, "content": [], "stop_reason": null, "stop_sequence": null, "usage": )";
    append_usage(event, prompt_tokens_, 0, 0);
    stream_.send(event + "}}", "message_start");
  }

  void open_block(Block block, const std::string& description) {
    close_block();
    block_ = block;
    stream_.send(fmt::format(R"({{"type": "content_block_start", "index": {}, )"
                             R"("content_block": {}}})",
                             ++index_, description),
                 "content_block_start");
  }

  void close_block() {
    if (std::exchange(block_, Block::kNone) == Block::kNone) return;
    stream_.send(fmt::format(R"({{"type": "content_block_stop", "index": {}}})", index_),
                 "content_block_stop");
  }

  void send_delta(const char* type, const char* member, const std::string& text) {
    std::string event = fmt::format(
        R"({{"type": "content_block_delta", "index": {}, "delta": {{"type": "{}", "{}": )", index_,
        type, member);
    append_json_string(event, text);
    stream_.send(event + "}}", "content_block_delta");
  }

  void show(const Delta& delta) {
    switch (delta.kind) {
      case Delta::Kind::kContent:
        if (block_ != Block::kText) open_block(Block::kText, R"({"type": "text", "text": ""})");
        return send_delta("text_delta", "text", delta.text);
      case Delta::Kind::kReasoning:
        if (!thinks_) return;
        if (block_ != Block::kThinking) {
          open_block(Block::kThinking, R"({"type": "thinking", "thinking": "", "signature": ""})");
        }
        return send_delta("thinking_delta", "thinking", delta.text);
      case Delta::Kind::kToolCall:
        if (!delta.id.empty()) {
          std::string description = R"({"type": "tool_use", "id": )";
          append_json_string(description, delta.id);
          append_json_string(description += R"(, "name": )", delta.name);
          open_block(Block::kTool, description + R"(, "input": {}})");
        }
        return send_delta("input_json_delta", "partial_json", delta.text);
    }
  }

  const std::string head_;
  EventStream stream_;
  AnswerReader reader_;
  const bool thinks_;
  const int64_t prompt_tokens_;
  Block block_ = Block::kNone;
  int64_t index_ = -1;
};

MessagesRequest parse(const Serving& serving, const Call& call, bool counts_only) {
  JsonValue body = parse_body(call.request.body);
  // Whoever counts generates nothing.
  if (counts_only && body.is_object() && !body.contains("max_tokens")) body["max_tokens"] = 1;
  std::vector<std::string> unknown;
  MessagesRequest request = parse_messages_request(body, unknown);
  note_unknown_fields(call.request.path, unknown);
  check_model_name(serving, request.model);
  return request;
}

}  // namespace

std::string anthropic_body(const ApiError& error) {
  return R"({"type": "error", )" + error.body().substr(1);
}

void create_message(Serving& serving, const Call& call) {
  const MessagesRequest request = parse(serving, call, /*counts_only=*/false);
  ConversationAnswers made = conversation_answers(serving, request, request, request.max_tokens);
  std::unique_ptr<ReplyWriter> writer;
  if (request.stream) {
    writer = std::make_unique<StreamedMessage>(serving, call, std::move(made.readers.front()),
                                               request.thinks, made.prompt_tokens);
  } else {
    writer = std::make_unique<WholeMessage>(serving, call, std::move(made.readers.front()),
                                            request.thinks);
  }
  start_answers(serving, call, std::move(made.answers), std::move(writer));
}

void count_message_tokens(Serving& serving, const Call& call) {
  const MessagesRequest request = parse(serving, call, /*counts_only=*/true);
  const size_t count = serving.tokenizer.encode(render_conversation(serving, request)).size();
  call.respond_json(fmt::format(R"({{"input_tokens": {}}})", count));
}

}  // namespace moe4::server
