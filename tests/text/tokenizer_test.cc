// The tokenizer against what Hugging Face tokenizers computed (scripts/make_text_goldens.py).
#include "text/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "text/utf8.h"

namespace moe4 {
namespace {

using nlohmann::json;
using testing::HasSubstr;

const json& goldens() {
  static const json loaded =
      json::parse(std::ifstream(MOE4_TEST_DATA "/text/tokenizer_goldens.json"));
  return loaded;
}

const Tokenizer& embedded() {
  static const auto tokenizer =
      Tokenizer::load(std::string(MOE4_EMBEDDED_MODELS) + "/tiny-qwen3_5-moe-nvfp4");
  return *tokenizer;
}

std::unique_ptr<Tokenizer> patched(const json& patch) {
  json tree = goldens()["base"];
  tree.merge_patch(patch);
  return Tokenizer::parse(tree.dump(), "patched");
}

void expect_encodes(const Tokenizer& tokenizer, const json& cases) {
  for (const json& one : cases) {
    EXPECT_EQ(tokenizer.encode(one["text"].get<std::string>()),
              one["ids"].get<std::vector<int32_t>>())
        << one["text"].dump(-1, ' ', true);
  }
}

void expect_decodes(const Tokenizer& tokenizer, const json& cases) {
  for (const json& one : cases) {
    const auto ids = one["ids"].get<std::vector<int32_t>>();
    const bool skip = one["skip_special"].get<bool>();
    EXPECT_EQ(tokenizer.decode(ids, skip), one["text"].get<std::string>()) << one["ids"].dump();
    StreamDecoder stream(tokenizer, skip);
    std::string streamed;
    for (const int32_t id : ids) {
      streamed += stream.push(id);
    }
    EXPECT_EQ(streamed + stream.finish(), one["text"].get<std::string>()) << one["ids"].dump();
  }
}

std::string error_of(const std::string& text) {
  try {
    Tokenizer::parse(text, "bad.json");
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kBadInput);
    EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos) << error.what();
    return error.what();
  }
  return "no error";
}

std::string error_of_patch(const json& patch) {
  json tree = goldens()["base"];
  tree.merge_patch(patch);
  return error_of(tree.dump());
}

TEST(Tokenizer, EncodesAsUpstreamWithTheEmbeddedVocabulary) {
  expect_encodes(embedded(), goldens()["embedded"]["encode"]);
}

TEST(Tokenizer, DecodesAndStreamsAsUpstreamWithTheEmbeddedVocabulary) {
  expect_decodes(embedded(), goldens()["embedded"]["decode"]);
}

TEST(Tokenizer, EncodesAndDecodesAsUpstreamWithOtherConstructs) {
  for (const json& variant : goldens()["variants"]) {
    SCOPED_TRACE(variant["name"].get<std::string>());
    const auto tokenizer = patched(variant["patch"]);
    expect_encodes(*tokenizer, variant["encode"]);
    expect_decodes(*tokenizer, variant["decode"]);
  }
}

TEST(Tokenizer, DecodeIsTheInverseOfEncodeForNormalText) {
  for (const json& one : goldens()["embedded"]["encode"]) {
    const auto ids = embedded().encode(one["text"].get<std::string>());
    const std::string text = embedded().decode(ids, false);
    EXPECT_EQ(embedded().encode(text), ids) << one["text"].dump(-1, ' ', true);
  }
}

TEST(Tokenizer, ReadsMergesAsPairsAndAsStrings) {
  json tree = goldens()["base"];
  for (json& merge : tree["model"]["merges"]) {
    const auto line = merge.get<std::string>();
    const size_t space = line.find(' ');
    merge = {line.substr(0, space), line.substr(space + 1)};
  }
  const auto pairs = Tokenizer::parse(tree.dump(), "pairs");
  const auto strings = patched(json::object());
  for (const json& one : goldens()["embedded"]["encode"]) {
    const auto text = one["text"].get<std::string>();
    EXPECT_EQ(pairs->encode(text), strings->encode(text));
  }
}

TEST(Tokenizer, InvalidUtf8EncodesAsReplacementCharacters) {
  for (const std::string text : {"a\xFFz", "\xC3", "\xE4\xBD", "\xF0\x9F\x98 x", "\xED\xA0\x80",
                                 "\xC0\x80", "\xF5\x80\x80\x80", "\x80\x80", "ok \xE2\x82"}) {
    EXPECT_EQ(embedded().encode(text), embedded().encode(utf8_lossy(text)));
    EXPECT_THAT(embedded().decode(embedded().encode(text)), HasSubstr("\xEF\xBF\xBD"));
  }
  EXPECT_EQ(utf8_lossy("\xF0\x9F\x98 x\xE4\xBD"), "\xEF\xBF\xBD x\xEF\xBF\xBD");
  EXPECT_EQ(utf8_lossy("\xED\xA0\x80"), "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD");
}

// Python's bytes.decode("utf-8", "replace").
TEST(Tokenizer, BytesThatAreNotUtf8AreRepairedAsPythonDoes) {
  for (const json& one : goldens()["utf8"]) {
    const auto hex = one["bytes"].get<std::string>();
    const auto expected = one["text"].get<std::string>();
    std::string bytes;
    for (size_t i = 0; i < hex.size(); i += 2) {
      bytes += static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16));
    }
    EXPECT_EQ(utf8_lossy(bytes), expected) << hex;
    EXPECT_EQ(embedded().encode(bytes), embedded().encode(expected)) << hex;
    for (size_t cut = 0; cut <= bytes.size(); ++cut) {
      // What is held back at the cut is read again together with the rest.
      std::string text;
      const size_t used =
          append_utf8_lossy(std::string_view(bytes).substr(0, cut), /*final=*/false, &text);
      append_utf8_lossy(std::string_view(bytes).substr(used), /*final=*/true, &text);
      EXPECT_EQ(text, expected) << hex << " cut at " << cut;
    }
  }
}

TEST(Tokenizer, LookupsAgreeWithTheFile) {
  EXPECT_EQ(embedded().vocab_size(), 4096);
  EXPECT_EQ(embedded().token_id("<|im_end|>"), 4095);
  EXPECT_EQ(embedded().token_bytes(4095), "<|im_end|>");
  EXPECT_TRUE(embedded().is_special(4095));
  EXPECT_FALSE(embedded().is_special(5));
  const auto the = embedded().token_id("\xC4\xA0the");  // Ġthe
  ASSERT_TRUE(the.has_value());
  EXPECT_EQ(embedded().token_bytes(*the), " the");
  EXPECT_EQ(embedded().token_id("no such token"), std::nullopt);
  EXPECT_EQ(embedded().token_bytes(-1), "");
  EXPECT_EQ(embedded().token_bytes(1 << 30), "");
  EXPECT_EQ(embedded().decode({-5, 1 << 30}), "");
}

TEST(Tokenizer, StreamingHoldsBackHalfACharacterOnly) {
  std::vector<int32_t> smile;
  for (const char* spelling : {"\xC3\xB0", "\xC5\x81", "\xC4\xBA", "\xC4\xA2"}) {
    smile.push_back(embedded().token_id(spelling).value());
  }
  ASSERT_EQ(embedded().decode(smile), "\xF0\x9F\x98\x80");
  StreamDecoder stream(embedded());
  EXPECT_EQ(stream.push(smile[0]), "");
  EXPECT_EQ(stream.push(smile[1]), "");
  EXPECT_EQ(stream.push(smile[2]), "");
  EXPECT_EQ(stream.push(smile[3]), "\xF0\x9F\x98\x80");
  EXPECT_EQ(stream.push(smile[0]), "");
  EXPECT_EQ(stream.push(*embedded().token_id("a")), "\xEF\xBF\xBD\x61");
  EXPECT_EQ(stream.push(smile[0]), "");
  EXPECT_EQ(stream.finish(), "\xEF\xBF\xBD");
  EXPECT_EQ(stream.finish(), "");
}

TEST(Tokenizer, AMegabyteWordIsNotQuadratic) {
  std::string word;
  for (int i = 0; i < 1 << 20; ++i) word += static_cast<char>('a' + (i * 7 + i / 26) % 26);
  const auto ids = embedded().encode(word);
  EXPECT_EQ(embedded().decode(ids), word);
  const std::string spaces(1 << 20, ' ');
  EXPECT_EQ(embedded().decode(embedded().encode(spaces)), spaces);
}

TEST(Tokenizer, AMegabyteOfCombiningMarksIsNotQuadratic) {
  std::string marks = "a";
  for (int i = 0; i < 1 << 18; ++i) marks += i % 2 == 0 ? "\xCC\x81" : "\xCC\xA3";
  const std::string text = embedded().decode(embedded().encode(marks));
  EXPECT_EQ(text.substr(0, 7), "\xE1\xBA\xA1\xCC\xA3\xCC\xA3");
}

TEST(Tokenizer, UnknownConstructsAreNamed) {
  const auto pre = [](const json& part) {
    return json{{"pre_tokenizer",
                 {{"type", "Sequence"},
                  {"pretokenizers", {part, {{"type", "ByteLevel"}, {"use_regex", false}}}}}}};
  };
  const auto regex = [&](const char* pattern, const char* behavior = "Isolated") {
    return pre({{"type", "Split"}, {"pattern", {{"Regex", pattern}}}, {"behavior", behavior}});
  };
  EXPECT_THAT(error_of_patch({{"model", {{"type", "Unigram"}}}}), HasSubstr("Unigram"));
  EXPECT_THAT(error_of_patch({{"model", {{"byte_fallback", true}, {"vocab", {{"~", nullptr}}}}}}),
              HasSubstr("byte_fallback"));
  EXPECT_THAT(error_of_patch({{"model", {{"dropout", 0.1}}}}), HasSubstr("unsupported dropout"));
  EXPECT_EQ(error_of_patch({{"model", {{"dropout", 0.0}}}}), "no error");
  EXPECT_THAT(error_of_patch({{"model", {{"end_of_word_suffix", "</w>"}}}}), HasSubstr("</w>"));
  EXPECT_THAT(error_of_patch({{"normalizer", {{"type", "Lowercase"}}}}), HasSubstr("Lowercase"));
  EXPECT_THAT(error_of_patch(pre({{"type", "Whitespace"}})), HasSubstr("Whitespace"));
  EXPECT_THAT(error_of_patch(pre({{"type", "Metaspace"}, {"replacement", "ab"}})),
              HasSubstr("not one character"));
  EXPECT_THAT(error_of_patch(pre({{"type", "Metaspace"}, {"replacement", ""}})),
              HasSubstr("not one character"));
  EXPECT_THAT(error_of_patch(pre(
                  {{"type", "Metaspace"}, {"replacement", "_"}, {"prepend_scheme", "sometimes"}})),
              HasSubstr("sometimes"));
  // Without ByteLevel the model is one of texts, which its decoder must fit.
  EXPECT_THAT(error_of_patch({{"pre_tokenizer", nullptr}}), HasSubstr("found ByteLevel"));
  EXPECT_THAT(error_of_patch(pre({{"type", "ByteLevel"}})), HasSubstr("after ByteLevel"));
  EXPECT_THAT(error_of_patch({{"decoder", {{"type", "Metaspace"}}}}), HasSubstr("Metaspace"));
  EXPECT_THAT(error_of_patch({{"post_processor", {{"type", "Mystery"}}}}), HasSubstr("Mystery"));
  EXPECT_THAT(error_of_patch(regex("x", "Sideways")), HasSubstr("Sideways"));
  EXPECT_THAT(error_of_patch(regex("[a&&b]")), HasSubstr("&&"));
  EXPECT_THAT(error_of_patch(regex("[^a&&[b]]")), HasSubstr("&&"));
  EXPECT_THAT(error_of_patch(regex("[a&&[b]c]")), HasSubstr("behind a class intersection"));
  EXPECT_THAT(error_of_patch(regex("[a&&[b&&[c]]]")), HasSubstr("&&"));
  EXPECT_THAT(error_of_patch(regex("[a&&[b")), HasSubstr("behind a class intersection"));
  EXPECT_THAT(error_of_patch(regex("[a[b]]")), HasSubstr("inside a character class"));
  EXPECT_THAT(error_of_patch(regex("\\bx")), HasSubstr("\\b"));
  EXPECT_THAT(error_of_patch(regex("a{1,3}+")), HasSubstr("{n,m}+"));
  EXPECT_THAT(error_of_patch(regex("(*LIMIT_MATCH=1)a")), HasSubstr("(*"));
  EXPECT_THAT(error_of_patch(regex("(a")), HasSubstr("offset"));
  EXPECT_THAT(error_of_patch(regex("(a")), HasSubstr("pre_tokenizer)"));
  for (const char* pattern : {"[]a]", "[^]a]", "[a&&[]b]]", "[a&&[^]b]]"}) {
    EXPECT_THAT(error_of_patch(regex(pattern)), HasSubstr("a ] that opens a character class"))
        << pattern;
  }
  EXPECT_THAT(error_of_patch(regex("\\p{Klingon}")), HasSubstr("Klingon"));
}

TEST(Tokenizer, BadVocabulariesAreRefused) {
  const auto vocab = [](const std::string& text) {
    return error_of(R"({"model":{"type":"BPE","vocab":)" + text + R"(,"merges":[]}})");
  };
  EXPECT_THAT(vocab("{}"), HasSubstr("empty"));
  EXPECT_THAT(vocab(R"({"a":0,"b":0})"), HasSubstr("given twice"));
  EXPECT_THAT(vocab(R"({"a":0,"a":1})"), HasSubstr("listed twice"));
  EXPECT_THAT(vocab(R"({"a":-1})"), HasSubstr("out of range"));
  EXPECT_THAT(vocab(R"({"a":2147483648})"), HasSubstr("out of range"));
  EXPECT_THAT(vocab(R"({"a":18446744073709551616})"), HasSubstr("unexpected JSON value"));
  EXPECT_THAT(vocab(R"({"a":2147483647})"), HasSubstr("holes"));
  EXPECT_THAT(vocab(R"({"a":"b"})"), HasSubstr("unexpected JSON value"));
  EXPECT_THAT(vocab(R"({"a":[0]})"), HasSubstr("unexpected JSON value"));
  const auto merges = [](const std::string& text) {
    return error_of(R"({"model":{"type":"BPE","vocab":{"a":0,"b":1},"merges":)" + text + "}}");
  };
  EXPECT_THAT(merges(R"(["a b"])"), HasSubstr("vocabulary lacks"));
  EXPECT_THAT(merges(R"(["a c"])"), HasSubstr("vocabulary lacks"));
  EXPECT_THAT(merges(R"(["ab"])"), HasSubstr("malformed merge"));
  EXPECT_THAT(merges(R"(["a b c"])"), HasSubstr("malformed merge"));
  EXPECT_THAT(merges(R"([["a"]])"), HasSubstr("malformed merge"));
  EXPECT_THAT(merges(R"([["a","b","c"]])"), HasSubstr("malformed merge"));
  EXPECT_THAT(merges(R"([1])"), HasSubstr("unexpected JSON value"));
}

TEST(Tokenizer, BadAddedTokensAreRefused) {
  const auto added = [](const json& tokens) { return error_of_patch({{"added_tokens", tokens}}); };
  EXPECT_THAT(added({{{"id", 600}, {"content", "<x>"}}, {{"id", 600}, {"content", "<y>"}}}),
              HasSubstr("given twice"));
  EXPECT_THAT(added({{{"id", 600}, {"content", "<x>"}}, {{"id", 601}, {"content", "<x>"}}}),
              HasSubstr("given twice"));
  EXPECT_THAT(added({{{"id", 3}, {"content", "<x>"}}}), HasSubstr("disagrees"));
  EXPECT_THAT(added({{{"id", -1}, {"content", "<x>"}}}), HasSubstr("out of range"));
  EXPECT_THAT(added({{{"id", 2147483647}, {"content", "<x>"}}}), HasSubstr("out of range"));
  EXPECT_THAT(added({{{"content", "<x>"}}}), HasSubstr("out of range"));
  EXPECT_THAT(added({{{"id", 600}, {"content", std::string(2000, 'x')}}}), HasSubstr("too long"));
}

TEST(Tokenizer, BrokenJsonIsRefusedInOneLine) {
  EXPECT_THAT(error_of(""), HasSubstr("not valid JSON"));
  EXPECT_THAT(error_of("{\"model\":"), HasSubstr("not valid JSON"));
  EXPECT_THAT(error_of("[]"), HasSubstr("not an object"));
  EXPECT_THAT(error_of("{}"), HasSubstr("no model"));
  EXPECT_THAT(error_of(std::string(100000, '[')), HasSubstr("nested too deeply"));
  EXPECT_THAT(error_of("{\"model\":{\"vocab\":{\"\xFF\":0}}}"), HasSubstr("not valid JSON"));
}

TEST(Tokenizer, AHostileRegularExpressionFailsInsteadOfHanging) {
  const auto tokenizer = patched({{"pre_tokenizer",
                                   {{"type", "Sequence"},
                                    {"pretokenizers",
                                     {{{"type", "Split"},
                                       {"pattern", {{"Regex", "(?:a|a|aa)+[!?]"}}},
                                       {"behavior", "Isolated"}},
                                      {{"type", "ByteLevel"}, {"use_regex", false}}}}}}});
  EXPECT_THROW(tokenizer->encode(std::string(5000, 'a')), Error);
}

}  // namespace
}  // namespace moe4
