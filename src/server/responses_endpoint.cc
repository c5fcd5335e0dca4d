// POST /v1/responses.
#include <ctime>
#include <utility>

#include "server/answer_group.h"
#include "server/conversation_answers.h"
#include "server/endpoints.h"
#include "server/event_stream.h"
#include "server/prompt_text.h"
#include "server/responses_request.h"

namespace moe4::server {
namespace {

// The object that a request becomes, at every stage.
class ResponseObject {
 public:
  ResponseObject(const Serving& serving, const std::string& id, const ResponsesRequest& request)
      : id_(id) {
    const JsonValue effort =
        request.reasoning_effort.empty() ? JsonValue() : JsonValue(request.reasoning_effort);
    object_ = {
        {"id", "resp_" + id},
        {"object", "response"},
        {"created_at", std::time(nullptr)},
        {"status", "in_progress"},
        {"background", false},
        {"error", nullptr},
        {"incomplete_details", nullptr},
        {"instructions", request.has_instructions ? JsonValue(request.instructions) : JsonValue()},
        {"max_output_tokens", request.max_tokens ? JsonValue(*request.max_tokens) : JsonValue()},
        {"metadata", request.metadata},
        {"model", serving.names.front()},
        {"output", JsonValue::array()},
        {"parallel_tool_calls", true},
        {"previous_response_id", nullptr},
        {"reasoning", {{"effort", effort}, {"summary", nullptr}}},
        {"store", false},
        {"temperature", request.temperature ? JsonValue(*request.temperature) : JsonValue(1.0)},
        {"text", {{"format", {{"type", "text"}}}}},
        {"tool_choice", request.tool_choice},
        {"tools", request.listed_tools},
        {"top_p", request.top_p ? JsonValue(*request.top_p) : JsonValue(1.0)},
        {"truncation", "disabled"},
        {"usage", nullptr},
        {"user", nullptr}};
  }

  void finish(JsonValue output, const AnswerResult& result) {
    const bool is_cut = std::string_view(result.finish_reason) == "length";
    object_["status"] = is_cut ? "incomplete" : "completed";
    if (is_cut) object_["incomplete_details"] = {{"reason", "max_output_tokens"}};
    object_["output"] = std::move(output);
    const int64_t prompt = result.generated.prompt_tokens;
    object_["usage"] = {
        {"input_tokens", prompt},
        {"input_tokens_details", {{"cached_tokens", result.generated.cached_tokens}}},
        {"output_tokens", result.completion_tokens},
        {"output_tokens_details", {{"reasoning_tokens", 0}}},
        {"total_tokens", prompt + result.completion_tokens}};
  }

  void fail(const ApiError& error) {
    object_["status"] = "failed";
    object_["error"] = {{"code", "server_error"}, {"message", error.what()}};
  }

  const JsonValue& json() const { return object_; }
  const std::string& id() const { return id_; }

 private:
  const std::string id_;
  JsonValue object_;
};

JsonValue text_part(const std::string& text) {
  return {{"type", "output_text"}, {"text", text}, {"annotations", JsonValue::array()}};
}

// Items of the output, numbered in the order in which they begin.
JsonValue message_item(const std::string& id, const char* status, JsonValue content) {
  return {{"id", id},
          {"type", "message"},
          {"role", "assistant"},
          {"status", status},
          {"content", std::move(content)}};
}

JsonValue reasoning_item(const std::string& id, const std::string& text) {
  JsonValue content = JsonValue::array();
  if (!text.empty()) content.push_back({{"type", "reasoning_text"}, {"text", text}});
  return {{"id", id},
          {"type", "reasoning"},
          {"summary", JsonValue::array()},
          {"content", std::move(content)}};
}

JsonValue call_item(const std::string& id, const char* status, const ToolCall& call) {
  return {{"id", id},           {"type", "function_call"}, {"status", status},
          {"call_id", call.id}, {"name", call.name},       {"arguments", call.arguments}};
}

// Collects items from deltas; in a stream each change is an event.
class ResponseWriter final : public ReplyWriter {
 public:
  ResponseWriter(Call call, ResponseObject object, AnswerReader reader, bool is_stream)
      : stream_(std::move(call)),
        object_(std::move(object)),
        reader_(std::move(reader)),
        is_stream_(is_stream) {}

  void piece(size_t, const AnswerPiece& piece) override {
    begin();
    for (const Delta& delta : reader_.feed(piece.text)) take(delta);
  }

  void end(size_t, const AnswerResult& result) override {
    begin();
    for (const Delta& delta : reader_.finish()) take(delta);
    if (item_ == Item::kNone && output_.empty()) open(Item::kMessage);  // an empty answer
    close_item();
    object_.finish(output_, result);
  }

  void done() override {
    if (!is_stream_) return stream_.call().respond_json(dump(object_.json()));
    const bool is_whole = object_.json()["status"] == "completed";
    send(is_whole ? "response.completed" : "response.incomplete", {{"response", object_.json()}});
    stream_.finish("");
  }

  void fail(const ApiError& error) override {
    if (!stream_.has_begun()) {
      return stream_.call().respond_json(error.body(), error.status());
    }
    object_.fail(error);
    send("response.failed", {{"response", object_.json()}});
    stream_.finish("");
  }

 private:
  enum class Item { kNone, kMessage, kReasoning, kCall };

  void begin() {
    if (!is_stream_ || stream_.has_begun()) return;
    send("response.created", {{"response", object_.json()}});
    send("response.in_progress", {{"response", object_.json()}});
  }

  void send(const char* type, JsonValue members) {
    if (!is_stream_) return;
    JsonValue event = {{"type", type}, {"sequence_number", sequence_++}};
    event.update(members);
    stream_.send(dump(event), type);
  }

  // Where an event of the present item is.
  JsonValue place() const { return {{"item_id", item_id_}, {"output_index", output_.size()}}; }
  JsonValue part_place(JsonValue more) const {
    JsonValue members = place();
    members["content_index"] = 0;
    members.update(more);
    return members;
  }

  void open(Item item) {
    close_item();
    item_ = item;
    text_.clear();
    const char* prefix = item == Item::kMessage ? "msg" : item == Item::kReasoning ? "rs" : "fc";
    item_id_ = fmt::format("{}_{}_{}", prefix, object_.id(), output_.size());
    send("response.output_item.added", {{"output_index", output_.size()},
                                        {"item", item_json("in_progress", /*is_whole=*/false)}});
    if (item == Item::kMessage) {
      send("response.content_part.added", part_place({{"part", text_part("")}}));
    }
  }

  JsonValue item_json(const char* status, bool is_whole) const {
    switch (item_) {
      case Item::kReasoning:
        return reasoning_item(item_id_, text_);
      case Item::kCall:
        return call_item(item_id_, status, {call_.id, call_.name, text_});
      default:
        return message_item(item_id_, status,
                            is_whole ? JsonValue::array({text_part(text_)}) : JsonValue::array());
    }
  }

  void close_item() {
    if (item_ == Item::kNone) return;
    if (item_ == Item::kMessage) {
      send("response.output_text.done",
           part_place({{"text", text_}, {"logprobs", JsonValue::array()}}));
      send("response.content_part.done", part_place({{"part", text_part(text_)}}));
    } else if (item_ == Item::kReasoning) {
      send("response.reasoning_text.done", part_place({{"text", text_}}));
    } else {
      JsonValue members = place();
      members["name"] = call_.name;
      members["arguments"] = text_;
      send("response.function_call_arguments.done", std::move(members));
    }
    JsonValue item = item_json("completed", /*is_whole=*/true);
    send("response.output_item.done", {{"output_index", output_.size()}, {"item", item}});
    output_.push_back(std::move(item));
    item_ = Item::kNone;
  }

  void take(const Delta& delta) {
    switch (delta.kind) {
      case Delta::Kind::kContent:
        if (item_ != Item::kMessage) open(Item::kMessage);
        send("response.output_text.delta",
             part_place({{"delta", delta.text}, {"logprobs", JsonValue::array()}}));
        break;
      case Delta::Kind::kReasoning:
        if (item_ != Item::kReasoning) open(Item::kReasoning);
        send("response.reasoning_text.delta", part_place({{"delta", delta.text}}));
        break;
      case Delta::Kind::kToolCall: {
        if (!delta.id.empty()) {
          close_item();
          call_ = {.id = delta.id, .name = delta.name};
          open(Item::kCall);
        }
        JsonValue members = place();
        members["delta"] = delta.text;
        send("response.function_call_arguments.delta", std::move(members));
        break;
      }
    }
    text_ += delta.text;
  }

  EventStream stream_;
  ResponseObject object_;
  AnswerReader reader_;
  const bool is_stream_;
  int64_t sequence_ = 0;
  Item item_ = Item::kNone;
  std::string item_id_, text_;  // of the item that grows
  ToolCall call_;
  JsonValue output_ = JsonValue::array();
};

}  // namespace

void create_response(Serving& serving, const Call& call) {
  std::vector<std::string> unknown;
  const ResponsesRequest request = parse_responses_request(parse_body(call.request.body), unknown);
  note_unknown_fields(call.request.path, unknown);
  check_model_name(serving, request.model);
  ConversationAnswers made = conversation_answers(serving, request, request, request.max_tokens);
  auto writer = std::make_unique<ResponseWriter>(call, ResponseObject(serving, call.id, request),
                                                 std::move(made.readers.front()), request.stream);
  start_answers(serving, call, std::move(made.answers), std::move(writer));
}

}  // namespace moe4::server
