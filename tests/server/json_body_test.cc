// Bodies: what is JSON, and how deep.
#include "server/json_body.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "server/api_error.h"
#include "server/json_text.h"

namespace moe4::server {
namespace {

using ::testing::HasSubstr;

std::string refusal(const std::string& text) {
  try {
    parse_body(text);
  } catch (const ApiError& error) {
    EXPECT_EQ(error.status(), 400);
    return error.what();
  }
  return "accepted";
}

TEST(JsonBody, KeepsTheOrderOfMembers) {
  EXPECT_EQ(dump(parse_body(R"({"b": 1, "a": {"z": [true, null], "y": "x"}})")),
            R"({"b":1,"a":{"z":[true,null],"y":"x"}})");
}

TEST(JsonBody, RefusesWhatIsNoJson) {
  EXPECT_THAT(refusal(""), HasSubstr("the body is not valid JSON at byte "));
  EXPECT_THAT(refusal("{\"a\": 1,}"), HasSubstr("the body is not valid JSON at byte 9"));
  EXPECT_THAT(refusal("[1] 2"), HasSubstr("the body is not valid JSON at byte "));
  EXPECT_THAT(refusal("\"\xff\""), HasSubstr("the body is not valid UTF-8 at byte "));
  EXPECT_THAT(refusal("[1e999]"), HasSubstr("the body has a number that is out of range at byte "));
  EXPECT_EQ(refusal(R"({"a": 1, "a": 2})"), "the JSON body names the member 'a' twice");
}

TEST(JsonBody, DepthIsBounded) {
  EXPECT_EQ(refusal(std::string(100, '[') + std::string(100, ']')), "accepted");
  EXPECT_EQ(refusal(std::string(101, '[') + std::string(101, ']')),
            "the JSON body is nested deeper than 100 levels");
  EXPECT_EQ(refusal(std::string(1000000, '[')), "the JSON body is nested deeper than 100 levels");
}

// A search for each member would take hours.
TEST(JsonBody, ManyMembersAreRead) {
  std::string text = "{";
  for (int i = 0; i < 500000; ++i) text += "\"" + std::to_string(i) + "\":0,";
  EXPECT_EQ(parse_body(text + "\"last\":1}").size(), 500001u);
}

TEST(JsonText, StringsComeBackAsTheyWere) {
  std::string all;
  for (int c = 0; c < 128; ++c) all += static_cast<char>(c);
  all += "\u00e9\u20ac\U0001F600\"\\";
  std::string text;
  append_json_string(text, all);
  EXPECT_EQ(parse_body(text).get<std::string>(), all);
  std::string broken;
  append_json_string(broken, "a\xff\xe2\x82");
  EXPECT_EQ(parse_body(broken).get<std::string>(), "a\ufffd\ufffd");
}

TEST(JsonText, NumbersThatAreNotFiniteAreNull) {
  std::string text;
  append_json_number(text, -1.0 / 0.0);
  append_json_number(text += ",", 0.1);
  EXPECT_EQ(text, "null,0.1");
}

TEST(ApiErrors, HaveTheFormOfOpenAi) {
  EXPECT_EQ(parse_body(ApiError(400, "top_p: \"x\"", "top_p").body()),
            parse_body(R"({"error": {"message": "top_p: \"x\"", "type": "invalid_request_error",
                           "param": "top_p", "code": 400}})"));
  EXPECT_EQ(parse_body(ApiError(401, "no").body())["error"]["type"], "authentication_error");
  EXPECT_EQ(parse_body(ApiError(401, "no").body())["error"]["param"], nullptr);
}

}  // namespace
}  // namespace moe4::server
