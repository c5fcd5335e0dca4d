// Messages, brought into the form that templates expect.
#include "server/chat_request.h"

#include <utility>

#include "base/error.h"

namespace moe4::server {
namespace {

constexpr size_t kMaxMessages = 10000;
constexpr size_t kMaxMembers = 100;  // of a message; each costs a search among the others

void check_members(const JsonValue& object, const std::string& name) {
  if (object.size() <= kMaxMembers) return;
  refuse_field(name, fmt::format("{} members: expected at most {}", object.size(), kMaxMembers));
}

std::string text_of_part(const JsonValue& part, const std::string& name) {
  if (part.is_string()) return part.get<std::string>();
  read_object(part, name);
  const auto type = part.find("type");
  if (type == part.end()) refuse_field(name + ".type", "the field is missing");
  const std::string kind = read_string(*type, name + ".type");
  if (kind != "text" && kind != "input_text" && kind != "output_text") {
    refuse_field(name, fmt::format("a part of type '{}' is not supported: this server reads text",
                                   printable(kind, 60)));
  }
  const auto text = part.find("text");
  if (text == part.end()) refuse_field(name + ".text", "the field is missing");
  return read_string(*text, name + ".text");
}

// Parts are lines of one text.
JsonValue content_text(const JsonValue& content, const std::string& name) {
  if (content.is_null() || content.is_string()) return content;
  if (!content.is_array()) {
    refuse_field(name,
                 fmt::format("expected text or a list of parts, found {}", type_words(content)));
  }
  std::string text;
  for (size_t i = 0; i < content.size(); ++i) {
    if (i > 0) text += '\n';
    text += text_of_part(content[i], fmt::format("{}[{}]", name, i));
  }
  return text;
}

// Arguments come as text; templates want the object.
JsonValue normalized_tool_calls(const JsonValue& calls, const std::string& name) {
  read_array(calls, name);
  JsonValue result = JsonValue::array();
  for (size_t i = 0; i < calls.size(); ++i) {
    const std::string call_name = fmt::format("{}[{}]", name, i);
    JsonValue call = read_object(calls[i], call_name);
    const auto function = call.find("function");
    if (function == call.end()) refuse_field(call_name + ".function", "the field is missing");
    read_object(*function, call_name + ".function");
    const auto function_name = function->find("name");
    if (function_name == function->end()) {
      refuse_field(call_name + ".function.name", "the field is missing");
    }
    read_string(*function_name, call_name + ".function.name");
    const auto arguments = function->find("arguments");
    if (arguments != function->end() && arguments->is_string()) {
      const auto text = arguments->get<std::string>();
      try {
        *arguments = text.empty() ? JsonValue::object() : parse_body(text);
      } catch (const ApiError& error) {
        refuse_field(call_name + ".function.arguments",
                     std::string("the text is no JSON object: ") + error.what());
      }
      read_object(*arguments, call_name + ".function.arguments");
    }
    result.push_back(std::move(call));
  }
  return result;
}

void read_messages(const JsonValue& value, ConversationRequest& request) {
  read_array(value, "messages");
  if (value.empty()) refuse_field("messages", "the list is empty: expected at least one message");
  if (value.size() > kMaxMessages) {
    refuse_field("messages",
                 fmt::format("{} messages: expected at most {}", value.size(), kMaxMessages));
  }
  for (size_t i = 0; i < value.size(); ++i) {
    request.messages.push_back(normalized_message(value[i], fmt::format("messages[{}]", i)));
  }
}

void read_template_variables(const JsonValue& value, ConversationRequest& request) {
  read_object(value, "chat_template_kwargs");
  check_members(value, "chat_template_kwargs");
  for (const auto& [name, variable] : value.items()) {
    for (const char* taken : {"messages", "tools", "documents", "add_generation_prompt"}) {
      if (name == taken) {
        refuse_field("chat_template_kwargs." + name, "it is a field of the request");
      }
    }
    request.template_variables[name] = variable;
  }
}

void read_tools(const JsonValue& value, ConversationRequest& request) {
  read_array(value, "tools");
  for (size_t i = 0; i < value.size(); ++i) {
    const std::string name = fmt::format("tools[{}]", i);
    const JsonValue& tool = read_object(value[i], name);
    const auto type = tool.find("type");
    if (type == tool.end() || *type != "function") {
      refuse_field(name + ".type", "only functions are supported");
    }
    const auto function = tool.find("function");
    if (function == tool.end()) refuse_field(name + ".function", "the field is missing");
    read_object(*function, name + ".function");
    const auto function_name = function->find("name");
    if (function_name == function->end()) {
      refuse_field(name + ".function.name", "the field is missing");
    }
    read_string(*function_name, name + ".function.name");
    const auto parameters = function->find("parameters");
    if (parameters != function->end() && !parameters->is_null()) {
      read_object(*parameters, name + ".function.parameters");
    }
  }
  if (!value.empty()) request.tools = value;
}

template <JsonValue ConversationRequest::*member>
void read_list(const char* name, const JsonValue& value, ConversationRequest& request) {
  if (!read_array(value, name).empty()) request.*member = value;
}

Fields<ConversationRequest> make_conversation_fields() {
  using R = ConversationRequest;
  const JsonValue part = {
      {"type", "object"},
      {"properties", {{"type", {{"const", "text"}}}, {"text", {{"type", "string"}}}}},
      {"required", {"type", "text"}}};
  const JsonValue content = {
      {"anyOf", {{{"type", "string"}}, {{"type", "array"}, {"items", part}, {"minItems", 1}}}}};
  const JsonValue message = {
      {"type", "object"},
      {"properties",
       {{"role", {{"enum", {"system", "developer", "user", "assistant", "tool"}}}},
        {"content", content}}},
      {"required", {"role", "content"}},
      {"additionalProperties", false}};
  return {
      custom_field<R>(
          "messages",
          {{"type", "array"}, {"items", message}, {"minItems", 1}, {"maxItems", kMaxMessages}},
          read_messages, "The conversation so far", /*required=*/true),
      custom_field<R>("chat_template_kwargs", {{"type", {"object", "null"}}},
                      read_template_variables,
                      "Variables of the chat template, such as enable_thinking"),
      custom_field<R>(
          "documents", {{"type", {"array", "null"}}, {"items", {{"type", "object"}}}},
          [](const JsonValue& value, R& request) {
            read_list<&R::documents>("documents", value, request);
          },
          "For templates that know documents"),
      custom_field<R>(
          "reasoning_effort", {{"type", {"string", "null"}}},
          [](const JsonValue& value, R& request) {
            request.template_variables["reasoning_effort"] = read_string(value, "reasoning_effort");
          },
          "A variable of the chat template"),
      custom_field<R>(
          "tools", {{"type", {"array", "null"}}, {"maxItems", 0}, {"items", {{"type", "object"}}}},
          read_tools, "Functions that the model may call"),
      custom_field<R>(
          "tool_choice", {{"enum", {"auto", "none", nullptr}}},
          [](const JsonValue& value, R& request) { request.tool_choice = value; },
          "Whether it may"),
      boolean_field("parallel_tool_calls", &R::parallel_tool_calls,
                    "With tool_choice required: more than one call may come"),
      boolean_field("add_generation_prompt", &R::add_generation_prompt,
                    "The prompt ends with the beginning of an answer"),
      boolean_field("continue_final_message", &R::continue_final_message,
                    "The last message is continued instead of answered"),
      ignored_field<R>("add_special_tokens", "Changes nothing: the template adds them"),
      refused_field<R>("chat_template", JsonValue(),
                       "templates of requests are not supported; --chat-template of the server is"),
  };
}

Fields<ChatRequest> make_chat_fields() {
  using R = ChatRequest;
  Fields<R> fields;
  append_fields(fields, conversation_fields());
  fields.push_back(integer_field("max_completion_tokens", &R::max_completion_tokens, 0, INT32_MAX,
                                 "Most tokens to generate"));
  fields.push_back(boolean_field("logprobs", &R::logprobs, "Log probabilities of the tokens"));
  fields.push_back(integer_field("top_logprobs", &R::top_logprobs, 0, 20,
                                 "With logprobs: so many of the likeliest"));
  for (const char* name : {"metadata", "store", "service_tier", "safety_identifier",
                           "prompt_cache_key", "prediction", "verbosity", "include_reasoning"}) {
    fields.push_back(ignored_field<R>(name, "Changes nothing"));
  }
  fields.push_back(refused_field<R>("functions", JsonValue::array(), "not supported; use tools"));
  fields.push_back(refused_field<R>("function_call", "none", "not supported; use tool_choice"));
  fields.push_back(refused_field<R>("modalities", JsonValue{"text"}, "only text is supported"));
  fields.push_back(refused_field<R>("audio", JsonValue(), "only text is supported"));
  fields.push_back(refused_field<R>("web_search_options", JsonValue(), "not supported"));
  fields.push_back(refused_field<R>("echo", false, "not supported; /v1/completions has it"));
  append_fields(fields, sampling_fields());
  return fields;
}

}  // namespace

JsonValue normalized_message(const JsonValue& message, const std::string& name) {
  read_object(message, name);
  check_members(message, name);
  const auto role = message.find("role");
  if (role == message.end()) refuse_field(name + ".role", "the field is missing");
  const std::string role_name = read_string(*role, name + ".role");
  if (role_name.empty()) refuse_field(name + ".role", "the text is empty");
  JsonValue result = {{"role", role_name}};
  const auto content = message.find("content");
  const auto calls = message.find("tool_calls");
  const bool has_calls = calls != message.end() && !calls->is_null();
  if (content == message.end() || content->is_null()) {
    if (role_name != "assistant") refuse_field(name + ".content", "the field is missing");
    result["content"] = has_calls ? JsonValue() : JsonValue("");
  } else {
    result["content"] = content_text(*content, name + ".content");
  }
  for (const auto& [key, value] : message.items()) {
    if (key == "role" || key == "content" || value.is_null()) continue;
    if (key == "tool_calls") {
      result[key] = normalized_tool_calls(value, name + ".tool_calls");
    } else {
      result[key == "reasoning" ? "reasoning_content" : key] = value;
    }
  }
  return result;
}

const Fields<ConversationRequest>& conversation_fields() {
  static const Fields<ConversationRequest> fields = make_conversation_fields();
  return fields;
}

const Fields<ChatRequest>& chat_fields() {
  static const Fields<ChatRequest> fields = make_chat_fields();
  return fields;
}

std::string chosen_function(const JsonValue& choice) {
  if (choice.is_object()) {
    const auto function = choice.find("function");
    if (function != choice.end() && function->is_object()) {
      const auto name = function->find("name");
      if (name != function->end()) return read_string(*name, "tool_choice.function.name");
    }
  }
  refuse_field("tool_choice", "expected auto, none, required, or an object that names a function");
}

void check_tool_choice(const ConversationRequest& request) {
  const JsonValue& choice = request.tool_choice;
  if (choice == "auto" || choice == "none") return;
  if (request.tools.is_null()) refuse_field("tool_choice", "it needs tools");
  if (choice == "required") return;
  const std::string name = chosen_function(choice);
  for (const JsonValue& tool : request.tools) {
    if (tool["function"]["name"] == name) return;
  }
  refuse_field("tool_choice", fmt::format("there is no tool '{}'", printable(name, 60)));
}

ChatRequest parse_chat_request(const JsonValue& body, std::vector<std::string>& unknown) {
  ChatRequest request = read_request(body, chat_fields(), unknown);
  if (request.top_logprobs > 0 && !request.logprobs) {
    refuse_field("top_logprobs", "it needs logprobs: true");
  }
  check_tool_choice(request);
  if (request.continue_final_message && request.add_generation_prompt) {
    refuse_field("continue_final_message", "it needs add_generation_prompt: false");
  }
  return request;
}

}  // namespace moe4::server
