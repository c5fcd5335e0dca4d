// Tokenizers, templates and end tokens out of metadata: those of the folder that llama.cpp's
// converter read, and what is refused.
#include "text/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "checkpoint/generation_config.h"
#include "gguf/gguf_writer.h"
#include "support/temp_dir.h"
#include "text/builtin_templates.h"
#include "text/template_files.h"

namespace moe4 {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::ElementsAre;
using testing::GgufWriter;
using ::testing::HasSubstr;
using testing::TempDir;
using ::testing::UnorderedElementsAre;

const char* const kTexts[] = {
    "Hello, world",
    "It's 1984, isn't it? WE'LL see 12345 6.7",
    "<|im_start|>user\nwhat <|im_end|>\n<|endoftext|><|return|>",
    "  two  spaces\n\n\nlines\t\ttabs \r\n",
    "für Größe, naïve cafe\xcc\x81",
    "你好世界 こんにちは 안녕",
    "🙂🙃 e\xcc\x81 \xff broken",
    "",
};

void expect_same(const fs::path& file, const fs::path& folder) {
  const auto a = Tokenizer::load(file), b = Tokenizer::load(folder);
  EXPECT_EQ(a->vocab_size(), b->vocab_size());
  for (const char* text : kTexts) {
    const std::vector<int32_t> ids = b->encode(text);
    EXPECT_EQ(a->encode(text), ids) << text;
    EXPECT_EQ(a->decode(ids), b->decode(ids)) << text;
    EXPECT_EQ(a->decode(ids, false), b->decode(ids, false)) << text;
  }
  for (int32_t id = 0; id < b->vocab_size(); ++id) {
    EXPECT_EQ(a->token_bytes(id), b->token_bytes(id)) << id;
    EXPECT_EQ(a->is_special(id), b->is_special(id)) << id;
  }
}

TEST(GgufTokenizer, OfQwenIsTheFolders) {
  const fs::path data = fs::path(MOE4_TEST_DATA) / "gguf";
  expect_same(data / "qwen3_moe_nvfp4.gguf", data / "qwen3_moe_nvfp4");
}

TEST(GgufTokenizer, OfGptOssIsTheFolders) {
  const fs::path data = MOE4_TEST_DATA;
  expect_same(data / "gguf/gpt_oss_mxfp4.gguf", data / "checkpoints/gpt_oss-mxfp4");
}

// Of texts that begin with a space marker or are empty, transformers' tokenizer.json, whose steps
// are followed here, makes the same as SentencePiece.
TEST(GgufTokenizer, OfScoresIsSentencePieces) {
  const fs::path data = fs::path(MOE4_TEST_DATA) / "gguf";
  const auto tokenizer = Tokenizer::load(data / "sentencepiece.gguf");
  const auto cases = nlohmann::json::parse(std::ifstream(data / "sentencepiece.json"));
  ASSERT_GE(cases.size(), 8u);
  for (const auto& one : cases) {
    const auto text = one["text"].get<std::string>();
    const auto ids = one["ids"].get<std::vector<int32_t>>();
    EXPECT_EQ(tokenizer->encode(text), ids) << text;
    EXPECT_EQ(tokenizer->decode(ids), one["decoded"].get<std::string>()) << text;
  }
}

// What tokenizers makes of the same texts with the tokenizer.json that was converted; two of its
// added tokens, <table> and <unused1>, are plain tokens in the file.
TEST(GgufTokenizer, OfGemma4IsThatOfTheTokenizersLibrary) {
  const fs::path data = fs::path(MOE4_TEST_DATA) / "gguf";
  const auto tokenizer = Tokenizer::load(data / "gemma4.gguf");
  const auto cases = nlohmann::json::parse(std::ifstream(data / "gemma4.json"));
  ASSERT_GE(cases.size(), 12u);
  for (const auto& one : cases) {
    const auto text = one["text"].get<std::string>();
    const auto ids = one["ids"].get<std::vector<int32_t>>();
    EXPECT_EQ(tokenizer->encode(text), ids) << text;
    EXPECT_EQ(tokenizer->decode(ids, false), one["decoded"].get<std::string>()) << text;
  }
  EXPECT_EQ(tokenizer->encode("<table>").size(), 1u);
  EXPECT_FALSE(tokenizer->is_special(tokenizer->encode("<table>").front()));
  EXPECT_TRUE(tokenizer->is_special(tokenizer->encode("<|turn>").front()));
}

TEST(GgufTokenizer, TurnsOfGemma4EndWithEitherToken) {
  const fs::path file = fs::path(MOE4_TEST_DATA) / "gguf/gemma4.gguf";
  const auto tokenizer = Tokenizer::load(file);
  std::vector<CheckpointNote> notes;
  EXPECT_THAT(
      read_config_eos_ids(file, notes),
      UnorderedElementsAre(tokenizer->encode("<eos>").at(0), tokenizer->encode("<turn|>").at(0)));
}

// DeepSeek's encoders as templates, as a folder without one gets.
TEST(GgufTokenizer, DeepSeeksWithoutATemplateHaveMoe4s) {
  TempDir dir;
  for (const auto& [architecture, model_type] :
       {std::pair("deepseek32", "deepseek_v32"), std::pair("deepseek4", "deepseek_v4")}) {
    GgufWriter().text("general.architecture", architecture).write(dir / "m.gguf");
    const auto templates = find_templates(dir / "m.gguf");
    ASSERT_EQ(templates.size(), 1u) << architecture;
    EXPECT_EQ(templates[0].source, builtin_template(model_type));
    EXPECT_THAT(templates[0].file, HasSubstr(model_type));
    GgufWriter own;
    own.text("general.architecture", architecture).text("tokenizer.chat_template", "own");
    own.write(dir / "m.gguf");
    EXPECT_EQ(find_templates(dir / "m.gguf").at(0).source, "own");
  }
  GgufWriter().text("general.architecture", "qwen3moe").write(dir / "m.gguf");
  EXPECT_TRUE(find_templates(dir / "m.gguf").empty());
}

TEST(GgufTokenizer, TemplateAndEndTokensAreTheFolders) {
  const fs::path data = fs::path(MOE4_TEST_DATA) / "gguf";
  const auto of_file = find_templates(data / "qwen3_moe_nvfp4.gguf");
  const auto of_folder = find_templates(data / "qwen3_moe_nvfp4");
  ASSERT_EQ(of_folder.size(), 1u);
  ASSERT_EQ(of_file.size(), 1u);
  EXPECT_EQ(of_file[0].source, of_folder[0].source);
  std::vector<CheckpointNote> notes;
  EXPECT_EQ(read_config_eos_ids(data / "qwen3_moe_nvfp4.gguf", notes),
            read_config_eos_ids(data / "qwen3_moe_nvfp4", notes));
  const GenerationConfig config = read_generation_config(data / "qwen3_moe_nvfp4.gguf", notes);
  const GenerationConfig wanted = read_generation_config(data / "qwen3_moe_nvfp4", notes);
  EXPECT_EQ(config.top_k, wanted.top_k);
  EXPECT_EQ(config.top_p, wanted.top_p);
  EXPECT_EQ(config.temperature, wanted.temperature);
  EXPECT_EQ(config.do_sample, wanted.do_sample);
  EXPECT_TRUE(notes.empty());
}

GgufWriter small(const std::string& pre = "qwen2", const std::string& model = "gpt2") {
  GgufWriter file;
  file.text("tokenizer.ggml.model", model).text("tokenizer.ggml.pre", pre);
  return file;
}

std::string error_of(const GgufWriter& file) {
  TempDir dir;
  file.write(dir / "m.gguf");
  try {
    (void)Tokenizer::load(dir / "m.gguf");
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kBadInput);
    EXPECT_THAT(error.what(), HasSubstr("m.gguf"));
    return error.what();
  }
  return "";
}

TEST(GgufTokenizer, UnknownKindsAreNamed) {
  EXPECT_THAT(error_of(small("qwen2", "rwkv")),
              AllOf(HasSubstr("tokenizer.ggml.model"), HasSubstr("rwkv")));
  EXPECT_THAT(error_of(small("qwen99")),
              AllOf(HasSubstr("tokenizer.ggml.pre"), HasSubstr("qwen99"), HasSubstr("gpt-4o")));
  EXPECT_THAT(error_of(GgufWriter().text("tokenizer.ggml.model", "gpt2")),
              AllOf(HasSubstr("lacks a key"), HasSubstr("tokenizer.ggml.pre")));
}

TEST(GgufTokenizer, ListsThatDoNotFitAreNamed) {
  const std::string tokens = "tokenizer.ggml.tokens", types = "tokenizer.ggml.token_type",
                    merges = "tokenizer.ggml.merges";
  EXPECT_THAT(error_of(small()), HasSubstr(tokens));
  EXPECT_THAT(error_of(small().texts(tokens, {"a"})), HasSubstr(merges));
  EXPECT_THAT(error_of(small().texts(tokens, {"a"}).texts(merges, {}).i32s(types, {1, 1})),
              AllOf(HasSubstr("wrong length"), HasSubstr(types)));
  EXPECT_THAT(error_of(small().texts(tokens, {"a"}).texts(merges, {}).i32s(types, {9})),
              AllOf(HasSubstr("type of a token"), HasSubstr(types)));
  for (const char* bad : {"a", "", "a b c"}) {
    EXPECT_THAT(error_of(small().texts(tokens, {"a"}).texts(merges, {bad})),
                AllOf(HasSubstr("malformed merge"), HasSubstr(merges)));
  }
  EXPECT_NE(error_of(small().texts(tokens, {"a"}).texts(merges, {"a b"})), "");
}

TEST(GgufTokenizer, ScoresThatDoNotFitAreNamed) {
  const std::string tokens = "tokenizer.ggml.tokens", scores = "tokenizer.ggml.scores";
  const auto spm = [] { return small("", "llama"); };
  EXPECT_THAT(error_of(spm().texts(tokens, {"a"})), HasSubstr(scores));
  EXPECT_THAT(error_of(spm().texts(tokens, {"a"}).f32s(scores, {1, 2})), HasSubstr(scores));
  EXPECT_THAT(error_of(spm().texts(tokens, {"a"}).f32s(scores, {NAN})), HasSubstr("finite score"));
  EXPECT_THAT(error_of(spm().texts(tokens, {std::string(300, 'a')}).f32s(scores, {1})),
              HasSubstr("256 bytes"));
}

TEST(GgufTokenizer, OfGemma4WhatDoesNotFitIsNamed) {
  const auto file = [] { return small("", "gemma4").texts("tokenizer.ggml.tokens", {"a", "b"}); };
  EXPECT_THAT(error_of(file()), HasSubstr("tokenizer.ggml.merges"));
  const auto whole = [&] { return file().texts("tokenizer.ggml.merges", {}); };
  EXPECT_EQ(error_of(whole()), "");
  EXPECT_THAT(error_of(whole().i32s("tokenizer.ggml.token_type", {1, 7})),
              HasSubstr("tokenizer.ggml.token_type"));
  EXPECT_THAT(error_of(file().texts("tokenizer.ggml.merges", {"ab"})),
              HasSubstr("malformed merge"));
}

TEST(GgufTokenizer, NamedTemplatesAreAllThere) {
  TempDir dir;
  GgufWriter file;
  file.text("tokenizer.chat_template", "one").texts("tokenizer.chat_templates", {"tool_use"});
  file.text("tokenizer.chat_template.tool_use", "two");
  file.texts("tokenizer.ggml.tokens", {"<s>", "x"}).u32("tokenizer.ggml.bos_token_id", 0);
  file.write(dir / "m.gguf");
  const auto templates = find_templates(dir / "m.gguf");
  ASSERT_EQ(templates.size(), 2u);
  EXPECT_EQ(templates[0].name, "default");
  EXPECT_EQ(templates[0].source, "one");
  EXPECT_EQ(templates[1].name, "tool_use");
  EXPECT_EQ(templates[1].source, "two");
  EXPECT_THAT(find_special_tokens(dir / "m.gguf"),
              ElementsAre(std::pair<std::string, std::string>("bos_token", "\"<s>\"")));
}

}  // namespace
}  // namespace moe4
