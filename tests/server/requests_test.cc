// Bodies of requests: every field is read, and every wrong one named.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "server/api_error.h"
#include "server/chat_request.h"
#include "server/completion_request.h"
#include "server/messages_request.h"
#include "server/openapi.h"
#include "server/responses_request.h"
#include "server/token_requests.h"

namespace moe4::server {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

CompletionRequest completion(const std::string& members) {
  std::vector<std::string> unknown;
  return parse_completion_request(parse_body("{\"prompt\": \"p\"" + members + "}"), unknown);
}

ChatRequest chat(const std::string& messages, const std::string& members = "") {
  std::vector<std::string> unknown;
  return parse_chat_request(parse_body("{\"messages\": " + messages + members + "}"), unknown);
}

constexpr char kHello[] = R"([{"role": "user", "content": "Hello"}])";

// The field that a refusal names, and its message.
template <typename Fn>
std::string refused_param(const Fn& parse, std::string* message = nullptr) {
  try {
    parse();
  } catch (const ApiError& error) {
    EXPECT_EQ(error.status(), 400);
    if (message != nullptr) *message = error.what();
    return error.param();
  }
  return "accepted";
}

TEST(CompletionRequests, PromptsHaveFourForms) {
  const auto prompts = [](const std::string& prompt) {
    std::vector<std::string> unknown;
    return parse_completion_request(parse_body("{\"prompt\": " + prompt + "}"), unknown).prompts;
  };
  using Ids = std::vector<int32_t>;
  EXPECT_THAT(prompts("\"a\""), ElementsAre(Prompt("a")));
  EXPECT_THAT(prompts("[\"a\", \"b\"]"), ElementsAre(Prompt("a"), Prompt("b")));
  EXPECT_THAT(prompts("[1, 2]"), ElementsAre(Prompt(Ids{1, 2})));
  EXPECT_THAT(prompts("[[1], [2, 3]]"), ElementsAre(Prompt(Ids{1}), Prompt(Ids{2, 3})));
  for (const char* bad : {"[]", "1", "{}", "true"}) {
    EXPECT_EQ(refused_param([&] { prompts(bad); }), "prompt") << bad;
  }
  EXPECT_EQ(refused_param([&] { prompts("null"); }), "prompt");
  EXPECT_EQ(refused_param([&] { prompts("[1, \"a\"]"); }), "prompt[1]");
  EXPECT_EQ(refused_param([&] { prompts("[\"a\", 1]"); }), "prompt[1]");
  EXPECT_EQ(refused_param([&] { prompts("[[1, -2]]"); }), "prompt[0][1]");
  EXPECT_EQ(refused_param([&] { prompts("[4294967296]"); }), "prompt[0]");
}

TEST(CompletionRequests, EveryFieldIsRead) {
  const CompletionRequest r = completion(
      R"(, "model": "m", "stream": true, "stream_options": {"include_usage": true}, "n": 2,
         "max_tokens": 3, "min_tokens": 1, "temperature": 0.5, "top_p": 0.25, "top_k": 7,
         "min_p": 0.125, "repetition_penalty": 1.5, "presence_penalty": -1, "frequency_penalty": 2,
         "logit_bias": {"9": 1.5, "8": -100}, "seed": -4, "stop": ["a", "b"],
         "stop_token_ids": [5], "include_stop_str_in_output": true, "ignore_eos": true,
         "skip_special_tokens": false, "return_tokens_as_token_ids": true, "priority": -1,
         "logprobs": 0)");
  EXPECT_EQ(r.model, "m");
  EXPECT_TRUE(r.stream && r.include_usage && !r.continuous_usage_stats);
  EXPECT_EQ(r.n, 2);
  EXPECT_EQ(r.max_tokens, 3);
  EXPECT_EQ(r.min_tokens, 1);
  EXPECT_EQ(r.temperature, 0.5f);
  EXPECT_EQ(r.top_p, 0.25f);
  EXPECT_EQ(r.top_k, 7);
  EXPECT_EQ(r.min_p, 0.125f);
  EXPECT_EQ(r.repetition_penalty, 1.5f);
  EXPECT_EQ(r.presence_penalty, -1.0f);
  EXPECT_EQ(r.frequency_penalty, 2.0f);
  ASSERT_EQ(r.logit_bias.size(), 2u);
  EXPECT_EQ(r.logit_bias[0].id, 8);
  EXPECT_EQ(r.logit_bias[1].bias, 1.5f);
  EXPECT_EQ(r.seed, -4);
  EXPECT_THAT(r.stop, ElementsAre("a", "b"));
  EXPECT_THAT(r.stop_token_ids, ElementsAre(5));
  EXPECT_TRUE(r.include_stop_str_in_output && r.ignore_eos && r.return_tokens_as_token_ids);
  EXPECT_FALSE(r.skip_special_tokens);
  EXPECT_EQ(r.priority, -1);
  EXPECT_EQ(r.logprobs, 0);
}

TEST(CompletionRequests, NullIsAbsent) {
  const CompletionRequest r = completion(
      R"(, "max_tokens": null, "temperature": null, "stop": null, "logit_bias": null, "n": null,
         "suffix": null, "guided_json": null, "stream_options": {"include_usage": null})");
  EXPECT_FALSE(r.max_tokens || r.temperature || r.logprobs);
  EXPECT_EQ(r.n, 1);
}

TEST(CompletionRequests, WrongFieldsAreNamed) {
  const auto param = [](const std::string& members) {
    return refused_param([&] { completion(", " + members); });
  };
  EXPECT_EQ(param(R"("temperature": "hot")"), "temperature");
  EXPECT_EQ(param(R"("temperature": -0.1)"), "temperature");
  EXPECT_EQ(param(R"("temperature": 101)"), "temperature");
  EXPECT_EQ(param(R"("top_p": 1.01)"), "top_p");
  EXPECT_EQ(param(R"("n": 0)"), "n");
  EXPECT_EQ(param(R"("n": 1.5)"), "n");
  EXPECT_EQ(param(R"("n": 2.0)"), "accepted");
  EXPECT_EQ(param(R"("max_tokens": -1)"), "max_tokens");
  EXPECT_EQ(param(R"("max_tokens": 18446744073709551615)"), "max_tokens");
  EXPECT_EQ(param(R"("max_tokens": 1e300)"), "max_tokens");
  EXPECT_EQ(param(R"("max_tokens": true)"), "max_tokens");
  EXPECT_EQ(param(R"("stream": 1)"), "stream");
  EXPECT_EQ(param(R"("stream_options": {"include_usage": "yes"})"), "stream_options.include_usage");
  EXPECT_EQ(param(R"("stop": [1])"), "stop[0]");
  EXPECT_EQ(param(R"("stop": {})"), "stop");
  EXPECT_EQ(param(R"("logit_bias": {"a": 1})"), "logit_bias.a");
  EXPECT_EQ(param(R"("logit_bias": {"01": 1})"), "logit_bias.01");
  EXPECT_EQ(param(R"("logit_bias": {"1": 101})"), "logit_bias.1");
  EXPECT_EQ(param(R"("logit_bias": [1])"), "logit_bias");
  EXPECT_EQ(param(R"("stop_token_ids": [-1])"), "stop_token_ids[0]");
  EXPECT_EQ(param(R"("logprobs": 21)"), "logprobs");
  EXPECT_EQ(param(R"("suffix": "end")"), "suffix");
  EXPECT_EQ(param(R"("best_of": 2)"), "best_of");
  EXPECT_EQ(param(R"("best_of": 1)"), "accepted");
  EXPECT_EQ(param(R"("use_beam_search": true)"), "use_beam_search");
  EXPECT_EQ(param(R"("use_beam_search": false)"), "accepted");
  EXPECT_EQ(param(R"("echo": true, "logprobs": 1, "stream": true)"), "echo");
}

TEST(CompletionRequests, UnknownFieldsAreListed) {
  std::vector<std::string> unknown;
  parse_completion_request(parse_body(R"({"prompt": "p", "future": 1, "more": {}})"), unknown);
  EXPECT_THAT(unknown, ElementsAre("future", "more"));
}

TEST(CompletionRequests, MayNotAskForMoreTokensThanThere) {
  const GenerationDefaults defaults;
  EXPECT_EQ(refused_param([&] {
              to_generate_request(completion(R"(, "min_tokens": 5)"), defaults, 100, 4, 0);
            }),
            "min_tokens");
  EXPECT_EQ(refused_param([&] {
              to_generate_request(completion(R"(, "logit_bias": {"100": 1})"), defaults, 100, 4, 0);
            }),
            "logit_bias");
  EXPECT_EQ(refused_param([&] {
              to_generate_request(completion(R"(, "stop_token_ids": [100])"), defaults, 100, 4, 0);
            }),
            "stop_token_ids");
}

TEST(CompletionRequests, TakeDefaultsOfTheCheckpoint) {
  GenerationDefaults defaults;
  defaults.config.do_sample = true;
  defaults.config.temperature = 0.7f;
  defaults.config.top_k = 20;
  defaults.stop_tokens = {{.id = 3}};
  GenerateRequest plain = to_generate_request(completion(""), defaults, 100, 4, 77);
  EXPECT_EQ(plain.sampling.temperature, 0.7f);
  EXPECT_EQ(plain.sampling.top_k, 20);
  EXPECT_EQ(plain.sampling.seed, 77u);
  EXPECT_THAT(plain.stop_token_ids, ElementsAre(3));
  GenerateRequest own = to_generate_request(
      completion(R"(, "temperature": 0, "top_k": -1, "seed": 5, "stop_token_ids": [9],
                      "ignore_eos": true)"),
      defaults, 100, 4, 77);
  EXPECT_EQ(own.sampling.temperature, 0.0f);
  EXPECT_EQ(own.sampling.top_k, 0);
  EXPECT_EQ(own.sampling.seed, 5u);
  EXPECT_THAT(own.stop_token_ids, ElementsAre(9));
}

TEST(ChatRequests, ContentsBecomeText) {
  const ChatRequest r = chat(
      R"([{"role": "system", "content": "s"},
          {"role": "user", "content": [{"type": "text", "text": "a"},
                                       {"type": "input_text", "text": "b"}]},
          {"role": "assistant", "content": null, "reasoning": "why", "tool_calls": [
              {"id": "1", "type": "function",
               "function": {"name": "f", "arguments": "{\"z\": 1, \"a\": [2]}"}}]},
          {"role": "tool", "tool_call_id": "1", "content": "3"},
          {"role": "assistant"}])");
  EXPECT_EQ(
      dump(r.messages),
      R"([{"role":"system","content":"s"},{"role":"user","content":"a\nb"},)"
      R"({"role":"assistant","content":null,"reasoning_content":"why","tool_calls":[{"id":"1",)"
      R"("type":"function","function":{"name":"f","arguments":{"z":1,"a":[2]}}}]},)"
      R"({"role":"tool","content":"3","tool_call_id":"1"},{"role":"assistant","content":""}])");
}

TEST(ChatRequests, WrongMessagesAreNamed) {
  const auto param = [](const std::string& messages) {
    return refused_param([&] { chat(messages); });
  };
  EXPECT_EQ(param("[]"), "messages");
  EXPECT_EQ(param("\"Hello\""), "messages");
  EXPECT_EQ(param("[1]"), "messages[0]");
  EXPECT_EQ(param(R"([{"content": "a"}])"), "messages[0].role");
  EXPECT_EQ(param(R"([{"role": "user"}])"), "messages[0].content");
  EXPECT_EQ(param(R"([{"role": "user", "content": 1}])"), "messages[0].content");
  EXPECT_EQ(param(R"([{"role": "user", "content": [{"type": "text"}]}])"),
            "messages[0].content[0].text");
  EXPECT_EQ(param(R"([{"role": "assistant", "tool_calls": [{"function": {"name": "f",
                      "arguments": "[1]"}}]}])"),
            "messages[0].tool_calls[0].function.arguments");
  std::string message;
  EXPECT_EQ(refused_param(
                [&] {
                  chat(R"([{"role": "user", "content": [{"type": "text", "text": "a"},
                           {"type": "image_url", "image_url": {"url": "data:"}}]}])");
                },
                &message),
            "messages[0].content[1]");
  EXPECT_THAT(message, HasSubstr("image_url"));
}

TEST(ChatRequests, FieldsOfTheTemplate) {
  const ChatRequest r = chat(kHello, R"(, "chat_template_kwargs": {"enable_thinking": false},
                                          "reasoning_effort": "low", "max_completion_tokens": 7,
                                          "logprobs": true, "top_logprobs": 3)");
  EXPECT_EQ(dump(r.template_variables), R"({"enable_thinking":false,"reasoning_effort":"low"})");
  EXPECT_EQ(r.max_completion_tokens, 7);
  EXPECT_TRUE(r.logprobs && r.add_generation_prompt);
  EXPECT_EQ(r.top_logprobs, 3);
  const auto param = [](const std::string& members) {
    return refused_param([&] { chat(kHello, ", " + members); });
  };
  EXPECT_EQ(param(R"("chat_template_kwargs": {"messages": []})"), "chat_template_kwargs.messages");
  EXPECT_EQ(param(R"("top_logprobs": 3)"), "top_logprobs");
  EXPECT_EQ(param(R"("continue_final_message": true)"), "continue_final_message");
  EXPECT_EQ(param(R"("modalities": ["text"])"), "accepted");
  EXPECT_EQ(param(R"("modalities": ["text", "audio"])"), "modalities");
  EXPECT_EQ(param(R"("response_format": {"type": "text"})"), "accepted");
}

TEST(ChatRequests, ToolsAreFunctions) {
  const char* tools = R"(, "tools": [{"type": "function", "function": {"name": "f",
                          "parameters": {"type": "object"}}}], "tool_choice": "none")";
  EXPECT_EQ(chat(kHello, tools).tools[0]["function"]["name"], "f");
  EXPECT_EQ(chat(kHello, tools).tool_choice, "none");
  EXPECT_TRUE(chat(kHello, R"(, "tools": [])").tools.is_null());
  const auto param = [](const std::string& members) {
    return refused_param([&] { chat(kHello, ", " + members); });
  };
  EXPECT_EQ(param(R"("tools": [{"type": "web_search"}])"), "tools[0].type");
  EXPECT_EQ(param(R"("tools": [{"type": "function", "function": {}}])"), "tools[0].function.name");
  EXPECT_EQ(param(R"("tools": {})"), "tools");
  EXPECT_EQ(param(R"("tool_choice": "required")"), "tool_choice");
  EXPECT_EQ(param(R"("tools": [{"type": "function", "function": {"name": "f"}}],
                     "tool_choice": "sometimes")"),
            "tool_choice");
}

TEST(CompletionRequests, AnAnswerHasOneFormAtMost) {
  using Kind = StructureRequest::Kind;
  const auto form = [](const std::string& members) { return completion(", " + members).structure; };
  EXPECT_EQ(form(R"("n": 1)").kind, Kind::kNone);
  EXPECT_EQ(form(R"("response_format": {"type": "text"})").kind, Kind::kNone);
  EXPECT_EQ(form(R"("response_format": {"type": "json_object"})").kind, Kind::kJsonObject);
  EXPECT_EQ(form(R"("guided_json": {"b": 1, "a": 2})").text, R"({"b":1,"a":2})");
  EXPECT_EQ(form(R"("structured_outputs": {"regex": "a+", "json": null})").text, "a+");
  EXPECT_THAT(form(R"("guided_choice": ["a", "b"])").choices, ElementsAre("a", "b"));
  const StructureRequest schema = form(
      R"("response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "null"}}})");
  EXPECT_EQ(schema.text, R"({"type":"null"})");
  EXPECT_EQ(schema.field, "response_format.json_schema.schema");
  const auto param = [](const std::string& members) {
    return refused_param([&] { completion(", " + members); });
  };
  EXPECT_EQ(param(R"("guided_regex": "a", "response_format": {"type": "json_object"})"),
            "response_format");
  EXPECT_EQ(param(R"("guided_json": 1)"), "guided_json");
  EXPECT_EQ(param(R"("guided_choice": "a")"), "guided_choice");
  EXPECT_EQ(param(R"("structured_outputs": {"grammar": "x"})"), "structured_outputs.grammar");
  EXPECT_EQ(param(R"("response_format": {"type": "json_schema"})"), "response_format.schema");
}

MessagesRequest messages(const std::string& list, const std::string& members = "") {
  std::vector<std::string> unknown;
  return parse_messages_request(
      parse_body("{\"max_tokens\": 5, \"messages\": " + list + members + "}"), unknown);
}

TEST(MessagesRequests, BlocksBecomeMessages) {
  const MessagesRequest r = messages(
      R"([{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
          {"role": "assistant", "content": [{"type": "thinking", "thinking": "t"},
              {"type": "tool_use", "id": "1", "name": "f", "input": {"x": 1}}]},
          {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "1",
                                        "content": [{"type": "text", "text": "r"}]}]}])",
      R"(, "system": [{"type": "text", "text": "s"}], "stop_sequences": ["x"],
         "thinking": {"type": "disabled"}, "tool_choice": {"type": "auto"},
         "tools": [{"name": "f", "input_schema": {"type": "object"}}])");
  EXPECT_EQ(dump(r.messages),
            R"([{"role":"system","content":"s"},{"role":"user","content":"a\nb"},)"
            R"({"role":"assistant","content":"","reasoning_content":"t","tool_calls":[{"id":"1",)"
            R"("type":"function","function":{"name":"f","arguments":{"x":1}}}]},)"
            R"({"role":"tool","tool_call_id":"1","content":"r"}])");
  EXPECT_EQ(dump(r.tools),
            R"([{"type":"function","function":{"name":"f","parameters":{"type":"object"}}}])");
  EXPECT_EQ(dump(r.template_variables), R"({"enable_thinking":false})");
  EXPECT_THAT(r.stop, ElementsAre("x"));
  EXPECT_FALSE(r.thinks);
  EXPECT_TRUE(r.add_generation_prompt);
}

TEST(MessagesRequests, ALastMessageOfTheAssistantIsContinued) {
  const MessagesRequest r =
      messages(R"([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}])");
  EXPECT_TRUE(r.continue_final_message);
  EXPECT_FALSE(r.add_generation_prompt);
}

TEST(MessagesRequests, WrongFieldsAreNamed) {
  const auto param = [](const std::string& list, const std::string& members = "") {
    return refused_param([&] { messages(list, members); });
  };
  EXPECT_EQ(param("[]"), "messages");
  EXPECT_EQ(param(R"([{"role": "system", "content": "a"}])"), "messages[0].role");
  EXPECT_EQ(param(R"([{"role": "user", "content": [{"type": "image"}]}])"),
            "messages[0].content[0]");
  EXPECT_EQ(param(kHello, R"(, "temperature": 1.5)"), "temperature");
  EXPECT_EQ(param(kHello, R"(, "tool_choice": {"type": "any"})"), "tool_choice");  // of no tools
  EXPECT_EQ(param(kHello, R"(, "tools": [{"type": "bash_20250124", "name": "bash"}])"),
            "tools[0].type");
  EXPECT_EQ(refused_param([] {
              std::vector<std::string> unknown;
              parse_messages_request(parse_body("{\"messages\": " + std::string(kHello) + "}"),
                                     unknown);
            }),
            "max_tokens");
}

ResponsesRequest responses(const std::string& members) {
  std::vector<std::string> unknown;
  return parse_responses_request(parse_body("{" + members + "}"), unknown);
}

TEST(ResponsesRequests, ItemsBecomeMessages) {
  EXPECT_EQ(dump(responses(R"("input": "a", "instructions": "s")").messages),
            R"([{"role":"system","content":"s"},{"role":"user","content":"a"}])");
  const ResponsesRequest r = responses(
      R"("input": [{"role": "user", "content": [{"type": "input_text", "text": "a"}]},
          {"type": "reasoning", "id": "rs"},
          {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{\"x\": 1}"},
          {"type": "function_call_output", "call_id": "1", "output": "r"}],
         "max_output_tokens": 9, "reasoning": {"effort": "low"},
         "tools": [{"type": "function", "name": "f", "strict": true, "parameters": {}}])");
  EXPECT_EQ(dump(r.messages),
            R"([{"role":"user","content":"a"},{"role":"assistant","content":null,"tool_calls":)"
            R"([{"id":"1","type":"function","function":{"name":"f","arguments":{"x":1}}}]},)"
            R"({"role":"tool","content":"r","tool_call_id":"1"}])");
  EXPECT_EQ(r.max_tokens, 9);
  EXPECT_EQ(dump(r.template_variables), R"({"reasoning_effort":"low"})");
  EXPECT_EQ(dump(r.tools), R"([{"type":"function","function":{"name":"f","parameters":{}}}])");
}

TEST(ResponsesRequests, WrongFieldsAreNamed) {
  const auto param = [](const std::string& members) {
    return refused_param([&] { responses(members); });
  };
  EXPECT_EQ(param(R"("model": "m")"), "input");
  EXPECT_EQ(param(R"("input": [])"), "input");
  EXPECT_EQ(param(R"("input": [{"type": "item_reference", "id": "1"}])"), "input[0]");
  EXPECT_EQ(param(R"("input": [{"role": "user"}])"), "input[0].content");
  EXPECT_EQ(param(R"("input": "a", "previous_response_id": "resp_1")"), "previous_response_id");
  EXPECT_EQ(param(R"("input": "a", "tools": [{"type": "web_search"}])"), "tools[0].type");
  EXPECT_EQ(param(R"("input": "a", "text": {"format": {"type": "text"}})"), "accepted");
}

TEST(TokenRequests, TakeATextOrAConversation) {
  std::vector<std::string> unknown;
  const auto parse = [&](const char* text) {
    return parse_tokenize_request(parse_body(text), unknown);
  };
  EXPECT_EQ(parse(R"({"prompt": ""})").prompt, "");
  EXPECT_EQ(parse(R"({"content": "a"})").prompt, "a");
  EXPECT_EQ(parse(R"({"messages": [{"role": "user", "content": "a"}]})").messages.size(), 1u);
  EXPECT_EQ(refused_param([&] { parse("{}"); }), "prompt");
  EXPECT_EQ(refused_param([&] { parse_detokenize_request(parse_body("{}"), unknown); }), "tokens");
}

TEST(OpenApi, HasEveryFieldThatIsRead) {
  const JsonValue document = openapi_document("1.2.3");
  const JsonValue& schemas = document["components"]["schemas"];
  for (const Field<ChatRequest>& field : chat_fields()) {
    EXPECT_EQ(schemas["ChatRequest"]["properties"].contains(field.name), field.listed)
        << field.name;
  }
  EXPECT_EQ(dump(schemas["ChatRequest"]["required"]), R"(["messages"])");
  EXPECT_EQ(dump(schemas["CompletionRequest"]["properties"]["n"]["type"]), R"(["integer","null"])");
  EXPECT_EQ(document["paths"]["/v1/completions"]["post"]["requestBody"]["content"]
                    ["application/json"]["schema"]["$ref"],
            "#/components/schemas/CompletionRequest");
}

}  // namespace
}  // namespace moe4::server
