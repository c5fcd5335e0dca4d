// Answers as published chat templates write them, parsed back (scripts/make_dialog_goldens.py).
#include <gtest/gtest.h>

#include <fstream>
#include <map>
#include <nlohmann/json.hpp>

#include "dialog/dialog_parser.h"
#include "dialog/split_feeding.h"

namespace moe4 {
namespace {

using nlohmann::json;

const json& goldens() {
  static const json loaded = json::parse(std::ifstream(MOE4_TEST_DATA "/dialog/goldens.json"));
  return loaded;
}

DialogOptions options_of(const json& one) {
  return {.tools = parse_tool_format(one["tools"].get<std::string>()),
          .reasoning = parse_reasoning_format(one["reasoning"].get<std::string>()),
          .prompt = one["prompt"].get_ref<const std::string&>(),
          .tool_list = &goldens()["tool_list"]};
}

TEST(DialogGoldens, WhatTemplatesWriteIsReadBack) {
  std::map<std::string, int> calls;
  for (const json& one : goldens()["cases"]) {
    const auto& text = one["text"].get_ref<const std::string&>();
    const DialogMessage message = parse_dialog(options_of(one), text);
    const json& expected = one["expected"];
    const std::string where = one["template"].get<std::string>() + ": " + text;
    EXPECT_EQ(message.content, expected["content"].get<std::string>()) << where;
    EXPECT_EQ(message.reasoning, expected["reasoning"].get<std::string>()) << where;
    ASSERT_EQ(message.tool_calls.size(), expected["calls"].size()) << where;
    for (size_t i = 0; i < message.tool_calls.size(); ++i) {
      const ToolCall& call = message.tool_calls[i];
      EXPECT_EQ(call.name, expected["calls"][i]["name"].get<std::string>()) << where;
      EXPECT_EQ(json::parse(call.arguments), expected["calls"][i]["arguments"]) << where;
      if (one["tools"] == "kimi_k2") {
        EXPECT_EQ(call.id, "functions." + call.name + ":" + std::to_string(i));
      } else {
        EXPECT_TRUE(call.id.starts_with("call_") && call.id.size() == 29) << call.id;
      }
      ++calls[one["tools"].get<std::string>()];
    }
  }
  EXPECT_EQ(calls.size(), 11U);
  for (const auto& [format, count] : calls) EXPECT_GE(count, 10) << format;
}

TEST(DialogGoldens, StreamedCallsAddUpToTheWholeOnesWhereverTheTextIsCut) {
  std::map<std::string, int> tried;
  for (const json& one : goldens()["cases"]) {
    const auto& text = one["text"].get_ref<const std::string&>();
    DialogOptions options = options_of(one);
    const std::string streamed = told(fed_in_pieces(options, text, text.size() + 1));
    options.stream_calls = false;
    EXPECT_EQ(told(fed_in_pieces(options, text, text.size() + 1)), streamed) << text;
    EXPECT_EQ(told(fed_in_pieces(options_of(one), text, 1)), streamed) << text;
    // All cuts of some of the messages of each template suffice.
    if (tried[one["template"].get<std::string>()]++ % 5 == 0)
      expect_cuts_change_nothing(options_of(one), text);
  }
  EXPECT_EQ(tried.size(), 17U);
}

TEST(DialogGoldens, FinishReasonIsKnownFromCompleteCalls) {
  for (const json& one : goldens()["cases"]) {
    DialogParser parser(options_of(one));
    parser.feed(one["text"].get_ref<const std::string&>());
    parser.finish();
    EXPECT_EQ(parser.complete_calls(), static_cast<int64_t>(one["expected"]["calls"].size()));
  }
}

}  // namespace
}  // namespace moe4
