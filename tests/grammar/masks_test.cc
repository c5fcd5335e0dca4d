// Masks against every token tried on its own.
#include <gtest/gtest.h>

#include <random>
#include <string>
#include <vector>

#include "base/error.h"
#include "grammar/automaton.h"
#include "grammar/token_masks.h"

namespace moe4 {
namespace {

using grammar::StackSets;

// Single bytes, and pieces as tokenizers have them: across the ends of strings, names and numbers.
std::vector<std::string> small_vocabulary(std::mt19937& rng) {
  std::vector<std::string> tokens;
  for (int byte = 0; byte < 256; ++byte) tokens.emplace_back(1, static_cast<char>(byte));
  tokens.emplace_back();  // a special token
  const std::string alphabet = "\"\"\"{}[],:: \n\\aben12.tru-é€";
  for (int i = 0; i < 1'500; ++i) {
    std::string token;
    for (size_t n = 2 + rng() % 4; n > 0; --n) token += alphabet[rng() % alphabet.size()];
    tokens.push_back(token);
  }
  tokens.push_back(std::string(30, 'a'));  // past Vocabulary::kLengths
  tokens.push_back(std::string(40, 'e') + "\": [");
  tokens.push_back("\n" + std::string(28, ' ') + "\"");
  tokens.push_back(std::string(2000, '1'));  // too long to be chosen
  for (const char* token : {"\": \"", "\", \"", "\"}, {\"", "true", "false}", "null,", "{\"a\":",
                            "]}", "\"a\"", "  ", "\n  \"", "}}}", "\"b\": [", "123", "hello"}) {
    tokens.emplace_back(token);
    tokens.emplace_back(token);  // twice, as added tokens may be
  }
  return tokens;
}

std::vector<std::shared_ptr<const Grammar>> grammars() {
  return {
      compile_json_object(),
      compile_regex("(?:a|b)*\\d{2,4}(?:,\\d+)*|é+"),
      compile_choice({"hello", "help", "he", "true", "hello world"}),
      compile_json_schema(R"({"type":"object","properties":{"a":{"type":"string"},
        "b":{"type":"array","items":{"type":"number"}},"ab":{"$ref":"#"}},"required":["b"]})"),
      compile_json_schema(R"({"anyOf":[{"type":"object","properties":{"a":{"const":1}},
        "required":["a"],"additionalProperties":false},{"type":"object","properties":
        {"a":{"type":"string","maxLength":90}}},{"type":["integer","null"],"minimum":-5}]})"),
  };
}

TEST(TokenMasks, AreWhatEveryTokenTriedAloneSays) {
  std::mt19937 rng(4);
  const auto tokens = small_vocabulary(rng);
  const auto vocabulary = std::make_shared<const Vocabulary>(tokens);
  size_t allowed_in_all = 0;
  for (const auto& grammar : grammars()) {
    const auto masks = std::make_shared<const TokenMasks>(grammar, vocabulary);
    for (int walk = 0; walk < 12; ++walk) {
      GrammarMatcher matcher(masks);
      StackSets stacks(grammar->automaton());
      auto position = stacks.position_of(grammar->automaton().start());
      std::vector<uint64_t> words(vocabulary->mask_words());
      for (int step = 0; step < 25; ++step) {
        matcher.fill_mask(words);
        std::vector<int32_t> allowed;
        for (size_t id = 0; id < tokens.size(); ++id) {
          const bool is_usable = !tokens[id].empty() && tokens[id].size() < 1'000;
          auto after = is_usable ? position : StackSets::kNone;
          for (const char c : tokens[id]) after = stacks.step(after, static_cast<uint8_t>(c));
          const bool expected = after != StackSets::kNone;
          ASSERT_EQ((words[id / 64] >> (id % 64) & 1) != 0, expected) << "token " << tokens[id];
          if (expected) allowed.push_back(static_cast<int32_t>(id));
        }
        EXPECT_EQ(matcher.may_end(), stacks.may_end(position));
        allowed_in_all += allowed.size();
        if (allowed.empty()) {
          EXPECT_TRUE(matcher.must_end());
          break;
        }
        const int32_t token = allowed[rng() % allowed.size()];
        GrammarMatcher copy = matcher;
        ASSERT_TRUE(copy.accept(token));
        ASSERT_TRUE(matcher.accept(token));
        for (const char c : tokens[static_cast<size_t>(token)]) {
          position = stacks.step(position, static_cast<uint8_t>(c));
        }
      }
    }
  }
  EXPECT_GT(allowed_in_all, 20'000U);
}

TEST(TokenMasks, ARefusedTokenChangesNothing) {
  const auto vocabulary =
      std::make_shared<const Vocabulary>(std::vector<std::string>{"a", "b", "", "ab"});
  GrammarMatcher matcher(std::make_shared<const TokenMasks>(compile_regex("ab"), vocabulary));
  EXPECT_FALSE(matcher.accept(1));
  EXPECT_FALSE(matcher.accept(2));
  EXPECT_FALSE(matcher.accept(-1));
  EXPECT_FALSE(matcher.accept(4));
  EXPECT_TRUE(matcher.accept(0));
  EXPECT_FALSE(matcher.may_end());
  EXPECT_TRUE(matcher.accept(1));
  EXPECT_TRUE(matcher.must_end());
}

TEST(TokenMasks, DeepNestingIsBoundedAndForgetsNothing) {
  const auto vocabulary = std::make_shared<const Vocabulary>(
      std::vector<std::string>{"[", "]", "{\"a\":", "}", "1", ","});
  const auto grammar = compile_json_schema("{\"type\":\"array\"}");
  GrammarMatcher matcher(std::make_shared<const TokenMasks>(grammar, vocabulary));
  int depth = 0;
  while (depth < 5'000 && matcher.accept(0)) ++depth;
  EXPECT_GE(depth, 250);
  EXPECT_LT(depth, 5'000);
  for (; depth > 0; --depth) ASSERT_TRUE(matcher.accept(1));
  EXPECT_TRUE(matcher.must_end());
}

}  // namespace
}  // namespace moe4
