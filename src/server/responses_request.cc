// Items of the input become messages.
#include "server/responses_request.h"

#include <utility>

#include "base/error.h"

namespace moe4::server {
namespace {

constexpr size_t kMaxItems = 10000;

const JsonValue& member(const JsonValue& object, const char* key, const std::string& name) {
  const auto found = object.find(key);
  if (found == object.end()) refuse_field(name + "." + key, "the field is missing");
  return *found;
}

std::string text_member(const JsonValue& object, const char* key, const std::string& name) {
  return read_string(member(object, key, name), name + "." + key);
}

void read_item(const JsonValue& item, const std::string& name, JsonValue& messages) {
  read_object(item, name);
  const auto found = item.find("type");
  const std::string type = found == item.end() ? "message" : read_string(*found, name + ".type");
  if (type == "message") {
    JsonValue message = {{"role", text_member(item, "role", name)},
                         {"content", member(item, "content", name)}};
    messages.push_back(normalized_message(message, name));
  } else if (type == "function_call") {
    JsonValue call = {{"id", text_member(item, "call_id", name)},
                      {"type", "function"},
                      {"function",
                       {{"name", text_member(item, "name", name)},
                        {"arguments", text_member(item, "arguments", name)}}}};
    messages.push_back(normalized_message(
        {{"role", "assistant"}, {"tool_calls", JsonValue::array({std::move(call)})}}, name));
  } else if (type == "function_call_output") {
    messages.push_back(normalized_message({{"role", "tool"},
                                           {"tool_call_id", text_member(item, "call_id", name)},
                                           {"content", member(item, "output", name)}},
                                          name));
  } else if (type != "reasoning") {  // what the model thought before is not told again
    refuse_field(name, fmt::format("an item of type '{}' is not supported", printable(type, 60)));
  }
}

void read_input(const JsonValue& value, ResponsesRequest& request) {
  if (value.is_string()) {
    request.messages.push_back({{"role", "user"}, {"content", value}});
    return;
  }
  read_array(value, "input");
  if (value.empty()) refuse_field("input", "the list is empty: expected at least one item");
  if (value.size() > kMaxItems) refuse_field("input", "too many items");
  for (size_t i = 0; i < value.size(); ++i) {
    read_item(value[i], fmt::format("input[{}]", i), request.messages);
  }
  if (request.messages.empty()) refuse_field("input", "there is no message in it");
}

void read_tools(const JsonValue& value, ResponsesRequest& request) {
  read_array(value, "tools");
  JsonValue tools = JsonValue::array();
  for (size_t i = 0; i < value.size(); ++i) {
    const std::string name = fmt::format("tools[{}]", i);
    JsonValue function = read_object(value[i], name);
    if (text_member(function, "type", name) != "function") {
      refuse_field(name + ".type", "only functions are supported");
    }
    text_member(function, "name", name);
    function.erase("type");
    function.erase("strict");
    tools.push_back({{"type", "function"}, {"function", std::move(function)}});
  }
  if (tools.empty()) return;
  request.tools = std::move(tools);
  request.listed_tools = value;
}

void read_tool_choice(const JsonValue& value, ResponsesRequest& request) {
  if (value.is_string()) {
    request.tool_choice = value;
    return;
  }
  const std::string type = text_member(read_object(value, "tool_choice"), "type", "tool_choice");
  if (type != "function") refuse_field("tool_choice.type", "only functions are supported");
  request.tool_choice = JsonValue{
      {"type", "function"}, {"function", {{"name", text_member(value, "name", "tool_choice")}}}};
}

void read_text(const JsonValue& value, ResponsesRequest& request) {
  read_object(value, "text");
  const auto format = value.find("format");
  if (format == value.end() || format->is_null()) return;
  read_response_format(*format, "text.format", request.structure);
}

void read_reasoning(const JsonValue& value, ResponsesRequest& request) {
  read_object(value, "reasoning");
  const auto effort = value.find("effort");
  if (effort == value.end() || effort->is_null()) return;
  request.reasoning_effort = read_string(*effort, "reasoning.effort");
  request.template_variables["reasoning_effort"] = request.reasoning_effort;
}

Fields<ResponsesRequest> make_fields() {
  using R = ResponsesRequest;
  const JsonValue text = {{"type", "string"}};
  Fields<R> fields = {
      string_field("model", &R::model, "Name of the model; see /v1/models"),
      custom_field<R>("input", text, read_input,
                      "Text of the user, or a list of messages, calls and their outputs",
                      /*required=*/true),
      custom_field<R>(
          "instructions", {{"type", {"string", "null"}}},
          [](const JsonValue& value, R& request) {
            request.instructions = read_string(value, "instructions");
            request.has_instructions = true;
          },
          "System prompt"),
      custom_field<R>(
          "max_output_tokens",
          {{"type", {"integer", "null"}}, {"minimum", 1}, {"maximum", INT32_MAX}},
          [](const JsonValue& value, R& request) {
            request.max_tokens = read_integer(value, "max_output_tokens", 1, INT32_MAX);
          },
          "Most tokens to generate"),
      boolean_field("stream", &R::stream, "Send the answer piece by piece as server-sent events"),
      number_field("temperature", &R::temperature, 0, 100, "0 is greedy"),
      number_field("top_p", &R::top_p, 0, 1, "Keep the likeliest tokens of this mass"),
      integer_field("top_k", &R::top_k, -1, INT32_MAX, "Keep so many tokens; 0 and -1 are all"),
      integer_field("seed", &R::seed, INT32_MIN, INT32_MAX, "Of the sampler"),
      custom_field<R>("tools", {{"type", {"array", "null"}}, {"maxItems", 0}}, read_tools,
                      "Functions that the model may call"),
      custom_field<R>("tool_choice", {{"enum", {"auto", "none", nullptr}}}, read_tool_choice,
                      "Whether it may"),
      custom_field<R>("text",
                      {{"type", {"object", "null"}},
                       {"properties",
                        {{"format",
                          {{"type", "object"},
                           {"properties", {{"type", {{"const", "text"}}}}},
                           {"required", {"type"}}}}}}},
                      read_text, "The form of the answer"),
      custom_field<R>("reasoning",
                      {{"type", {"object", "null"}},
                       {"properties", {{"effort", {{"type", {"string", "null"}}}}}}},
                      read_reasoning, "reasoning.effort is a variable of the chat template"),
      custom_field<R>(
          "metadata", {{"type", {"object", "null"}}},
          [](const JsonValue& value, R& request) {
            request.metadata = read_object(value, "metadata");
          },
          "Comes back as it is"),
  };
  for (const char* name :
       {"store", "include", "parallel_tool_calls", "truncation", "user", "service_tier",
        "prompt_cache_key", "safety_identifier", "stream_options", "max_tool_calls"}) {
    fields.push_back(ignored_field<R>(name, "Changes nothing"));
  }
  fields.push_back(refused_field<R>("previous_response_id", JsonValue(),
                                    "answers are not stored: send the conversation as input"));
  fields.push_back(refused_field<R>("conversation", JsonValue(), "answers are not stored"));
  fields.push_back(refused_field<R>("background", false, "not supported"));
  fields.push_back(refused_field<R>("prompt", JsonValue(), "stored prompts are not supported"));
  fields.push_back(refused_field<R>("top_logprobs", 0, "not supported"));
  return fields;
}

}  // namespace

const Fields<ResponsesRequest>& responses_fields() {
  static const Fields<ResponsesRequest> fields = make_fields();
  return fields;
}

ResponsesRequest parse_responses_request(const JsonValue& body, std::vector<std::string>& unknown) {
  ResponsesRequest request = read_request(body, responses_fields(), unknown);
  check_tool_choice(request);
  if (!request.instructions.empty()) {
    request.messages.insert(request.messages.begin(),
                            JsonValue{{"role", "system"}, {"content", request.instructions}});
  }
  return request;
}

}  // namespace moe4::server
