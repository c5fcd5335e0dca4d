// Bare text as the JSON that a tool's schema asks for.
#include "dialog/tool_schemas.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace moe4 {
namespace {

using nlohmann::json;
using Unknown = ToolSchemas::Unknown;

std::string convert(const std::string& schema, std::string_view text,
                    Unknown unknown = Unknown::kString) {
  const json tools = {{{"type", "function"},
                       {"function",
                        {{"name", "f"},
                         {"parameters",
                          {{"properties", {{"p", json::parse(schema)}}},
                           {"$defs",
                            {{"Color", {{"enum", {"red", "none"}}}},
                             {"Loop", {{"$ref", "#/$defs/Loop"}}},
                             {"Point", {{"type", "object"}}}}}}}}}}};
  return ToolSchemas(&tools).to_json("f", "p", text, unknown);
}

TEST(ToolSchemas, TextBecomesTheTypeOfTheSchema) {
  const std::string integer = R"({"type":"integer"})", number = R"({"type":"number"})",
                    boolean = R"({"type":"boolean"})", text = R"({"type":"string"})",
                    object = R"({"type":"object"})", array = R"({"type":"array"})";
  EXPECT_EQ(convert(integer, "5"), "5");
  EXPECT_EQ(convert(integer, " -12 "), "-12");
  EXPECT_EQ(convert(integer, "5.00"), "5");
  EXPECT_EQ(convert(integer, "123456789012345678901234567890"), "123456789012345678901234567890");
  EXPECT_EQ(convert(number, "2.50"), "2.50");
  EXPECT_EQ(convert(number, "1e3"), "1e3");
  EXPECT_EQ(convert(boolean, "True"), "true");
  EXPECT_EQ(convert(boolean, "false"), "false");
  EXPECT_EQ(convert(text, "5"), "\"5\"");
  EXPECT_EQ(convert(text, "null"), "\"null\"");
  EXPECT_EQ(convert(object, "{\"a\": [1]}"), "{\"a\": [1]}");
  EXPECT_EQ(convert(array, "[\"a\nb\"]"), R"(["a\nb"])");
}

TEST(ToolSchemas, WhatIsNoneOfTheTypesIsAString) {
  EXPECT_EQ(convert(R"({"type":"integer"})", "five"), "\"five\"");
  EXPECT_EQ(convert(R"({"type":"integer"})", "5.5"), "\"5.5\"");
  EXPECT_EQ(convert(R"({"type":"number"})", "0x10"), "\"0x10\"");
  EXPECT_EQ(convert(R"({"type":"boolean"})", "yes"), "\"yes\"");
  EXPECT_EQ(convert(R"({"type":"object"})", "[1]"), "\"[1]\"");
  EXPECT_EQ(convert(R"({"type":"object"})", "{\"a\": 1"), R"("{\"a\": 1")");
}

TEST(ToolSchemas, NullWhereItCanMeanNothingElse) {
  EXPECT_EQ(convert(R"({"type":["string","null"]})", "None"), "null");
  EXPECT_EQ(convert(R"({"anyOf":[{"type":"string"},{"type":"null"}]})", "null"), "null");
  EXPECT_EQ(convert(R"({"type":"integer"})", "None"), "null");
  EXPECT_EQ(convert(R"({"$ref":"#/$defs/Color"})", "none"), "\"none\"");
}

TEST(ToolSchemas, UnionsInTheirOrderReferencesAndEnums) {
  EXPECT_EQ(convert(R"({"anyOf":[{"type":"integer"},{"type":"string"}]})", "5"), "5");
  EXPECT_EQ(convert(R"({"type":["string","integer"]})", "5"), "\"5\"");
  EXPECT_EQ(convert(R"({"oneOf":[{"type":"boolean"},{"type":"number"}]})", "5"), "5");
  EXPECT_EQ(convert(R"({"allOf":[{"$ref":"#/$defs/Point"}]})", "{}"), "{}");
  EXPECT_EQ(convert(R"({"enum":[1,2]})", "2"), "2");
  EXPECT_EQ(convert(R"({"const":"x"})", "1"), "\"1\"");
}

TEST(ToolSchemas, WithoutASchemaTheFormatDecides) {
  for (const char* schema : {"{}", "true", R"({"$ref":"#/$defs/Loop"})", R"({"$ref":"#/none"})",
                             R"({"$ref":"http://x"})", R"({"$ref":"#/~2"})", R"({"type":7})"}) {
    EXPECT_EQ(convert(schema, "5"), "\"5\"") << schema;
    EXPECT_EQ(convert(schema, "5", Unknown::kJsonIfItIs), "5") << schema;
    EXPECT_EQ(convert(schema, "five", Unknown::kJsonIfItIs), "\"five\"") << schema;
  }
}

TEST(ToolSchemas, ReferencesInCirclesEnd) {
  // Each of these schemas is all of them: who follows them by their paths is never done.
  json defs, all = json::array();
  for (int i = 0; i < 12; ++i) all.push_back({{"$ref", "#/$defs/S" + std::to_string(i)}});
  for (int i = 0; i < 12; ++i) defs["S" + std::to_string(i)] = {{"anyOf", all}};
  const json tools = {
      {{"name", "f"},
       {"parameters", {{"properties", {{"p", {{"anyOf", all}}}}}, {"$defs", defs}}}}};
  EXPECT_EQ(ToolSchemas(&tools).to_json("f", "p", "5", Unknown::kString), "\"5\"");
  EXPECT_EQ(ToolSchemas(&tools).to_json("f", {.name = "p", .text = "5", .children = {}}), "\"5\"");
}

TEST(ToolSchemas, WhatIsNoListOfToolsSaysNothing) {
  for (const char* tools :
       {"null", "{}", "[1]", R"([{}])", R"([{"function":{"name":5}}])",
        R"([{"function":{"name":"f","parameters":{"properties":[]}}}])", R"([{"name":"f"}])"}) {
    const json list = json::parse(tools);
    EXPECT_EQ(ToolSchemas(&list).to_json("f", "p", "5", Unknown::kString), "\"5\"");
  }
  EXPECT_EQ(ToolSchemas(nullptr).to_json("f", "p", "5", Unknown::kString), "\"5\"");
}

}  // namespace
}  // namespace moe4
