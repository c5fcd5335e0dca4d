// Where a JSON value ends in a stream of text.
#include "dialog/json_scanner.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace moe4 {
namespace {

using nlohmann::json;
using Status = JsonScanner::Status;

struct Scan {
  Status status;
  size_t used;
  std::string out;
};

Scan scan(std::string_view text, size_t piece) {
  JsonScanner scanner;
  Scan result{};
  while (result.used < text.size() && scanner.status() == Status::kMore) {
    const std::string_view part = text.substr(result.used, piece);
    const size_t used = scanner.read(part, &result.out);
    result.used += used;
    if (used < part.size()) break;
  }
  scanner.finish();
  result.status = scanner.status();
  return result;
}

TEST(JsonScanner, EndsWithTheValueHoweverItIsCut) {
  for (const char* value :
       {R"({})", R"([])", R"({"a":{"b":[1,2,{"c":null}]},"d":"}]"})", R"("a\"b\\")", "true",
        "false", "null", R"( {"a" : -0.5e+10 , "b" : [ ] } )",
        R"(["\u00e9\ud83d\ude00",0,-1,1E5,0.25])"}) {
    const std::string text = value;
    const std::string trimmed = text.substr(0, text.find_last_not_of(' ') + 1);
    for (size_t piece = 1; piece < 40; ++piece) {
      const Scan found = scan(text + "</tool_call>", piece);
      EXPECT_EQ(found.status, Status::kDone) << text;
      EXPECT_EQ(found.used, trimmed.size()) << text;
      EXPECT_EQ(found.out, trimmed);
    }
    EXPECT_TRUE(json::accept(text));
  }
}

TEST(JsonScanner, NumbersEndBeforeWhatFollows) {
  EXPECT_EQ(scan("-12.5e3,", 3).out, "-12.5e3");
  EXPECT_EQ(scan("0}", 1).out, "0");
  EXPECT_EQ(scan("12", 1).status, Status::kDone);
  EXPECT_EQ(scan("1.", 1).status, Status::kMore);
}

TEST(JsonScanner, RefusesWhatJsonRefuses) {
  for (const char* text : {"{a:1}",
                           "{'a':1}",
                           R"({"a" 1})",
                           R"({"a":1,})",
                           "[1,]",
                           "[1 2]",
                           "01",
                           "[01]",
                           "+1",
                           ".5",
                           "[1.]",
                           "[1e]",
                           "[-]",
                           "nul!",
                           "True",
                           "NaN",
                           "[Infinity]",
                           R"(["\x"])",
                           R"(["\u12g4"])",
                           "{]",
                           "[}",
                           "}",
                           ",",
                           R"(["\ud800"])",
                           R"(["\udc00"])",
                           R"(["\ud800\u0041"])",
                           R"(["\ud800x"])"}) {
    EXPECT_FALSE(json::accept(text)) << text;
    const Scan found = scan(std::string(text) + " ", 1);
    // "01" is the number 0 and something else.
    EXPECT_TRUE(found.status == Status::kBad || found.used < std::string_view(text).size()) << text;
  }
}

TEST(JsonScanner, AgreesWithNlohmannOnDamagedTexts) {
  const std::string text = R"({"a":[1,-2.5e3,"x\n\u00e9"],"b":{"c":true,"d":null}})";
  const std::string bytes = "{}[]\",:0-.eE\\untf x";
  for (size_t at = 0; at < text.size(); ++at) {
    for (const char byte : bytes) {
      for (const int kind : {0, 1, 2}) {
        std::string damaged = text;
        if (kind == 0) damaged[at] = byte;
        if (kind == 1) damaged.insert(at, 1, byte);
        if (kind == 2) damaged.erase(at, 1);
        EXPECT_EQ(as_json(damaged, "{").has_value(), json::accept(damaged)) << damaged;
      }
    }
  }
}

TEST(JsonScanner, ControlCharactersInStringsBecomeEscapes) {
  const auto value = as_json("{\"a\":\"1\n2\t\x01\"}\n", "{");
  ASSERT_TRUE(value);
  EXPECT_EQ(*value, R"({"a":"1\n2\t\u0001"})");
}

TEST(JsonScanner, DepthIsBounded) {
  const std::string deep = std::string(JsonScanner::kMaxDepth, '[') + std::string(200, ']');
  EXPECT_TRUE(as_json(deep, "["));
  EXPECT_FALSE(as_json("[" + deep + "]", "["));
  EXPECT_EQ(scan(std::string(1 << 20, '['), 4096).status, Status::kBad);
}

TEST(JsonQuoted, IsReadBack) {
  const std::string text = "a\"b\\c\n\t\x1f\x7f é 😀 </tag>";
  EXPECT_EQ(json::parse(json_quoted(text)).get<std::string>(), text);
}

}  // namespace
}  // namespace moe4
