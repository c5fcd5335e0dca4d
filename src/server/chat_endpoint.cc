// POST /v1/chat/completions.
#include <fmt/format.h>

#include <ctime>
#include <iterator>
#include <utility>

#include "server/answer_group.h"
#include "server/chat_request.h"
#include "server/conversation_answers.h"
#include "server/endpoints.h"
#include "server/event_stream.h"
#include "server/json_text.h"
#include "server/reply_parts.h"

namespace moe4::server {
namespace {

struct Options {
  bool has_logprobs = false, as_ids = false, include_stop = false;
  bool include_usage = false, continuous_usage = false;
};

// {"id": ..., "object": ..., "created": ..., "model": ..., "choices": [
std::string reply_head(const Serving& serving, const std::string& id, const char* object) {
  std::string head = R"({"id": )";
  append_json_string(head, "chatcmpl-" + id);
  fmt::format_to(std::back_inserter(head), R"(, "object": "{}", "created": {}, "model": )", object,
                 std::time(nullptr));
  append_json_string(head, serving.names.front());
  return head + R"(, "choices": [)";
}

Usage usage_of(const std::vector<AnswerResult>& results) {
  Usage usage{.prompt_tokens = results.front().generated.prompt_tokens,
              .cached_tokens = results.front().generated.cached_tokens};
  for (const AnswerResult& result : results) usage.completion_tokens += result.completion_tokens;
  return usage;
}

// finish_reason of an answer with these calls in it.
const char* finish_reason(const AnswerResult& result, const AnswerReader& reader) {
  return reader.complete_calls() > 0 ? "tool_calls" : result.finish_reason;
}

void append_reasoning(std::string& out, const std::string& text) {
  append_json_string(out += R"("reasoning": )", text);
  append_json_string(out += R"(, "reasoning_content": )", text);  // its older name
}

// One JSON document when all has ended.
class WholeReply final : public ReplyWriter {
 public:
  WholeReply(const Serving& serving, Call call, const Options& options,
             std::vector<AnswerReader> readers)
      : serving_(serving),
        call_(std::move(call)),
        options_(options),
        readers_(std::move(readers)),
        messages_(readers_.size()),
        tokens_(readers_.size()),
        results_(readers_.size()) {}

  void piece(size_t index, const AnswerPiece& piece) override {
    messages_[index].add(readers_[index].feed(piece.text));
    tokens_[index].insert(tokens_[index].end(), piece.tokens.begin(), piece.tokens.end());
  }
  void end(size_t index, const AnswerResult& result) override {
    messages_[index].add(readers_[index].finish());
    if (options_.include_stop) messages_[index].content += stop_text(serving_, result);
    results_[index] = result;
  }
  void fail(const ApiError& error) override { call_.respond_json(error.body(), error.status()); }

  void done() override {
    std::string body = reply_head(serving_, call_.id, "chat.completion");
    for (size_t i = 0; i < results_.size(); ++i) {
      fmt::format_to(std::back_inserter(body), R"({}{{"index": {}, "message": )", i > 0 ? ", " : "",
                     i);
      append_message(body, messages_[i]);
      body += R"(, "logprobs": )";
      if (options_.has_logprobs) {
        append_chat_logprobs(body, serving_, tokens_[i], options_.as_ids);
      } else {
        body += "null";
      }
      append_finish(body += ", ", finish_reason(results_[i], readers_[i]), results_[i]);
      body += '}';
    }
    append_usage(body += R"(], "usage": )", usage_of(results_));
    call_.respond_json(body + "}");
  }

 private:
  static void append_message(std::string& body, const DialogMessage& message) {
    body += R"({"role": "assistant", "content": )";
    if (message.content.empty() && !message.tool_calls.empty()) {
      body += "null";
    } else {
      append_json_string(body, message.content);
    }
    if (!message.reasoning.empty()) append_reasoning(body += ", ", message.reasoning);
    for (size_t i = 0; i < message.tool_calls.size(); ++i) {
      const ToolCall& call = message.tool_calls[i];
      body += i == 0 ? R"(, "tool_calls": [{"id": )" : R"(, {"id": )";
      append_json_string(body, call.id);
      append_json_string(body += R"(, "type": "function", "function": {"name": )", call.name);
      append_json_string(body += R"(, "arguments": )", call.arguments);
      body += "}}";
    }
    body += message.tool_calls.empty() ? "}" : "]}";
  }

  const Serving& serving_;
  const Call call_;
  const Options options_;
  std::vector<AnswerReader> readers_;
  std::vector<DialogMessage> messages_;
  std::vector<std::vector<ChosenToken>> tokens_;
  std::vector<AnswerResult> results_;
};

class StreamedReply final : public ReplyWriter {
 public:
  StreamedReply(const Serving& serving, Call call, const Options& options,
                std::vector<AnswerReader> readers, int64_t prompt_tokens)
      : serving_(serving),
        options_(options),
        stream_(std::move(call)),
        head_(reply_head(serving, stream_.call().id, "chat.completion.chunk")),
        prompt_tokens_(prompt_tokens),
        readers_(std::move(readers)),
        results_(readers_.size()),
        has_role_(readers_.size()),
        tokens_(readers_.size()) {}

  void piece(size_t index, const AnswerPiece& piece) override {
    send_role(index);
    std::vector<ChosenToken>& tokens = tokens_[index];
    tokens.insert(tokens.end(), piece.tokens.begin(), piece.tokens.end());
    show(index, readers_[index].feed(piece.text), piece.completion_tokens);
  }

  void end(size_t index, const AnswerResult& result) override {
    send_role(index);
    results_[index] = result;
    show(index, readers_[index].finish(), result.completion_tokens);
    std::string delta = "{";
    if (options_.include_stop) {
      append_json_string(delta += R"("content": )", stop_text(serving_, result));
    }
    std::string chunk = choice_head(index) + delta + R"(}, "logprobs": )";
    append_logprobs(chunk, index);
    append_finish(chunk += ", ", finish_reason(result, readers_[index]), result);
    send(chunk + "}", result.completion_tokens);
  }

  void done() override {
    if (options_.include_usage) {
      std::string chunk = head_;
      append_usage(chunk += R"(], "usage": )", usage_of(results_));
      stream_.send(chunk + "}");
    }
    stream_.finish("[DONE]");
  }

  void fail(const ApiError& error) override { stream_.fail(error); }

 private:
  void send_role(size_t index) {
    if (has_role_[index]) return;
    has_role_[index] = true;
    send_delta(index, R"({"role": "assistant", "content": ""})", 0);
  }

  void show(size_t index, const std::vector<Delta>& deltas, int64_t completion_tokens) {
    for (const Delta& delta : deltas) send_delta(index, delta_json(delta), completion_tokens);
  }

  static std::string delta_json(const Delta& delta) {
    std::string json = "{";
    switch (delta.kind) {
      case Delta::Kind::kContent:
        append_json_string(json += R"("content": )", delta.text);
        break;
      case Delta::Kind::kReasoning:
        append_reasoning(json, delta.text);
        break;
      case Delta::Kind::kToolCall:
        json += fmt::format(R"("tool_calls": [{{"index": {}, )", delta.index);
        if (!delta.id.empty()) {
          append_json_string(json += R"("id": )", delta.id);
          append_json_string(json += R"(, "type": "function", "function": {"name": )", delta.name);
          json += ", ";
        } else {
          json += R"("function": {)";
        }
        append_json_string(json += R"("arguments": )", delta.text);
        json += "}}]";
        break;
    }
    return json + "}";
  }

  std::string choice_head(size_t index) const {
    return head_ + fmt::format(R"({{"index": {}, "delta": )", index);
  }

  // Of the tokens since the last chunk that had them.
  void append_logprobs(std::string& chunk, size_t index) {
    if (tokens_[index].empty()) {
      chunk += "null";
      return;
    }
    append_chat_logprobs(chunk, serving_, tokens_[index], options_.as_ids);
    tokens_[index].clear();
  }

  void send_delta(size_t index, const std::string& delta, int64_t completion_tokens) {
    std::string chunk = choice_head(index) + delta + R"(, "logprobs": )";
    append_logprobs(chunk, index);
    send(chunk + R"(, "finish_reason": null})", completion_tokens);
  }

  void send(std::string chunk, int64_t completion_tokens) {
    chunk += ']';
    if (options_.continuous_usage) {
      append_usage(chunk += R"(, "usage": )",
                   {.prompt_tokens = prompt_tokens_, .completion_tokens = completion_tokens});
    }
    stream_.send(chunk + "}");
  }

  const Serving& serving_;
  const Options options_;
  EventStream stream_;
  const std::string head_;
  const int64_t prompt_tokens_;
  std::vector<AnswerReader> readers_;
  std::vector<AnswerResult> results_;
  std::vector<bool> has_role_;
  std::vector<std::vector<ChosenToken>> tokens_;  // not sent yet
};

}  // namespace

void complete_chat(Serving& serving, const Call& call) {
  std::vector<std::string> unknown;
  const ChatRequest request = parse_chat_request(parse_body(call.request.body), unknown);
  note_unknown_fields(call.request.path, unknown);
  check_model_name(serving, request.model);
  const Options options{.has_logprobs = request.logprobs,
                        .as_ids = request.return_tokens_as_token_ids,
                        .include_stop = request.include_stop_str_in_output,
                        .include_usage = request.include_usage,
                        .continuous_usage = request.continuous_usage_stats};
  const auto asked =
      request.max_completion_tokens ? request.max_completion_tokens : request.max_tokens;
  ConversationAnswers made = conversation_answers(serving, request, request, asked);
  if (request.logprobs) {
    for (AnswerRequest& answer : made.answers) answer.logprobs = request.top_logprobs;
  }
  std::unique_ptr<ReplyWriter> writer;
  if (request.stream) {
    writer = std::make_unique<StreamedReply>(serving, call, options, std::move(made.readers),
                                             made.prompt_tokens);
  } else {
    writer = std::make_unique<WholeReply>(serving, call, options, std::move(made.readers));
  }
  start_answers(serving, call, std::move(made.answers), std::move(writer));
}

}  // namespace moe4::server
