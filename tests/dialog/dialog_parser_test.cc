// Content, reasoning and calls apart, in answers that no template would write too.
#include "dialog/dialog_parser.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <random>

#include "dialog/split_feeding.h"

namespace moe4 {
namespace {

using nlohmann::json;

const std::vector<ToolFormat> kAllTools = {
    ToolFormat::kNone,       ToolFormat::kHermes,      ToolFormat::kQwen3Coder,
    ToolFormat::kMiniMaxM2,  ToolFormat::kMiniMaxM3,   ToolFormat::kGlm45,
    ToolFormat::kDeepSeekV3, ToolFormat::kDeepSeekV31, ToolFormat::kDeepSeekV32,
    ToolFormat::kDeepSeekV4, ToolFormat::kKimiK2,      ToolFormat::kHarmony};

struct Example {
  ToolFormat tools;
  std::string text;
  std::string whole;     // as told() says it, calls handed out whole
  std::string streamed;  // ... and in pieces; empty: the same
};

// MiniMax-M3's tags, each # standing for the token before them.
std::string m3(std::string text) {
  for (size_t at = 0; (at = text.find('#', at)) != std::string::npos;)
    text.replace(at, 1, "]<]minimax[>[");
  return text;
}

// DSML's tags, each # standing for the token in them.
std::string dsml(std::string text) {
  for (size_t at = 0; (at = text.find('#', at)) != std::string::npos;)
    text.replace(at, 1, "｜DSML｜");
  return text;
}

void expect_told(const Example& example, ReasoningFormat reasoning = ReasoningFormat::kNone,
                 const json* tool_list = nullptr) {
  DialogOptions options{.tools = example.tools,
                        .reasoning = reasoning,
                        .tool_list = tool_list,
                        .stream_calls = false};
  const size_t size = example.text.size();
  EXPECT_EQ(told(fed_in_pieces(options, example.text, size + 1)), example.whole) << example.text;
  options.stream_calls = true;
  EXPECT_EQ(told(fed_in_pieces(options, example.text, size + 1)),
            example.streamed.empty() ? example.whole : example.streamed)
      << example.text;
  expect_cuts_change_nothing(options, example.text);
}

TEST(DialogParser, TextWithoutTagsIsContentToTheByte) {
  const std::string text = " \n a < b <tool <|x|> </think> \xe2\x9c\x93 {\"name\": \"f\"} \n\n ";
  for (const ToolFormat tools : kAllTools)
    expect_told({tools, text, "content[" + text + "] reasoning[]"});
  expect_told({ToolFormat::kHermes, text, "content[" + text + "] reasoning[]"},
              ReasoningFormat::kThink);
}

TEST(DialogParser, HermesTakesKeysInAnyOrderAndArgumentsInAString) {
  const std::string call = "content[] reasoning[] call[call_id|f|{\"a\": 1}]";
  for (const char* text :
       {R"(<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>)",
        R"(<tool_call>{"arguments": {"a": 1}, "name": "f"}</tool_call>)",
        R"(<tool_call> {"id": [7], "name":"f","parameters":{"a": 1}, "x": null} </tool_call>)",
        R"(<tool_call>{"name": "\u0066", "arguments": "{\"a\": 1}"}</tool_call>)",
        R"(<tool_call>{"name": "f", "arguments": {"a": 1}})"})
    expect_told({ToolFormat::kHermes, text, call});
  for (const char* text : {R"(<tool_call>{"name": "f"}</tool_call>)",
                           R"(<tool_call>{"name": "f", "arguments": null}</tool_call>)"})
    expect_told({ToolFormat::kHermes, text, "content[] reasoning[] call[call_id|f|{}]"});
}

TEST(DialogParser, ATagInsideAnArgumentIsText) {
  expect_told(
      {ToolFormat::kHermes,
       R"(<tool_call>{"name": "f", "arguments": {"a": "</tool_call><tool_call>"}}</tool_call>)",
       R"(content[] reasoning[] call[call_id|f|{"a": "</tool_call><tool_call>"}])"});
  expect_told({ToolFormat::kQwen3Coder,
               "<tool_call><function=f><parameter=a>\n</parameter> </function x\n</parameter>\n"
               "</function></tool_call>",
               "content[] reasoning[] call[call_id|f|{\"a\": \"</parameter> </function x\"}]"});
  expect_told({ToolFormat::kGlm45,
               "<tool_call>f<arg_key>a</arg_key><arg_value></arg_value>x</arg_value></tool_call>",
               "content[] reasoning[] call[call_id|f|{\"a\": \"</arg_value>x\"}]"});
}

TEST(DialogParser, DsmlSaysItselfWhatAValueIs) {
  const json tools = json::parse(R"([{"function": {"name": "f", "parameters": {"properties": {
      "n": {"type": "integer"}, "s": {"type": "string"}, "b": {"type": "boolean"}}}}}])");
  const auto told_of = [&](const std::string& parameters) {
    const std::string text =
        dsml("<#tool_calls>\n<#invoke name=\"f\">\n" + parameters + "</#invoke>\n</#tool_calls>");
    const DialogOptions options{.tools = ToolFormat::kDeepSeekV4, .tool_list = &tools};
    expect_cuts_change_nothing(options, text);
    return told(fed_in_pieces(options, text, text.size()));
  };
  // A string is one to the byte, whatever the schema says.
  EXPECT_EQ(told_of("<#parameter name=\"s\" string=\"true\"> 5\n</#parameter>\n"),
            "content[] reasoning[] call[call_id|f|{\"s\": \" 5\\n\"}]");
  EXPECT_EQ(told_of("<#parameter name=\"n\" string=\"true\">5</#parameter>"
                    "<#parameter name=\"s\" string=\"false\">[1, {\"a\": null}]</#parameter>"),
            "content[] reasoning[] call[call_id|f|{\"n\": \"5\", \"s\": [1, {\"a\": null}]}]");
  // What should be JSON and is none becomes what the schema asks for.
  EXPECT_EQ(told_of("<#parameter name=\"b\" string=\"false\">True</#parameter>"
                    "<#parameter name=\"n\" string=\"false\">five</#parameter>"),
            "content[] reasoning[] call[call_id|f|{\"b\": true, \"n\": \"five\"}]");
  EXPECT_EQ(told_of("\n"), "content[] reasoning[] call[call_id|f|{}]");
  // Tags within a value are text unless the call goes on behind them.
  EXPECT_EQ(told_of(dsml("<#parameter name=\"s\" string=\"true\"></#parameter> x <#invoke>"
                         "</#parameter>")),
            dsml("content[] reasoning[] call[call_id|f|{\"s\": \"</#parameter> x <#invoke>\"}]"));
}

TEST(DialogParser, DsmlHasAnotherFrameInEachGeneration) {
  const std::string call = "\n<#invoke name=\"f\">\n</#invoke>\n";
  const std::string one = "content[a] reasoning[] call[call_id|f|{}]";
  expect_told({ToolFormat::kDeepSeekV32,
               dsml("a\n\n<#function_calls>" + call + "</#function_calls>"), one});
  expect_told({ToolFormat::kDeepSeekV4, dsml("a\n\n<#tool_calls>" + call + "</#tool_calls>"), one});
  // The frame of the other one is text.
  expect_told({ToolFormat::kDeepSeekV4, dsml("<#function_calls>" + call),
               dsml("content[<#function_calls>] reasoning[] call[call_id|f|{}]")});
}

TEST(DialogParser, MiniMaxM3NestsValues) {
  const json tools = json::parse(R"([{"function": {"name": "f", "parameters": {"properties": {
      "n": {"type": "integer"},
      "where": {"$ref": "#/$defs/Point"},
      "points": {"type": "array", "items": {"$ref": "#/$defs/Point"}},
      "names": {"type": "array", "items": {"type": "string"}},
      "map": {"type": "object", "additionalProperties": {"type": "number"}},
      "one": {"type": "object", "properties": {"item": {"type": "boolean"}}}},
      "$defs": {"Point": {"type": "object", "properties": {"x": {"type": "integer"}}}}}}}])");
  const auto arguments_of = [&](const std::string& parameters) {
    const std::string text =
        m3("#<tool_call>\n#<invoke name=\"f\">" + parameters + "#</invoke>\n#</tool_call>");
    const DialogOptions options{.tools = ToolFormat::kMiniMaxM3, .tool_list = &tools};
    expect_cuts_change_nothing(options, text);
    const DialogMessage message = fed_in_pieces(options, text, text.size());
    EXPECT_EQ(message.content, "");
    return message.tool_calls.size() == 1 ? message.tool_calls[0].arguments : "no call";
  };
  EXPECT_EQ(arguments_of(""), "{}");
  EXPECT_EQ(arguments_of("\n#<n>042#</n>\n#<text> a\n<n>5</n> #</text>\n"),
            R"({"n": "042", "text": " a\n<n>5</n> "})");
  EXPECT_EQ(arguments_of("#<where>#<x>1#</x>\n#<y>2#</y>#</where>"),
            R"({"where": {"x": 1, "y": "2"}})");
  EXPECT_EQ(arguments_of("#<points>#<item>#<x>1#</x>#</item>#<item>#<x>2#</x>#</item>#</points>"
                         "#<names>#<item>5#</item>#</names>"),
            R"({"points": [{"x": 1}, {"x": 2}], "names": ["5"]})");
  EXPECT_EQ(arguments_of("#<map>#<a>1.5#</a>#<b>2#</b>#</map>"), R"({"map": {"a": 1.5, "b": 2}})");
  // What holds nothing is what the schema has; items are a list unless the schema says otherwise.
  EXPECT_EQ(arguments_of("#<names>#</names>#<map>#</map>#<any>#</any>"),
            R"({"names": [], "map": {}, "any": ""})");
  EXPECT_EQ(arguments_of("#<any>#<item>1#</item>#</any>#<one>#<item>true#</item>#</one>"),
            R"({"any": ["1"], "one": {"item": true}})");
  // Values of one name are a list, parameters of one name no call.
  EXPECT_EQ(arguments_of("#<where>#<tag>a#</tag>#<x>1#</x>#<tag>b#</tag>#</where>"),
            R"({"where": {"tag": ["a", "b"], "x": 1}})");
}

TEST(DialogParser, MiniMaxM3sCallsShareAFrame) {
  const std::string call = "#<invoke name=\"f\">#<a>1#</a>#</invoke>\n";
  const std::string told_call = " call[call_id|f|{\"a\": \"1\"}]";
  expect_told({ToolFormat::kMiniMaxM3, m3("Hm.#<tool_call>\n" + call + call + "#</tool_call>"),
               "content[Hm.] reasoning[]" + told_call + told_call});
  expect_told({ToolFormat::kMiniMaxM3, m3(call + "#</tool_call>\nx"),
               "content[\nx] reasoning[]" + told_call});
}

TEST(DialogParser, MiniMaxM3sCallsThatAreWrongAreContent) {
  for (const char* call : {"#<tool_call>", "#<tool_call>\n#</user_id> x", "#<tool_call>x",
                           "#</tool_call>", "#<tool_call>\n#<invoke name=\"a\nb\">"})
    expect_told({ToolFormat::kMiniMaxM3, m3(call), "content[" + m3(call) + "] reasoning[]"});
  // ... and where calls are streamed what was handed out of them stands.
  for (const std::string& rest :
       {std::string("#<a>1"), std::string("#<a>1#</b>"), std::string("text"), std::string("#</x>"),
        std::string("#<a>1#<b>2#</b>#</a>"), std::string("#<a b=\"c\">1#</a>"),
        std::string("#<>")}) {
    const std::string text = "#<invoke name=\"f\">" + rest;
    expect_told({ToolFormat::kMiniMaxM3, m3(text), "content[" + m3(text) + "] reasoning[]",
                 "content[" + m3(rest) + "] reasoning[] call[call_id|f|]"});
  }
  const std::string twice = "#<invoke name=\"f\">#<a>1#</a>#<a>2#</a>#</invoke>";
  expect_told(
      {ToolFormat::kMiniMaxM3, m3(twice), "content[" + m3(twice) + "] reasoning[]",
       "content[" + m3("#<a>2#</a>#</invoke>") + "] reasoning[] call[call_id|f|{\"a\": \"1\"]"});
  std::string deep = "#<invoke name=\"f\">";
  for (int i = 0; i < 100; ++i) deep += "#<a>";
  EXPECT_EQ(parse_dialog({.tools = ToolFormat::kMiniMaxM3}, m3(deep)).content, m3(deep));
}

TEST(DialogParser, SpaceBesideTagsIsTheirsAndOtherSpaceIsContent) {
  const std::string call = R"(<tool_call>{"name": "f", "arguments": {}}</tool_call>)";
  expect_told({ToolFormat::kHermes, " a \n\n" + call + "\n" + call + "\n",
               "content[ a] reasoning[] call[call_id|f|{}] call[call_id|f|{}]"});
  expect_told({ToolFormat::kHermes, call + "\n\nDone. ",
               "content[\n\nDone. ] reasoning[] call[call_id|f|{}]"});
  expect_told({ToolFormat::kHermes, " \n <tool_call> nothing",
               "content[ \n <tool_call> nothing] reasoning[]"});
}

TEST(DialogParser, WhatIsNoCallIsContent) {
  for (const char* text :
       {"<tool_call>", "a <tool_call>\n", "<tool_call></tool_call>", "<tool_call>{</tool_call>",
        R"(<tool_call>{"name": 5, "arguments": {}}</tool_call>)",
        R"(<tool_call>{"name": "", "arguments": {}}</tool_call>)",
        R"(<tool_call>{"arguments": {}}</tool_call> b)", R"(<tool_call>{"arguments": 5)",
        R"(<tool_call>{"name": "f" "arguments": {}}</tool_call>)",
        R"(<tool_call>["name"]</tool_call>)", R"(<tool_call>{"name": "f", "arguments": [1]})",
        R"(<tool_call>{"name": "f", "arguments": "[1]"}</tool_call>)",
        R"(<tool_call>{'name': 'f', 'arguments': {}}</tool_call>)"})
    expect_told({ToolFormat::kHermes, text, "content[" + std::string(text) + "] reasoning[]"});
  for (const char* text : {"<tool_call>x", "<tool_call>\n<function", "<function=a\nb>",
                           "<function=>", "<tool_call><function=f", "</tool_call>"})
    expect_told({ToolFormat::kQwen3Coder, text, "content[" + std::string(text) + "] reasoning[]"});
  for (const char* text : {"<minimax:tool_call>x", "<invoke name=\"a\nb\">", "<invoke name=\"f\">",
                           "<minimax:tool_call>\n<invoke name=f>", "</minimax:tool_call>"})
    expect_told({ToolFormat::kMiniMaxM2, text, "content[" + std::string(text) + "] reasoning[]",
                 std::string(text) == "<invoke name=\"f\">"
                     ? "content[] reasoning[] call[call_id|f|]"
                     : ""});
  for (const char* text :
       {"<#tool_calls>x", "<#invoke name=\"a\nb\">", "<#tool_calls>\n<#invoke name=f>",
        "</#tool_calls>", "<#tool_calls>\n</#tool_calls>", "#"})
    expect_told({ToolFormat::kDeepSeekV4, dsml(text), "content[" + dsml(text) + "] reasoning[]"});
  for (const char* text : {"<tool_call>", "<tool_call>f", "<tool_call></tool_call>",
                           "<tool_call>{\"name\": 1}</tool_call>", "<tool_call>a<b</tool_call>"})
    expect_told({ToolFormat::kGlm45, text, "content[" + std::string(text) + "] reasoning[]"});
  for (const char* text :
       {"<｜tool▁calls▁begin｜>", "<｜tool▁calls▁begin｜>x<｜tool▁calls▁end｜>",
        "<｜tool▁call▁begin｜>tool<｜tool▁sep｜>f\n```json\n{}\n```", "<｜tool▁calls▁end｜>",
        "<｜tool▁call▁begin｜>function<｜tool▁sep｜>a\nb\n```json\n{}\n```"})
    expect_told({ToolFormat::kDeepSeekV3, text, "content[" + std::string(text) + "] reasoning[]"});
  for (const char* text : {"<|tool_call_begin|><|tool_call_argument_begin|>{}<|tool_call_end|>",
                           "<|tool_calls_section_begin|> <|tool_call_begin|>functions.f:0"})
    expect_told({ToolFormat::kKimiK2, text, "content[" + std::string(text) + "] reasoning[]"});
}

TEST(DialogParser, ACallThatBreaksOffIsContentOrWhatWasHandedOutOfIt) {
  expect_told({ToolFormat::kHermes, R"(x<tool_call>{"name": "f", "arguments": {"a": "b)",
               R"(content[x<tool_call>{"name": "f", "arguments": {"a": "b] reasoning[])",
               R"(content[x] reasoning[] call[call_id|f|{"a": "b])"});
  expect_told({ToolFormat::kHermes, R"(<tool_call>{"name": "f", "arguments": {"a": 01}} y)",
               R"(content[<tool_call>{"name": "f", "arguments": {"a": 01}} y] reasoning[])",
               R"(content[1}} y] reasoning[] call[call_id|f|{"a": 0])"});
  expect_told({ToolFormat::kQwen3Coder,
               "<tool_call><function=f><parameter=a>1</parameter><parameter=b>2",
               "content[<tool_call><function=f><parameter=a>1</parameter><parameter=b>2] "
               "reasoning[]",
               "content[<parameter=b>2] reasoning[] call[call_id|f|{\"a\": \"1\"]"});
  expect_told({ToolFormat::kQwen3Coder,
               "<function=f><parameter=a>1</parameter><parameter=a>2</parameter></function>",
               "content[<function=f><parameter=a>1</parameter><parameter=a>2</parameter>"
               "</function>] reasoning[]",
               "content[<parameter=a>2</parameter></function>] reasoning[] "
               "call[call_id|f|{\"a\": \"1\"]"});
  // A parameter of DSML must say what it is.
  for (const char* rest : {"<#parameter name=\"a\">1</#parameter></#invoke>",
                           "<#parameter name=\"a\" string=\"true\">1",
                           "<#parameter name=\"a\" string=\"yes\">1</#parameter></#invoke>"}) {
    const std::string call = "<#invoke name=\"f\">";
    expect_told({ToolFormat::kDeepSeekV32, dsml(call + rest),
                 "content[" + dsml(call + rest) + "] reasoning[]",
                 "content[" + dsml(rest) + "] reasoning[] call[call_id|f|]"});
  }
  expect_told({ToolFormat::kKimiK2,
               "<|tool_call_begin|>functions.f:3<|tool_call_argument_begin|>{]",
               "content[<|tool_call_begin|>functions.f:3<|tool_call_argument_begin|>{]] "
               "reasoning[]",
               "content[]] reasoning[] call[functions.f:3|f|{]"});
}

TEST(DialogParser, CompleteCallsNeedNoClosingTags) {
  expect_told({ToolFormat::kQwen3Coder, "<function=f>\n</function>",
               "content[] reasoning[] call[call_id|f|{}]"});
  expect_told({ToolFormat::kQwen3Coder, "<function=f></function>\n</tool_call>\nx",
               "content[\nx] reasoning[] call[call_id|f|{}]"});
  expect_told({ToolFormat::kDeepSeekV3,
               "<｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n```json\n{\"a\":1}\n```",
               "content[] reasoning[] call[call_id|f|{\"a\":1}]"});
  expect_told({ToolFormat::kDeepSeekV31, "<｜tool▁call▁begin｜>f<｜tool▁sep｜>{\"a\":1}",
               "content[] reasoning[] call[call_id|f|{\"a\":1}]"});
  expect_told({ToolFormat::kKimiK2,
               "<|tool_call_begin|> functions.a.b:12 <|tool_call_argument_begin|> {}",
               "content[] reasoning[] call[functions.a.b:12|a.b|{}]"});
}

TEST(DialogParser, LineBreaksInStringsOfArgumentsBecomeEscapes) {
  expect_told({ToolFormat::kHermes,
               "<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": \"1\n2\"}}</tool_call>",
               "content[] reasoning[] call[call_id|f|{\"a\": \"1\\n2\"}]"});
}

TEST(DialogParser, ReasoningBeginsWithTheFirstWordOrInThePrompt) {
  using enum ReasoningFormat;
  const auto parse = [](ReasoningFormat reasoning, std::string_view prompt, std::string_view text) {
    const DialogOptions options{
        .tools = ToolFormat::kHermes, .reasoning = reasoning, .prompt = prompt};
    expect_cuts_change_nothing(options, text);
    return told(fed_in_pieces(options, text, text.size() + 1));
  };
  EXPECT_EQ(parse(kThink, "", "\n<think>\n a \n</think>\n\nb\n"), "content[b\n] reasoning[a]");
  EXPECT_EQ(parse(kThink, "", "b <think>a</think>"), "content[b <think>a</think>] reasoning[]");
  EXPECT_EQ(parse(kThink, "", "a</think>b"), "content[a</think>b] reasoning[]");
  EXPECT_EQ(parse(kThink, "..<think>\n", "a</think>b"), "content[b] reasoning[a]");
  EXPECT_EQ(parse(kThink, "..<think>\n", "<think>a</think>b"), "content[b] reasoning[a]");
  EXPECT_EQ(parse(kThink, "..<think>", "a\n"), "content[] reasoning[a\n]");
  EXPECT_EQ(parse(kThinkNow, "", "a</think>b"), "content[b] reasoning[a]");
  EXPECT_EQ(parse(kThinkNow, "<think></think>\n\n", "a</think>b"),
            "content[a</think>b] reasoning[]");
  EXPECT_EQ(parse(kThink, "", "<think></think></think>x"), "content[</think>x] reasoning[]");
  // An answer of MiniMax-M3 without reasoning may begin with the closing tag.
  EXPECT_EQ(parse(kMiniMaxM3, "]~b]ai\n", "<mm:think>a</mm:think>b"), "content[b] reasoning[a]");
  EXPECT_EQ(parse(kMiniMaxM3, "]~b]ai\n", "</mm:think>b"), "content[b] reasoning[]");
  EXPECT_EQ(parse(kMiniMaxM3, "]~b]ai\n", "b</mm:think>"), "content[b</mm:think>] reasoning[]");
  EXPECT_EQ(parse(kMiniMaxM3, "ai\n<mm:think>", "a</mm:think>b"), "content[b] reasoning[a]");
  EXPECT_EQ(parse(kMiniMaxM3, "ai\n<mm:think>", "</mm:think>b"), "content[b] reasoning[]");
  EXPECT_EQ(parse(kMiniMaxM3, "ai\n</mm:think>", "</mm:think>b"),
            "content[</mm:think>b] reasoning[]");
  EXPECT_EQ(parse(kMiniMaxM3, "", "<think>a</think>"), "content[<think>a</think>] reasoning[]");
  // Calls are looked for in content only.
  const std::string call = R"(<tool_call>{"name": "f"}</tool_call>)";
  EXPECT_EQ(parse(kThink, "<think>", call + "</think>" + call),
            "content[] reasoning[" + call + "] call[call_id|f|{}]");
  EXPECT_EQ(parse(kNone, "<think>", "a</think>b"), "content[a</think>b] reasoning[]");
}

TEST(DialogParser, HarmonyKnowsChannelsAndRecipients) {
  const auto expect = [](const std::string& text, const std::string& whole,
                         const std::string& streamed = "") {
    expect_told({ToolFormat::kHarmony, text, whole, streamed}, ReasoningFormat::kHarmony);
  };
  const std::string analysis = "<|channel|>analysis<|message|>Hm.\n<|end|>";
  const std::string start = "<|start|>assistant";
  expect(analysis + start + "<|channel|>final<|message|>Yes. ", "content[Yes. ] reasoning[Hm.\n]");
  expect(analysis + start + analysis, "content[] reasoning[Hm.\n\nHm.\n]");
  expect("<|channel|>commentary<|message|>I look.<|end|>" + start +
             "<|channel|>commentary to=functions.f <|constrain|>json<|message|>{\"a\": 1}<|call|>",
         "content[I look.] reasoning[] call[call_id|f|{\"a\": 1}]");
  expect(" to=functions.f<|channel|>commentary json<|message|>{}",
         "content[] reasoning[] call[call_id|f|{}]");
  expect("<|channel|>analysis to=functions.f code<|message|>{} <|call|>" + start +
             "<|channel|>final<|message|>x<|return|>",
         "content[x] reasoning[] call[call_id|f|{}]");
  expect("<|channel|>commentary to=functions.f<|message|>{\"a\": ",
         "content[<|channel|>commentary to=functions.f<|message|>{\"a\": ] reasoning[]",
         "content[] reasoning[] call[call_id|f|{\"a\": ]");
  expect("<|channel|>commentary to=python<|message|>print(1)<|call|>",
         "content[<|channel|>commentary to=python<|message|>print(1)] reasoning[]");
  expect("<|message|>x", "content[x] reasoning[]");
  expect("plain <|x|>", "content[plain <|x|>] reasoning[]");
  expect("to be", "content[to be] reasoning[]");
  expect("assistant", "content[assistant] reasoning[]");
  expect(analysis + start + "<|channel|>fin", "content[] reasoning[Hm.\n]");
  expect(start + "<|channel|>final<|message|>a" + start + "<|channel|>final<|message|>b",
         "content[a\nb] reasoning[]");
}

TEST(DialogParser, HarmonyWithoutToolsOrReasoning) {
  const std::string call = "<|channel|>commentary to=functions.f<|message|>{}";
  EXPECT_EQ(told(parse_dialog({.reasoning = ReasoningFormat::kHarmony}, call)),
            "content[" + call + "] reasoning[]");
  EXPECT_EQ(
      told(parse_dialog({.tools = ToolFormat::kHarmony}, "<|channel|>analysis<|message|>a<|end|>")),
      "content[a] reasoning[]");
}

TEST(DialogParser, DeltasComeAsSoonAsTheyAreCertain) {
  DialogParser parser(with_counted_ids({.tools = ToolFormat::kHermes}));
  EXPECT_EQ(parser.feed("Hello <to")[0].text, "Hello");
  EXPECT_EQ(parser.feed("ast")[0].text, " <toast");
  EXPECT_TRUE(parser.feed("<tool_call>{\"name\": \"f\", \"argu").empty());
  EXPECT_TRUE(parser.feed("ments\": ").empty());
  const std::vector<Delta> first = parser.feed("{\"a\"");
  ASSERT_EQ(first.size(), 1U);
  EXPECT_EQ(first[0].name, "f");
  EXPECT_EQ(first[0].id, "call_id");
  EXPECT_EQ(first[0].text, "{\"a\"");
  const std::vector<Delta> second = parser.feed(": 1");
  ASSERT_EQ(second.size(), 1U);
  EXPECT_EQ(second[0].text, ": 1");
  EXPECT_TRUE(second[0].name.empty() && second[0].id.empty());
  EXPECT_EQ(parser.complete_calls(), 0);
  EXPECT_EQ(parser.feed("}}</tool_call>").front().text, "}");
  EXPECT_EQ(parser.complete_calls(), 1);
  EXPECT_TRUE(parser.finish().empty());
}

TEST(DialogParser, IdsOfCallsDiffer) {
  const DialogMessage message = parse_dialog({.tools = ToolFormat::kQwen3Coder},
                                             "<function=f></function><function=f></function>");
  ASSERT_EQ(message.tool_calls.size(), 2U);
  EXPECT_NE(message.tool_calls[0].id, message.tool_calls[1].id);
}

TEST(DialogParser, InvalidUtf8BecomesReplacementCharacters) {
  const std::string bad =
      "a\xff\xe2\x9c"
      "b\xf0\x9f";
  const std::string good =
      "a\xef\xbf\xbd\xef\xbf\xbd"
      "b\xef\xbf\xbd";
  for (const ToolFormat tools : kAllTools)
    expect_told({tools, bad, "content[" + good + "] reasoning[]"});
  expect_told(
      {ToolFormat::kHermes,
       "<tool_call>{\"name\": \"\xff\", \"arguments\": {\"\xc3\": \"\xf0\x9f\"}}</tool_call>",
       "content[] reasoning[] call[call_id|\xef\xbf\xbd|{\"\xef\xbf\xbd\": "
       "\"\xef\xbf\xbd\"}]"});
}

// Pieces of all formats, and words that must come out again wherever they stand.
std::string tag_soup(std::mt19937& random, ToolFormat tools, int* words) {
  static const std::vector<std::string> kCommon = {" ", "\n", "{",        "}",       "\"",
                                                   ":", ",",  "{\"a\": ", "<",       "\xe2\x9c",
                                                   "[", "1",  "<think>",  "</think>"};
  static const std::vector<std::string> kHermes = {
      "<tool_call>", "</tool_call>", "{\"name\": \"f\", \"arguments\": ", "{\"name\": \"f\"}",
      "{}}"};
  static const std::vector<std::string> kXml = {"<tool_call>", "</tool_call>",  "<function=f>",
                                                "</function>", "<parameter=p>", "</parameter>",
                                                "<function=",  "<parameter=",   ">"};
  static const std::vector<std::string> kGlm = {"<tool_call>",  "<tool_call>f", "</tool_call>",
                                                "<arg_key>p",   "</arg_key>",   "<arg_value>",
                                                "</arg_value>", "<arg_key>"};
  std::vector<std::string> pieces = format_tags(tools, ReasoningFormat::kNone);
  if (tools == ToolFormat::kHermes) pieces = kHermes;
  if (tools == ToolFormat::kQwen3Coder) pieces = kXml;
  if (tools == ToolFormat::kGlm45) pieces = kGlm;
  if (tools == ToolFormat::kMiniMaxM2)
    pieces.insert(pieces.end(), {"<invoke name=\"f\">", "</invoke>", "<parameter name=\"p\">",
                                 "</parameter>", "<invoke name=\"", "\">"});
  if (tools == ToolFormat::kMiniMaxM3)
    pieces.insert(pieces.end(),
                  {m3("#<tool_call>"), m3("#<invoke name=\"f\">"), m3("#</invoke>"), m3("#<p>"),
                   m3("#</p>"), m3("#<item>"), m3("#</item>"), m3("#<p>1#</p>"), m3("#<")});
  if (tools == ToolFormat::kDeepSeekV32 || tools == ToolFormat::kDeepSeekV4)
    pieces.insert(pieces.end(),
                  {dsml("<#tool_calls>"), dsml("<#function_calls>"), dsml("<#invoke name=\"f\">"),
                   dsml("</#invoke>"), dsml("<#parameter name=\"p\" string=\"true\">"),
                   dsml("<#parameter name=\"q\" string=\"false\">"), dsml("</#parameter>"), "\">"});
  if (tools == ToolFormat::kDeepSeekV3)
    pieces.insert(pieces.end(),
                  {"function<｜tool▁sep｜>f\n```json\n", "\n```<｜tool▁call▁end｜>", "```"});
  if (tools == ToolFormat::kKimiK2) pieces.insert(pieces.end(), {"functions.f:0", "f"});
  if (tools == ToolFormat::kHarmony)
    pieces.insert(pieces.end(), {"<|start|>assistant<|channel|>final<|message|>", "analysis",
                                 "<|channel|>commentary to=functions.f<|message|>{"});
  std::string text;
  const auto length = random() % 24;
  for (size_t i = 0; i < length; ++i) {
    switch (random() % 4) {
      case 0:
        text += kCommon[random() % kCommon.size()];
        break;
      case 1:
        text += "w" + std::to_string((*words)++) + "w";
        break;
      default:
        if (!pieces.empty()) text += pieces[random() % pieces.size()];
    }
  }
  return text;
}

TEST(DialogParser, SoupsOfTagsLoseNoWordAndAreCutAnywhere) {
  std::mt19937 random(7);
  int calls = 0;
  for (int round = 0; round < 4000; ++round) {
    const ToolFormat tools = kAllTools[static_cast<size_t>(round) % kAllTools.size()];
    int words = 0;
    const std::string text = tag_soup(random, tools, &words);
    const DialogOptions options{
        .tools = tools,
        .reasoning = round % 3 == 0 ? ReasoningFormat::kThink : ReasoningFormat::kNone};
    ASSERT_NO_FATAL_FAILURE(expect_cuts_change_nothing(options, text));
    const DialogMessage message = parse_dialog(options, text);
    calls += static_cast<int>(message.tool_calls.size());
    for (const ToolCall& call : message.tool_calls)
      EXPECT_TRUE(json::accept(call.arguments)) << call.arguments;
    // Headers of harmony frame messages and are not told.
    if (tools == ToolFormat::kHarmony) continue;
    const std::string out = told(message);
    for (int word = 0; word < words; ++word) {
      EXPECT_NE(out.find("w" + std::to_string(word) + "w"), std::string::npos) << text << "\n"
                                                                               << out;
    }
  }
  EXPECT_GT(calls, 100);
}

// A name is too long at the same byte however the text is cut: what follows it may be a call.
TEST(DialogParser, NamesAsLongAsTheyMayBeAndLongerAreCutAnywhere) {
  const std::string coder = "<tool_call><function=g></function></tool_call>";
  const std::string glm = "<tool_call>g</tool_call>";
  const std::string deepseek =
      "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>g\n```json\n{}\n```"
      "<｜tool▁call▁end｜><｜tool▁calls▁end｜>";
  const std::string kimi =
      "<|tool_calls_section_begin|><|tool_call_begin|>functions.g:0<|tool_call_argument_begin|>{}"
      "<|tool_call_end|><|tool_calls_section_end|>";
  const std::string harmony = "<|start|>assistant<|channel|>final<|message|>g<|end|>";
  struct Names {
    ToolFormat tools;
    std::string before, after;
    int most;
  };
  for (const Names& names : std::vector<Names>{
           {ToolFormat::kQwen3Coder, "<tool_call><function=", ">" + coder, 256},
           {ToolFormat::kQwen3Coder, "<tool_call><function=", coder, 256},
           {ToolFormat::kQwen3Coder, "<tool_call><function=f><parameter=", ">" + coder, 256},
           {ToolFormat::kGlm45, "<tool_call>", glm, 256},
           {ToolFormat::kGlm45, "<tool_call>", "<arg_key>" + glm, 256},
           {ToolFormat::kGlm45, "<tool_call>f<arg_key>", "</arg_key>" + glm, 256},
           {ToolFormat::kDeepSeekV3, "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>", deepseek, 512},
           {ToolFormat::kDeepSeekV3,
            "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>",
            "\n```json\n{}" + deepseek, 512},
           {ToolFormat::kKimiK2, "<|tool_calls_section_begin|><|tool_call_begin|>",
            "<|tool_call_argument_begin|>{}" + kimi, 512},
           {ToolFormat::kHarmony, "<|channel|>commentary to=functions.", "<|message|>{}" + harmony,
            1024}}) {
    for (int length = names.most - 40; length <= names.most + 2; ++length) {
      const std::string text = names.before + std::string(length, 'x') + names.after;
      DialogOptions options{.tools = names.tools};
      for (const bool stream : {true, false}) {
        options.stream_calls = stream;
        const std::string whole = told(fed_in_pieces(options, text, text.size()));
        for (const size_t bytes : {1, 4, 7, 100}) {
          ASSERT_EQ(told(fed_in_pieces(options, text, bytes)), whole) << length << " " << text;
        }
      }
    }
  }
}

TEST(DialogParser, HugeAndUnclosedTextsByTheByte) {
  const std::vector<std::string> openings = {
      "",
      "<think>",
      "<tool_call>",
      R"(<tool_call>{"name": "f", "arguments": {"a": ")",
      R"(<tool_call>{")",
      R"(<tool_call>{"x": )",
      "<tool_call><function=f><parameter=a>",
      "<tool_call><function=f><parameter=a>x</parameter>",
      "<tool_call>f<arg_key>a</arg_key><arg_value>",
      "<｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n```json\n{\"a\": \"",
      "<|channel|>final<|message|>",
      "<|channel|>commentary to=functions.f<|message|>{\"a\": \""};
  for (const std::string unit : {" ", "<", "x", "[", "</parameter> ", "\\\\"}) {
    std::string text;
    while (text.size() < 20000) text += unit;
    for (const ToolFormat tools : kAllTools) {
      for (const std::string& opening : openings) {
        DialogParser parser({.tools = tools, .reasoning = ReasoningFormat::kThink});
        parser.feed(opening);
        size_t out = 0;
        for (const char byte : text) {
          for (const Delta& delta : parser.feed(std::string_view(&byte, 1)))
            out += delta.text.size();
        }
        for (const Delta& delta : parser.finish()) out += delta.text.size();
        if (unit != " ") {
          EXPECT_GE(out, text.size()) << opening << unit;
        }
      }
    }
  }
}

TEST(DialogParser, LongTextsInOneByteStepsAreLinearWork) {
  // Quadratic work here would take many minutes.
  for (const ToolFormat tools : kAllTools) {
    DialogParser parser({.tools = tools, .reasoning = ReasoningFormat::kThink});
    size_t out = 0;
    for (int i = 0; i < 1 << 18; ++i) {
      for (const Delta& delta : parser.feed(i % 64 == 0 ? "<" : " ")) out += delta.text.size();
    }
    for (const Delta& delta : parser.finish()) out += delta.text.size();
    EXPECT_EQ(out, 1U << 18U);
  }
}

}  // namespace
}  // namespace moe4
