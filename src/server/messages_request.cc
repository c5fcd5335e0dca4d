// Blocks of contents become messages: a tool's result is a message of its own.
#include "server/messages_request.h"

#include <utility>

#include "base/error.h"

namespace moe4::server {
namespace {

constexpr size_t kMaxMessages = 10000;

const JsonValue& member(const JsonValue& object, const char* key, const std::string& name) {
  const auto found = object.find(key);
  if (found == object.end()) refuse_field(name + "." + key, "the field is missing");
  return *found;
}

[[noreturn]] void refuse_block(const std::string& name, const std::string& type) {
  refuse_field(name, fmt::format("a block of type '{}' is not supported here: this server reads "
                                 "text and tools",
                                 printable(type, 60)));
}

std::string type_of(const JsonValue& block, const std::string& name) {
  return read_string(member(read_object(block, name), "type", name), name + ".type");
}

// A text, or a list of blocks of text.
std::string plain_text(const JsonValue& content, const std::string& name) {
  if (content.is_string()) return content.get<std::string>();
  read_array(content, name);
  std::string text;
  for (size_t i = 0; i < content.size(); ++i) {
    const std::string block_name = fmt::format("{}[{}]", name, i);
    const std::string type = type_of(content[i], block_name);
    if (type != "text") refuse_block(block_name, type);
    if (i > 0) text += '\n';
    text += read_string(member(content[i], "text", block_name), block_name + ".text");
  }
  return text;
}

// What the blocks of one message add up to.
struct Blocks {
  std::string text, thinking;
  bool has_text = false;
  JsonValue calls = JsonValue::array();
  JsonValue results = JsonValue::array();  // messages of tools
};

void read_block(const JsonValue& block, const std::string& name, bool is_user, Blocks& blocks) {
  const std::string type = type_of(block, name);
  if (type == "text") {
    if (std::exchange(blocks.has_text, true)) blocks.text += '\n';
    blocks.text += read_string(member(block, "text", name), name + ".text");
  } else if (type == "thinking" && !is_user) {
    blocks.thinking += read_string(member(block, "thinking", name), name + ".thinking");
  } else if (type == "tool_use" && !is_user) {
    blocks.calls.push_back(
        {{"id", read_string(member(block, "id", name), name + ".id")},
         {"type", "function"},
         {"function",
          {{"name", read_string(member(block, "name", name), name + ".name")},
           {"arguments", read_object(member(block, "input", name), name + ".input")}}}});
  } else if (type == "tool_result" && is_user) {
    const auto content = block.find("content");
    JsonValue result = {
        {"role", "tool"},
        {"tool_call_id", read_string(member(block, "tool_use_id", name), name + ".tool_use_id")}};
    result["content"] =
        content == block.end() ? std::string() : plain_text(*content, name + ".content");
    blocks.results.push_back(std::move(result));
  } else {
    refuse_block(name, type);
  }
}

void read_message(const JsonValue& message, const std::string& name, JsonValue& messages) {
  read_object(message, name);
  const std::string role = read_string(member(message, "role", name), name + ".role");
  if (role != "user" && role != "assistant") {
    refuse_field(name + ".role",
                 fmt::format("'{}': expected user or assistant", printable(role, 40)));
  }
  const JsonValue& content = member(message, "content", name);
  Blocks blocks;
  if (content.is_string()) {
    blocks.text = content.get<std::string>();
    blocks.has_text = true;
  } else {
    read_array(content, name + ".content");
    for (size_t i = 0; i < content.size(); ++i) {
      read_block(content[i], fmt::format("{}.content[{}]", name, i), role == "user", blocks);
    }
  }
  for (JsonValue& result : blocks.results) messages.push_back(std::move(result));
  if (role == "user" && !blocks.has_text && !blocks.results.empty()) return;
  JsonValue made = {{"role", role}, {"content", std::move(blocks.text)}};
  if (!blocks.thinking.empty()) made["reasoning_content"] = std::move(blocks.thinking);
  if (!blocks.calls.empty()) made["tool_calls"] = std::move(blocks.calls);
  messages.push_back(std::move(made));
}

void read_messages(const JsonValue& value, MessagesRequest& request) {
  read_array(value, "messages");
  if (value.empty()) refuse_field("messages", "the list is empty: expected at least one message");
  if (value.size() > kMaxMessages) refuse_field("messages", "too many messages");
  for (size_t i = 0; i < value.size(); ++i) {
    read_message(value[i], fmt::format("messages[{}]", i), request.messages);
  }
}

void read_tools(const JsonValue& value, MessagesRequest& request) {
  read_array(value, "tools");
  JsonValue tools = JsonValue::array();
  for (size_t i = 0; i < value.size(); ++i) {
    const std::string name = fmt::format("tools[{}]", i);
    const JsonValue& tool = read_object(value[i], name);
    const auto type = tool.find("type");
    if (type != tool.end() && *type != "custom") {
      refuse_field(name + ".type", "tools that the server runs are not supported");
    }
    JsonValue function = {{"name", read_string(member(tool, "name", name), name + ".name")}};
    if (const auto found = tool.find("description"); found != tool.end()) {
      function["description"] = read_string(*found, name + ".description");
    }
    function["parameters"] =
        read_object(member(tool, "input_schema", name), name + ".input_schema");
    tools.push_back({{"type", "function"}, {"function", std::move(function)}});
  }
  if (!tools.empty()) request.tools = std::move(tools);
}

void read_tool_choice(const JsonValue& value, MessagesRequest& request) {
  const std::string type = type_of(value, "tool_choice");
  if (type == "auto" || type == "none") {
    request.tool_choice = type;
  } else if (type == "any") {
    request.tool_choice = "required";
  } else if (type == "tool") {
    request.tool_choice = JsonValue{
        {"type", "function"},
        {"function",
         {{"name", read_string(member(value, "name", "tool_choice"), "tool_choice.name")}}}};
  } else {
    refuse_field("tool_choice.type",
                 fmt::format("'{}': expected auto, none, any or tool", printable(type, 40)));
  }
}

void read_stop_sequences(const JsonValue& value, MessagesRequest& request) {
  read_array(value, "stop_sequences");
  if (value.size() > 64) refuse_field("stop_sequences", "expected at most 64");
  for (size_t i = 0; i < value.size(); ++i) {
    const std::string name = fmt::format("stop_sequences[{}]", i);
    std::string text = read_string(value[i], name);
    if (text.size() > 1024) refuse_field(name, "expected at most 1024 bytes");
    if (!text.empty()) request.stop.push_back(std::move(text));
  }
}

void read_thinking(const JsonValue& value, MessagesRequest& request) {
  const std::string type = type_of(value, "thinking");
  if (type != "enabled" && type != "disabled" && type != "adaptive") {
    refuse_field("thinking.type",
                 fmt::format("'{}': expected enabled or disabled", printable(type, 40)));
  }
  request.thinks = type != "disabled";
  request.template_variables["enable_thinking"] = request.thinks;
}

Fields<MessagesRequest> make_fields() {
  using R = MessagesRequest;
  const JsonValue text = {{"type", "string"}};
  const JsonValue message = {
      {"type", "object"},
      {"properties", {{"role", {{"enum", {"user", "assistant"}}}}, {"content", text}}},
      {"required", {"role", "content"}},
      {"additionalProperties", false}};
  return {
      string_field("model", &R::model, "Name of the model; see /v1/models"),
      custom_field<R>("messages", {{"type", "array"}, {"items", message}, {"minItems", 1}},
                      read_messages, "The conversation so far; contents may be lists of blocks",
                      /*required=*/true),
      custom_field<R>(
          "system", {{"type", {"string", "null"}}},
          [](const JsonValue& value, R& request) { request.system = plain_text(value, "system"); },
          "System prompt; a text or a list of blocks"),
      custom_field<R>(
          "max_tokens", {{"type", "integer"}, {"minimum", 1}, {"maximum", INT32_MAX}},
          [](const JsonValue& value, R& request) {
            request.max_tokens = read_integer(value, "max_tokens", 1, INT32_MAX);
          },
          "Most tokens to generate", /*required=*/true),
      boolean_field("stream", &R::stream, "Send the answer piece by piece as server-sent events"),
      number_field("temperature", &R::temperature, 0, 1, "0 is greedy"),
      number_field("top_p", &R::top_p, 0, 1, "Keep the likeliest tokens of this mass"),
      integer_field("top_k", &R::top_k, 0, INT32_MAX, "Keep so many tokens; 0 is all"),
      custom_field<R>("stop_sequences",
                      {{"type", {"array", "null"}},
                       {"items", {{"type", "string"}, {"maxLength", 256}}},
                       {"maxItems", 64}},
                      read_stop_sequences, "End before one of these texts"),
      custom_field<R>("thinking",
                      {{"type", {"object", "null"}},
                       {"properties", {{"type", {{"enum", {"enabled", "disabled"}}}}}},
                       {"required", {"type"}}},
                      read_thinking,
                      "Whether the model reasons, where its template has a say in it"),
      custom_field<R>("tools", {{"type", {"array", "null"}}, {"maxItems", 0}}, read_tools,
                      "Functions that the model may call"),
      custom_field<R>("tool_choice",
                      {{"type", {"object", "null"}},
                       {"properties", {{"type", {{"enum", {"auto", "none"}}}}}},
                       {"required", {"type"}}},
                      read_tool_choice, "Whether it may"),
      integer_field("seed", &R::seed, INT32_MIN, INT32_MAX, "Of the sampler"),
      ignored_field<R>("metadata", "Changes nothing"),
      ignored_field<R>("service_tier", "Changes nothing"),
      refused_field<R>("container", JsonValue(), "not supported"),
      refused_field<R>("mcp_servers", JsonValue::array(), "not supported"),
  };
}

}  // namespace

const Fields<MessagesRequest>& messages_fields() {
  static const Fields<MessagesRequest> fields = make_fields();
  return fields;
}

MessagesRequest parse_messages_request(const JsonValue& body, std::vector<std::string>& unknown) {
  MessagesRequest request = read_request(body, messages_fields(), unknown);
  check_tool_choice(request);
  if (!request.system.empty()) {
    request.messages.insert(request.messages.begin(),
                            JsonValue{{"role", "system"}, {"content", request.system}});
  }
  // A last message of the assistant is the beginning of the answer.
  if (request.messages.back()["role"] == "assistant") {
    request.add_generation_prompt = false;
    request.continue_final_message = true;
  }
  return request;
}

}  // namespace moe4::server
