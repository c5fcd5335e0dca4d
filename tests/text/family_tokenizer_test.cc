// The kinds of tokenizers that families publish, against what Hugging Face tokenizers computed
// (scripts/check_tokenizers.py --goldens).
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "text/tokenizer.h"

namespace moe4 {
namespace {

using nlohmann::json;
using testing::HasSubstr;

const json& goldens() {
  static const json loaded =
      json::parse(std::ifstream(MOE4_TEST_DATA "/text/family_tokenizer_goldens.json"));
  return loaded;
}

std::unique_ptr<Tokenizer> patched(const char* group, const json& patch) {
  json tree = goldens()[group]["base"];
  tree.merge_patch(patch);
  return Tokenizer::parse(tree.dump(), "patched");
}

const json& variant(const char* group, const std::string& name) {
  for (const json& one : goldens()[group]["variants"]) {
    if (one["name"] == name) return one;
  }
  throw std::runtime_error("no golden " + name);
}

std::unique_ptr<Tokenizer> sentence_piece(const std::string& name, const json& more = {}) {
  json patch = variant("sentence_piece", name)["patch"];
  if (!more.is_null()) patch.merge_patch(more);
  return patched("sentence_piece", patch);
}

std::string streamed(const Tokenizer& tokenizer, const std::vector<int32_t>& ids, bool skip) {
  StreamDecoder stream(tokenizer, skip);
  std::string text;
  for (const int32_t id : ids) text += stream.push(id);
  return text + stream.finish();
}

void expect_equal(const char* group) {
  ASSERT_FALSE(goldens()[group]["variants"].empty());
  for (const json& kind : goldens()[group]["variants"]) {
    SCOPED_TRACE(kind["name"].get<std::string>());
    const auto tokenizer = patched(group, kind["patch"]);
    for (const json& one : kind["encode"]) {
      EXPECT_EQ(tokenizer->encode(one["text"].get<std::string>()),
                one["ids"].get<std::vector<int32_t>>())
          << one["text"].dump(-1, ' ', true);
    }
    for (const json& one : kind["decode"]) {
      const auto ids = one["ids"].get<std::vector<int32_t>>();
      const bool skip = one["skip_special"].get<bool>();
      EXPECT_EQ(tokenizer->decode(ids, skip), one["text"].get<std::string>()) << one["ids"].dump();
      EXPECT_EQ(streamed(*tokenizer, ids, skip), one["text"].get<std::string>());
    }
  }
}

TEST(FamilyTokenizer, SentencePieceKindsAreUpstreams) { expect_equal("sentence_piece"); }

TEST(FamilyTokenizer, ByteLevelKindsAreUpstreams) { expect_equal("byte_level"); }

TEST(FamilyTokenizer, AStreamWaitsForTheEndOfByteTokens) {
  const auto tokenizer = sentence_piece("Mixtral, Llama-2");
  const auto byte = [&](const char* name) { return tokenizer->token_id(name).value(); };
  const int32_t space = tokenizer->token_id("\xE2\x96\x81").value();
  const int32_t a = tokenizer->token_id("a").value();
  StreamDecoder stream(*tokenizer);
  EXPECT_EQ(stream.push(space), "");  // the space that encoding put in front
  EXPECT_EQ(stream.push(byte("<0xF0>")), "");
  EXPECT_EQ(stream.push(byte("<0x9F>")), "");
  EXPECT_EQ(stream.push(byte("<0x98>")), "");
  EXPECT_EQ(stream.push(byte("<0x80>")), "");
  EXPECT_EQ(stream.push(a), "\xF0\x9F\x98\x80\x61");
  EXPECT_EQ(stream.push(space), " ");
  // One byte that fits nowhere breaks all beside it.
  EXPECT_EQ(stream.push(byte("<0x41>")), "");
  EXPECT_EQ(stream.push(byte("<0xFF>")), "");
  EXPECT_EQ(stream.finish(), "\xEF\xBF\xBD\xEF\xBF\xBD");
  // As new: the first space goes again.
  EXPECT_EQ(stream.push(space), "");
  EXPECT_EQ(stream.push(a), "a");
  EXPECT_EQ(stream.finish(), "");
}

TEST(FamilyTokenizer, BytesOfATokenAreThoseItHasInsideAText) {
  const auto tokenizer = sentence_piece("Gemma");
  EXPECT_EQ(tokenizer->token_bytes(tokenizer->token_id("<0xE4>").value()), "\xE4");
  EXPECT_EQ(tokenizer->token_bytes(tokenizer->token_id("\xE2\x96\x81the").value()), " the");
  EXPECT_EQ(tokenizer->token_bytes(tokenizer->token_id("<|im_end|>").value()), "<|im_end|>");
  EXPECT_EQ(tokenizer->token_bytes(1 << 30), "");
}

TEST(FamilyTokenizer, ALongTextWithoutWordsIsNotQuadratic) {
  const auto tokenizer = sentence_piece("Gemma");
  std::string text;
  for (int i = 0; i < 1 << 18; ++i)
    text += i % 7 == 0 ? " the" : i % 11 == 0 ? "\xE6\xB0\xB4" : "x";
  EXPECT_EQ(tokenizer->decode(tokenizer->encode(text)), text);
}

std::string error_of(const json& more) {
  try {
    sentence_piece("Gemma", more)->encode("a b");
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kBadInput);
    EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos) << error.what();
    return error.what();
  }
  return "no error";
}

TEST(FamilyTokenizer, WhatIsNotKnownIsNamed) {
  const auto replace = [](const json& pattern, const std::string& content) {
    return json{{"type", "Replace"}, {"pattern", pattern}, {"content", content}};
  };
  const json space = {{"String", " "}};
  EXPECT_EQ(error_of({}), "no error");
  EXPECT_THAT(error_of({{"model", {{"unk_token", "<none>"}, {"byte_fallback", false}}}}),
              HasSubstr("<none>"));
  EXPECT_THAT(error_of({{"decoder", {{"type", "WordPiece"}}}}), HasSubstr("WordPiece"));
  EXPECT_THAT(error_of({{"decoder",
                         {{"type", "Sequence"},
                          {"decoders", {{{"type", "Fuse"}}, {{"type", "ByteFallback"}}}}}}}),
              HasSubstr("behind Fuse"));
  EXPECT_THAT(error_of({{"decoder", {{"type", "Strip"}, {"content", " "}, {"start", -1}}}}),
              HasSubstr("not a small number"));
  EXPECT_THAT(error_of({{"normalizer", replace(space, std::string(65, 'x'))}}),
              HasSubstr("too long"));
  EXPECT_THAT(error_of({{"normalizer", replace({{"String", ""}}, "x")}}),
              HasSubstr("empty pattern"));
  EXPECT_THAT(error_of({{"normalizer",
                         {{"type", "Replace"},
                          {"pattern", {{"Regex", "q*"}, {"String", nullptr}}},
                          {"content", "x"}}}}),
              HasSubstr("finds an empty text"));
  json growing = json::array();
  for (int i = 0; i < 60; ++i) growing.push_back(replace({{"String", "a"}}, "aaaaaaaa"));
  EXPECT_THAT(error_of({{"normalizer", {{"type", "Sequence"}, {"normalizers", growing}}}}),
              HasSubstr("too long"));
  EXPECT_THAT(error_of({{"pre_tokenizer",
                         {{"type", "Metaspace"},
                          {"replacement", "_"},
                          {"add_prefix_space", false},
                          {"prepend_scheme", "first"}}}}),
              HasSubstr("add_prefix_space"));
}

}  // namespace
}  // namespace moe4
