// Free text with calls of tools in it.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "base/error.h"
#include "grammar/grammar.h"

namespace moe4 {
namespace {

TaggedAnswer two_tools() {
  return {.tags = {{.begin = "<tool_call>\n{\"name\": \"add\", \"arguments\": ",
                    .schema = R"({"type":"object","properties":{"a":{"type":"integer"}},
                                  "required":["a"],"additionalProperties":false})",
                    .end = "}\n</tool_call>"},
                   {.begin = "<tool_call>\n{\"name\": \"now\", \"arguments\": ",
                    .schema = R"({"type":"object","additionalProperties":false})",
                    .end = "}\n</tool_call>"}},
          .trigger = "<tool_call>"};
}

const char* const kAdd =
    "<tool_call>\n{\"name\": \"add\", \"arguments\": {\"a\": 1}}\n</tool_call>";
const char* const kNow = "<tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n</tool_call>";

TEST(TaggedAnswer, TextIsFreeUntilTheTrigger) {
  const auto grammar = compile_tagged_answer(two_tools());
  for (const std::string& good :
       {std::string(), std::string("No <tool need <<tool_cal> of it."), std::string(kAdd),
        "Let me see.<<tool_call" + std::string(kAdd), kNow + std::string(" and\n") + kAdd + "!"}) {
    EXPECT_TRUE(grammar->accepts(good)) << good;
  }
  for (const std::string& bad :
       {std::string("a <tool_call>"), std::string("<tool_call>\n{\"name\": \"sub\""),
        std::string("<tool_call>\n{\"name\": \"now\", \"arguments\": {\"a\": 1}}\n</tool_call>")}) {
    EXPECT_FALSE(grammar->accepts(bad)) << bad;
  }
}

TEST(TaggedAnswer, ACallCanBeDemandedAndTextForbidden) {
  TaggedAnswer answer = two_tools();
  answer.needs_call = true;
  EXPECT_FALSE(compile_tagged_answer(answer)->accepts("text"));
  EXPECT_TRUE(compile_tagged_answer(answer)->accepts(std::string("text") + kNow + "."));
  answer.allows_more = false;
  EXPECT_FALSE(compile_tagged_answer(answer)->accepts(std::string("text") + kNow + "."));
  EXPECT_TRUE(compile_tagged_answer(answer)->accepts(std::string("text") + kNow));
  answer.trigger = "";
  EXPECT_FALSE(compile_tagged_answer(answer)->accepts(std::string("text") + kNow));
  EXPECT_TRUE(compile_tagged_answer(answer)->accepts(kNow));
  answer.allows_more = true;
  answer.separator = "\n";
  EXPECT_TRUE(compile_tagged_answer(answer)->accepts(std::string(kNow) + "\n" + kAdd));
  EXPECT_FALSE(compile_tagged_answer(answer)->accepts(std::string(kNow) + kAdd));
}

TEST(TaggedAnswer, AllCallsCanHaveAFrame) {
  TaggedAnswer answer = two_tools();
  answer.trigger = "";
  answer.before = "<calls>";
  answer.separator = ",";
  answer.after = "</calls>";
  answer.needs_call = true;
  const auto grammar = compile_tagged_answer(answer);
  const std::string now = kNow;
  EXPECT_TRUE(grammar->accepts("<calls>" + now + "</calls>"));
  EXPECT_TRUE(grammar->accepts("<calls>" + now + "," + kAdd + "</calls>"));
  const std::vector<std::string> wrong = {now, "<calls>" + now, "<calls></calls>", now + "</calls>",
                                          "<calls>" + now + "</calls>" + now};
  for (const std::string& bad : wrong) {
    EXPECT_FALSE(grammar->accepts(bad)) << bad;
  }
  answer.trigger = "<tool_call>";
  EXPECT_THROW(compile_tagged_answer(answer), Error);
}

TEST(TaggedAnswer, OverlappingTriggersAreFound) {
  // The search for "aab" in "aaab" must not lose the second a.
  const auto grammar = compile_tagged_answer(
      {.tags = {{.begin = "aab", .schema = "{\"const\":1}", .end = "."}}, .trigger = "aab"});
  EXPECT_TRUE(grammar->accepts("aaaab1.aa"));
  EXPECT_FALSE(grammar->accepts("aaab"));
  EXPECT_FALSE(grammar->accepts("aaab2."));
  EXPECT_TRUE(grammar->accepts("abab"));
}

TEST(TaggedAnswer, MistakesAreNamed) {
  TaggedAnswer answer = two_tools();
  answer.tags[1].begin = "<call>";
  EXPECT_THROW(compile_tagged_answer(answer), Error);
  EXPECT_THROW(compile_tagged_answer({}), Error);
}

}  // namespace
}  // namespace moe4
