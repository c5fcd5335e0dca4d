// JSON schemas: what they accept, and what is refused by name.
#include <gtest/gtest.h>

#include <string>

#include "base/error.h"
#include "grammar/grammar.h"

namespace moe4 {
namespace {

std::string refusal(const std::string& schema) {
  try {
    compile_json_schema(schema);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kUsage);
    return error.what();
  }
  return "accepted";
}

TEST(JsonSchema, MembersComeInTheOrderOfTheSchema) {
  const auto grammar = compile_json_schema(
      R"({"type":"object","properties":{"z":{"type":"integer"},"a":{"type":"boolean"},
          "m":{"type":"null"}},"required":["a"],"additionalProperties":false})");
  for (const char* good : {R"({"a":true})", R"({"z": 1, "a": false})", R"({ "a":true,"m":null })",
                           "{\n  \"z\": -12,\n  \"a\": true,\n  \"m\": null\n}"}) {
    EXPECT_TRUE(grammar->accepts(good)) << good;
  }
  for (const char* bad : {R"({"a":true,"z":1})", R"({"z":1})", R"({"a":true,"b":1})",
                          R"({"a":true,})", R"({"a":1})", R"({"z":01,"a":true})", "{}", ""}) {
    EXPECT_FALSE(grammar->accepts(bad)) << bad;
  }
}

TEST(JsonSchema, RefusalsNameKeywordAndPlace) {
  const auto expect = [](const std::string& schema, const std::string& part) {
    const std::string message = refusal(schema);
    EXPECT_NE(message.find(part), std::string::npos) << schema << "\n" << message;
  };
  expect(R"({"properties":{"a":{"uniqueItems":true,"type":"array"}}})",
         "/properties/a/uniqueItems");
  expect(R"({"items":{"foo":1}})", "/items/foo: this keyword is not supported");
  expect(R"({"$ref":"#/$defs/x"})", "/$ref: '#/$defs/x' leads nowhere");
  expect(R"({"$ref":"http://example.com/a.json"})", "outside of this document");
  expect(R"({"$ref":"#"})", "refers to itself");
  expect(R"({"type":"strin"})", "/type: expected null, boolean");
  expect(R"({"minimum":"1"})", "/minimum: expected a number, found \"1\"");
  expect(R"x({"properties":{"x":{"pattern":"(?=a)"}}})x", "/properties/x/pattern: ");
  expect(R"({"format":"klingon"})", "'klingon' is not known");
  expect(R"({"oneOf":[{"type":"array","items":{"type":"string"}},{"type":"array","prefixItems":[{}],
          "items":{"enum":[[1]]}}]})",
         "/oneOf: a value may fulfil both 0 and 1");
  expect(R"({"a":1,"a":2})", "twice");
  expect("{\"a\":", "no valid JSON");
  expect("3", "expected a schema");
  expect(R"({"type":"string","minLength":4,"maxLength":3})", "matches no text");
  expect(R"({"type":"object","properties":{"next":{"$ref":"#"}},"required":["next"]})",
         "matches no text");
  expect(std::string(300, '[') + std::string(300, ']'), "nests deeper");
  expect(R"({"minItems":100000000})", "too complex");
  expect(R"({"maxLength":100000000})", "too complex");
  expect(R"({"minProperties":2})", "/minProperties");
}

TEST(JsonSchema, AlternativesThatLookAlikeDoNotMultiply) {
  // Two ways to read every level: 2^60 stacks, were they not merged.
  const auto grammar = compile_json_schema(
      R"({"anyOf":[{"type":"object","properties":{"a":{"$ref":"#"}},"additionalProperties":false},
                   {"type":"object","properties":{"a":{"$ref":"#"},"b":{"type":"null"}},
                    "additionalProperties":false}]})");
  std::string text;
  for (int i = 0; i < 60; ++i) text += "{\"a\":";
  text += "{\"b\":null}" + std::string(60, '}');
  EXPECT_TRUE(grammar->accepts(text));
  text.insert(text.find("null"), "1");
  EXPECT_FALSE(grammar->accepts(text));
}

TEST(JsonSchema, HostileSchemasAreRefusedInTime) {
  std::string many = R"({"allOf":[)";
  for (int i = 0; i < 40; ++i) {
    many += R"({"anyOf":[{"pattern":"a)" + std::to_string(i) + R"(.*b"},{"pattern":"c.*d)" +
            std::to_string(i) + R"("}]},)";
  }
  EXPECT_NE(refusal(many + "{}]}").find("too complex"), std::string::npos);
  std::string chain = R"({"$ref":"#/$defs/0","$defs":{)";
  for (int i = 0; i < 1'500; ++i) {
    chain += "\"" + std::to_string(i) + R"(":{"$ref":"#/$defs/)" + std::to_string(i + 1) + "\"},";
  }
  EXPECT_NE(refusal(chain + "\"1500\":{}}}").find("nest too deeply"), std::string::npos);
  // Every level twice: 2^30 values without names for them.
  std::string deep = R"({"type":"null"})";
  for (int i = 0; i < 30; ++i) {
    deep = R"({"type":"object","properties":{"a":)" + deep + R"(},"required":["a"]})";
  }
  EXPECT_EQ(refusal(deep), "accepted");
}

}  // namespace
}  // namespace moe4
