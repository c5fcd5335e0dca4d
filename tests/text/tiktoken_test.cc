// Kimi's tiktoken.model against what the tiktoken package computed
// (scripts/make_tiktoken_goldens.py).
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "support/temp_dir.h"
#include "text/tiktoken_model.h"
#include "text/tokenizer.h"

namespace moe4 {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;

const json& goldens() {
  static const json loaded =
      json::parse(std::ifstream(MOE4_TEST_DATA "/text/tiktoken_goldens.json"));
  return loaded;
}

std::unique_ptr<Tokenizer> load(const std::string& model, const json& config) {
  const testing::TempDir dir;
  std::ofstream(dir.path() / "tiktoken.model") << model;
  if (!config.is_null()) std::ofstream(dir.path() / "tokenizer_config.json") << config.dump();
  return Tokenizer::load(dir.path());
}

const std::string& model() { return goldens()["model"].get_ref<const std::string&>(); }

TEST(Tiktoken, EncodesAndDecodesAsThePackage) {
  const auto tokenizer = load(model(), goldens()["config"]);
  for (const json& one : goldens()["cases"]) {
    const auto text = one["text"].get<std::string>();
    const auto ids = one["ids"].get<std::vector<int32_t>>();
    EXPECT_EQ(tokenizer->encode(text), ids) << one["text"].dump(-1, ' ', true);
    EXPECT_EQ(tokenizer->decode(ids, /*skip_special=*/false), text);
  }
}

TEST(Tiktoken, The256IdsBehindTheModelAreSpecialTokensUnlessTheFileSaysOtherwise) {
  const auto tokenizer = load(model(), goldens()["config"]);
  const int32_t end = tokenizer->token_id("<|im_end|>").value();
  EXPECT_EQ(tokenizer->vocab_size(), end - 2 + 256);
  EXPECT_TRUE(tokenizer->is_special(end));
  EXPECT_TRUE(tokenizer->is_special(end + 100));
  EXPECT_EQ(tokenizer->token_bytes(end + 100),
            "<|reserved_token_" + std::to_string(end + 100) + "|>");
  const int32_t tools = tokenizer->token_id("<|tool_calls_section_begin|>").value();
  EXPECT_FALSE(tokenizer->is_special(tools));
  EXPECT_EQ(tokenizer->decode({end, tools}), "<|tool_calls_section_begin|>");
}

TEST(Tiktoken, ATokenizerJsonComesFirst) {
  const testing::TempDir dir;
  std::ofstream(dir.path() / "tiktoken.model") << model();
  std::ofstream(dir.path() / "tokenizer.json") << "{}";
  EXPECT_THROW(Tokenizer::load(dir.path()), Error);
}

std::string error_of(const std::string& model, const json& config) {
  try {
    load(model, config);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kBadInput);
    EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos) << error.what();
    return error.what();
  }
  return "no error";
}

TEST(Tiktoken, WhatIsNotKimisIsRefusedByName) {
  const json& good = goldens()["config"];
  EXPECT_THAT(error_of(model(), nullptr), HasSubstr("tokenizer_class"));
  json other = good;
  other["tokenizer_class"] = "QWenTokenizer";
  EXPECT_THAT(error_of(model(), other), HasSubstr("QWenTokenizer"));
  for (const char* id : {"3", "100000", "x", ""}) {
    json far = good;
    far["added_tokens_decoder"][id] = {{"content", "<far>"}};
    EXPECT_THAT(error_of(model(), far), HasSubstr("added_tokens_decoder." + std::string(id)));
  }
  json twice = good;
  twice["added_tokens_decoder"].begin().value()["content"] = "<|im_end|>";
  EXPECT_THAT(error_of(model(), twice), HasSubstr("content of its own"));
}

TEST(Tiktoken, BrokenLinesAreNamed) {
  const json& config = goldens()["config"];
  EXPECT_THAT(error_of("", config), HasSubstr("empty"));
  EXPECT_THAT(error_of("IQ== 0\n", config), HasSubstr("256 bytes"));
  for (const char* line :
       {"IQ== 1", "IQ==", "IQ=", "I?== 0", "=== 0", " 0", "IQ== 0x", "IQ==  0"}) {
    EXPECT_THAT(error_of(std::string(line) + "\n" + model(), config), HasSubstr("line 1")) << line;
  }
  const size_t end = model().find('\n') + 1;
  EXPECT_THAT(error_of(model().substr(0, end) + model(), config), HasSubstr("line 2"));
}

}  // namespace
}  // namespace moe4
