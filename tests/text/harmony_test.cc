// gpt-oss's text: the harmony format and o200k's words, against jinja2 and tokenizers
// (scripts/make_harmony_goldens.py).
#include <gtest/gtest.h>

#include <ctime>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "base/error.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace moe4 {
namespace {

using nlohmann::ordered_json;

const ordered_json& goldens() {
  static const ordered_json loaded =
      ordered_json::parse(std::ifstream(MOE4_TEST_DATA "/text/harmony_goldens.json"));
  return loaded;
}

std::string today() {
  const std::time_t now = std::time(nullptr);
  std::tm local{};
  localtime_r(&now, &local);
  char text[16];
  return {text, std::strftime(text, sizeof text, "%Y-%m-%d", &local)};
}

std::string with_date(std::string text, const std::string& date) {
  if (const size_t at = text.find("<date>"); at != std::string::npos) text.replace(at, 6, date);
  return text;
}

TEST(Harmony, ConversationsRenderAsJinja2DoesWithTodaysDate) {
  std::ostringstream source;
  source << std::ifstream(MOE4_TEST_DATA "/text/harmony.jinja").rdbuf();
  const auto harmony = ChatTemplate::parse(source.str(), "harmony");
  int rendered = 0;
  for (const ordered_json& one : goldens()["templates"]) {
    const std::string context = one["context"].dump();
    if (one["expected"].is_null()) {
      EXPECT_THROW(harmony->render(context), Error) << context;
      continue;
    }
    const std::string before = today(), found = harmony->render(context), after = today();
    const std::string expected = one["expected"].get<std::string>();
    EXPECT_NE(expected.find("Today: <date>\n"), std::string::npos);
    // Midnight may pass.
    EXPECT_EQ(found, with_date(expected, found == with_date(expected, before) ? before : after));
    ++rendered;
  }
  EXPECT_GE(rendered, 12);
}

TEST(Harmony, WordsAreO200ksAndControlTokensAreOneIdEach) {
  const auto tokenizer = Tokenizer::load(MOE4_TEST_DATA "/checkpoints/gpt_oss-mxfp4");
  for (const ordered_json& one : goldens()["encode"]) {
    EXPECT_EQ(tokenizer->encode(one["text"].get<std::string>()),
              one["ids"].get<std::vector<int32_t>>())
        << one["text"].dump(-1, ' ', true);
  }
  for (const ordered_json& one : goldens()["decode"]) {
    const auto ids = one["ids"].get<std::vector<int32_t>>();
    EXPECT_EQ(tokenizer->decode(ids, one["skip_special"].get<bool>()),
              one["text"].get<std::string>())
        << one["ids"].dump();
  }
}

TEST(Harmony, TagsCanBeMadeVisibleAmongSpecialTokens) {
  const auto tokenizer = Tokenizer::load(MOE4_TEST_DATA "/checkpoints/gpt_oss-mxfp4");
  const std::string text = "<|channel|>final<|message|>Hi<|return|>";
  std::vector<int32_t> visible;
  for (const char* tag : {"<|channel|>", "<|message|>"}) {
    ASSERT_TRUE(tokenizer->is_special(*tokenizer->token_id(tag)));
    visible.push_back(*tokenizer->token_id(tag));
  }
  StreamDecoder stream(*tokenizer, true, visible);
  std::string shown;
  for (const int32_t id : tokenizer->encode(text)) shown += stream.push(id);
  EXPECT_EQ(shown + stream.finish(), "<|channel|>final<|message|>Hi");
}

}  // namespace
}  // namespace moe4
