// Mistral's tekken.json against what mistral-common computed (scripts/check_tokenizers.py
// --goldens).
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "support/temp_dir.h"
#include "text/tokenizer.h"

namespace moe4 {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;

const json& goldens() {
  static const json loaded =
      json::parse(std::ifstream(MOE4_TEST_DATA "/text/family_tokenizer_goldens.json"))["tekken"];
  return loaded;
}

std::unique_ptr<Tokenizer> load(const std::string& text) {
  const testing::TempDir dir;
  std::ofstream(dir.path() / "tekken.json") << text;
  return Tokenizer::load(dir.path());
}

TEST(Tekken, EncodesAsMistralCommon) {
  const auto tokenizer = load(goldens()["file"].dump());
  for (const json& one : goldens()["encode"]) {
    const auto text = one["text"].get<std::string>();
    const auto ids = one["ids"].get<std::vector<int32_t>>();
    EXPECT_EQ(tokenizer->encode(text), ids) << one["text"].dump(-1, ' ', true);
    EXPECT_EQ(tokenizer->decode(ids, /*skip_special=*/false), text);
  }
}

TEST(Tekken, TheFirstIdsAreSpecialTokens) {
  const auto tokenizer = load(goldens()["file"].dump());
  EXPECT_EQ(tokenizer->vocab_size(), 498);
  EXPECT_EQ(tokenizer->token_id("[/INST]"), 4);
  EXPECT_EQ(tokenizer->token_id("<SPECIAL_5>"), 5);
  EXPECT_TRUE(tokenizer->is_special(7));
  EXPECT_FALSE(tokenizer->is_special(8));
  EXPECT_EQ(tokenizer->token_bytes(8 + 'a'), "a");
  EXPECT_EQ(tokenizer->decode({3, 8 + 'a', 2}), "a");
}

TEST(Tekken, FilesWithoutAListHaveTheOldSpecialTokens) {
  json old = goldens()["file"];
  old.erase("special_tokens");
  old["config"]["default_num_special_tokens"] = 21;
  const auto tokenizer = load(old.dump());
  EXPECT_EQ(tokenizer->token_id("[TOOL_CONTENT]"), 19);
  EXPECT_EQ(tokenizer->token_id("<SPECIAL_20>"), 20);
  EXPECT_EQ(tokenizer->token_bytes(21 + 'a'), "a");
}

TEST(Tekken, BrokenFilesAreRefusedByName) {
  const auto error_of = [](const std::string& text) -> std::string {
    try {
      load(text);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kBadInput);
      EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos) << error.what();
      return error.what();
    }
    return "no error";
  };
  const auto patched = [&](const json& patch) {
    json tree = goldens()["file"];
    tree.merge_patch(patch);
    return error_of(tree.dump());
  };
  const auto token = [&](const json& token) {
    json tree = goldens()["file"];
    tree["vocab"][9].merge_patch(token);
    return error_of(tree.dump());
  };
  EXPECT_THAT(error_of("{"), HasSubstr("not valid JSON"));
  EXPECT_THAT(error_of("[]"), HasSubstr("not a JSON object"));
  EXPECT_THAT(error_of("{}"), HasSubstr("config"));
  EXPECT_THAT(patched({{"config", {{"default_vocab_size", -1}}}}), HasSubstr("default_vocab_size"));
  EXPECT_THAT(patched({{"config", {{"default_vocab_size", 200}}}}), HasSubstr("256 more"));
  EXPECT_THAT(patched({{"config", {{"default_vocab_size", 100000}}}}), HasSubstr("vocab"));
  EXPECT_THAT(patched({{"config", {{"pattern", nullptr}}}}), HasSubstr("config.pattern"));
  EXPECT_THAT(patched({{"config", {{"pattern", "("}}}}), HasSubstr("not understood"));
  EXPECT_THAT(patched({{"vocab", 1}}), HasSubstr("vocab"));
  EXPECT_THAT(patched({{"special_tokens", 1}}), HasSubstr("special_tokens"));
  EXPECT_THAT(patched({{"special_tokens", {{{"rank", 8}, {"token_str", "x"}}}}}),
              HasSubstr("below 8"));
  EXPECT_THAT(patched({{"special_tokens",
                        {{{"rank", 1}, {"token_str", "x"}}, {{"rank", 1}, {"token_str", "y"}}}}}),
              HasSubstr("rank of its own"));
  EXPECT_THAT(patched({{"special_tokens",
                        {{{"rank", 1}, {"token_str", "x"}}, {{"rank", 2}, {"token_str", "x"}}}}}),
              HasSubstr("names that differ"));
  EXPECT_THAT(token({{"rank", 3}}), HasSubstr("vocab[9]"));
  EXPECT_THAT(token({{"token_bytes", "?"}}), HasSubstr("vocab[9].token_bytes"));
  EXPECT_THAT(token({{"token_bytes", "AA=="}}), HasSubstr("listed twice"));
}

}  // namespace
}  // namespace moe4
