// What generation_config.json, config.json and the tokenizer's files say about generation.
#include "engine/generation_defaults.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <map>

#include "support/byte_tokenizer.h"
#include "support/temp_dir.h"

namespace moe4 {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

using Files = std::map<std::string, std::string>;

GenerationDefaults read(const Files& files) {
  const testing::TempDir folder;
  for (const auto& [name, text] : files) std::ofstream(folder / name) << text;
  const auto tokenizer = Tokenizer::parse(testing::byte_tokenizer_json(), "test");
  return read_generation_defaults(folder.path(), *tokenizer, 260);
}

std::vector<int32_t> stops(const Files& files) {
  const GenerationDefaults defaults = read(files);
  EXPECT_THAT(defaults.notes, IsEmpty());
  return defaults.stop_token_ids();
}

constexpr char kGeneration[] = "generation_config.json";
constexpr char kConfig[] = "config.json";
constexpr char kTokenizer[] = "tokenizer_config.json";
constexpr char kMap[] = "special_tokens_map.json";

TEST(GenerationDefaults, EndTokensAreTheUnionOfAllFiles) {
  EXPECT_THAT(
      stops({{kGeneration, R"({"eos_token_id": [10, 11, 10]})"},
             {kConfig, R"({"eos_token_id": 12, "text_config": {"eos_token_id": [13, 11]}})"},
             {kTokenizer, R"({"eos_token": "<|im_end|>"})"},
             {kMap, R"({"eos_token": {"content": "<|endoftext|>"}})"}}),
      ElementsAre(10, 11, 12, 13, testing::kImEnd, testing::kEndOfText));
}

TEST(GenerationDefaults, EndTokensOfATextModelInsideAnyWrapperCount) {
  for (const std::string wrapper :
       {"text_config", "llm_config", "language_config", "thinker_config"}) {
    EXPECT_THAT(stops({{kConfig, R"({")" + wrapper + R"(": {"eos_token_id": [12, 13]}})"}}),
                ElementsAre(12, 13))
        << wrapper;
  }
  EXPECT_THAT(stops({{kConfig, R"({"thinker_config": {"text_config": {"eos_token_id": 14}}})"}}),
              ElementsAre(14));
  EXPECT_THAT(stops({{kConfig, R"({"vision_config": {"eos_token_id": 15}})"}}), IsEmpty());
}

// As MiniMax-M2's files do: 2 is a letter of its vocabulary.
TEST(GenerationDefaults, OrdinaryTextInConfigIsNoEndWhereAnotherFileKnowsBetter) {
  const std::string generation = R"({"eos_token_id": 258})", config = R"({"eos_token_id": 35})";
  const GenerationDefaults both = read({{kGeneration, generation}, {kConfig, config}});
  EXPECT_THAT(both.stop_token_ids(), ElementsAre(testing::kImEnd));
  ASSERT_EQ(both.notes.size(), 1u);
  EXPECT_THAT(both.notes[0].message, AllOf(HasSubstr("35 '#'"), HasSubstr("not used")));
  EXPECT_THAT(stops({{kConfig, config}}), ElementsAre(35));
  EXPECT_THAT(stops({{kGeneration, generation}, {kConfig, R"({"eos_token_id": 256})"}}),
              ElementsAre(testing::kImEnd, testing::kEndOfText));
}

// 310 + : startoftext endoftext return constrain channel start end message call endofprompt.
TEST(GenerationDefaults, HarmonyEndsAtReturnAndCallAndNeverAtTheEndOfAChannel) {
  const auto folder = std::filesystem::path(MOE4_TEST_DATA) / "checkpoints/gpt_oss-mxfp4";
  const auto tokenizer = Tokenizer::load(folder);
  const GenerationDefaults published = read_generation_defaults(folder, *tokenizer, 320);
  EXPECT_THAT(published.stop_token_ids(), ElementsAre(312, 311, 318));
  EXPECT_THAT(published.notes, IsEmpty());
  const auto with = [&](const char* ids) {
    const testing::TempDir other;
    std::ofstream(other / kGeneration) << R"({"eos_token_id": )" << ids << "}";
    return read_generation_defaults(other.path(), *tokenizer, 320);
  };
  EXPECT_THAT(with("312").stop_token_ids(), ElementsAre(312, 318));  // files of the first days
  const GenerationDefaults wrong = with("[316, 312]");
  EXPECT_THAT(wrong.stop_token_ids(), ElementsAre(312, 318));
  ASSERT_EQ(wrong.notes.size(), 1u);
  EXPECT_THAT(wrong.notes[0].message, AllOf(HasSubstr("316"), HasSubstr("<|end|>")));
}

TEST(GenerationDefaults, EachFileAloneIsEnough) {
  EXPECT_THAT(stops({{kGeneration, R"({"eos_token_id": 10})"}}), ElementsAre(10));
  EXPECT_THAT(stops({{kGeneration, R"({"eos_token_id": [10, 258]})"}}), ElementsAre(10, 258));
  EXPECT_THAT(stops({{kConfig, R"({"eos_token_id": [7, 8]})"}}), ElementsAre(7, 8));
  EXPECT_THAT(stops({{kConfig, R"({"eos_token_id": null, "text_config": {"eos_token_id": 9}})"}}),
              ElementsAre(9));
  EXPECT_THAT(stops({{kConfig, R"({"thinker_config": {"text_config": {"eos_token_id": 4}},
                           "talker_config": {"eos_token_id": 5}})"}}),
              ElementsAre(4));
  EXPECT_THAT(stops({{kTokenizer, R"({"eos_token": {"content": "<|im_end|>", "lstrip": false}})"}}),
              ElementsAre(258));
  EXPECT_THAT(stops({{kMap, R"({"eos_token": "<|endoftext|>"})"}}), ElementsAre(256));
  EXPECT_THAT(stops({}), IsEmpty());
  EXPECT_THAT(stops({{kGeneration, R"({"eos_token_id": null})"},
                     {kConfig, "{}"},
                     {kTokenizer, R"({"eos_token": null})"}}),
              IsEmpty());
  EXPECT_THAT(stops({{kGeneration, R"({"eos_token_id": [null, 3]})"}}), ElementsAre(3));
}

TEST(GenerationDefaults, EveryEndTokenSaysWhereItComesFrom) {
  const GenerationDefaults defaults = read({{kGeneration, R"({"eos_token_id": 256})"},
                                            {kConfig, R"({"eos_token_id": 258})"},
                                            {kTokenizer, R"({"eos_token": "<|im_end|>"})"}});
  EXPECT_EQ(to_string(defaults.stop_tokens),
            "256 '<|endoftext|>' (generation_config.json); "
            "258 '<|im_end|>' (config.json, tokenizer_config.json)");
  EXPECT_THAT(to_string(std::vector<StopToken>()), HasSubstr("none"));
}

TEST(GenerationDefaults, EndTokensThatCannotBeUsedAreNotes) {
  for (const auto& [file, text] : std::vector<std::pair<std::string, std::string>>{
           {kGeneration, R"({"eos_token_id": "x"})"},
           {kGeneration, R"({"eos_token_id": -1})"},
           {kGeneration, R"({"eos_token_id": 1.5})"},
           {kGeneration, R"({"eos_token_id": 260})"},
           {kGeneration, R"({"eos_token_id": 18446744073709551615})"},
           {kConfig, R"({"eos_token_id": {}})"},
           {kConfig, R"({"text_config": {"eos_token_id": true}})"},
           {kTokenizer, R"({"eos_token": "</s>"})"},
           {kTokenizer, R"({"eos_token": 5})"},
           {kTokenizer, R"({"eos_token": {"text": "x"}})"},
           {kTokenizer, "{"},
           {kTokenizer, "[]"},
           {kMap, R"({"eos_token": ["x"]})"}}) {
    const GenerationDefaults defaults = read({{file, text}});
    EXPECT_THAT(defaults.stop_tokens, IsEmpty()) << text;
    ASSERT_EQ(defaults.notes.size(), 1u) << text;
    EXPECT_EQ(defaults.notes[0].where, file) << text;
    EXPECT_THAT(defaults.notes[0].message, HasSubstr("not used")) << text;
  }
  // One bad entry of a list costs no other.
  EXPECT_THAT(read({{kGeneration, R"({"eos_token_id": [5, "x", 6]})"}}).stop_token_ids(),
              ElementsAre(5, 6));
}

TEST(GenerationConfig, EveryFieldIsRead) {
  const GenerationDefaults defaults =
      read({{kGeneration, R"({"do_sample": true, "temperature": 0.6, "top_k": 20, "top_p": 0.95,
                              "min_p": 0.05, "repetition_penalty": 1.1})"}});
  EXPECT_THAT(defaults.notes, IsEmpty());
  const GenerationConfig& config = defaults.config;
  EXPECT_TRUE(config.do_sample);
  EXPECT_EQ(config.temperature, 0.6f);
  EXPECT_EQ(config.top_k, 20);
  EXPECT_EQ(config.top_p, 0.95f);
  EXPECT_EQ(config.min_p, 0.05f);
  EXPECT_EQ(config.repetition_penalty, 1.1f);
}

TEST(GenerationConfig, MissingAndNullKeysLeaveTheDefaults) {
  for (const char* text : {"{}", R"({"do_sample": null, "temperature": null, "top_k": null,
                                     "top_p": null, "min_p": null, "repetition_penalty": null})"}) {
    const GenerationDefaults defaults = read({{kGeneration, text}});
    EXPECT_THAT(defaults.notes, IsEmpty());
    EXPECT_FALSE(defaults.config.do_sample);
    EXPECT_EQ(defaults.config.temperature, 1.0f);
    EXPECT_EQ(defaults.config.top_k, 0);
    EXPECT_EQ(defaults.config.top_p, 1.0f);
    EXPECT_EQ(defaults.config.min_p, 0.0f);
    EXPECT_EQ(defaults.config.repetition_penalty, 1.0f);
  }
}

TEST(GenerationConfig, TopKOfMinusOneAndZeroAreNoLimit) {
  for (const char* text : {R"({"top_k": -1})", R"({"top_k": 0})"}) {
    const GenerationDefaults defaults = read({{kGeneration, text}});
    EXPECT_THAT(defaults.notes, IsEmpty());
    EXPECT_EQ(defaults.config.top_k, 0);
  }
}

// The bound itself is taken, what is beyond is a note, and the other keys hold.
TEST(GenerationConfig, ValuesOutOfRangeOrOfTheWrongTypeCostOnlyThemselves) {
  const struct {
    const char *key, *good, *bad;
  } cases[] = {{"temperature", "0", "-0.1"},
               {"temperature", "100", "100.5"},
               {"temperature", "1.5", "\"hot\""},
               {"temperature", "1", "NaN"},
               {"temperature", "1", "Infinity"},
               {"top_k", "2147483647", "2147483648"},
               {"top_k", "-1", "-2"},
               {"top_k", "5.0", "5.5"},
               {"top_p", "0", "-0.1"},
               {"top_p", "1", "1.1"},
               {"top_p", "0.5", "[]"},
               {"min_p", "1", "1.01"},
               {"min_p", "0", "-1"},
               {"repetition_penalty", "0.001", "0"},
               {"repetition_penalty", "1000", "1001"},
               {"do_sample", "false", "1"},
               {"do_sample", "false", "\"yes\""}};
  for (const auto& c : cases) {
    const auto with = [&](const std::string& value) {
      return read(
          {{kGeneration, R"({"eos_token_id": 5, ")" + std::string(c.key) + "\": " + value + "}"}});
    };
    EXPECT_THAT(with(c.good).notes, IsEmpty()) << c.key << " " << c.good;
    const GenerationDefaults bad = with(c.bad);
    ASSERT_EQ(bad.notes.size(), 1u) << c.key << " " << c.bad;
    EXPECT_THAT(bad.notes[0].message, AllOf(HasSubstr(c.key), HasSubstr("not used")));
    EXPECT_EQ(bad.config.temperature, 1.0f);
    EXPECT_EQ(bad.config.top_k, 0);
    EXPECT_EQ(bad.config.top_p, 1.0f);
    EXPECT_EQ(bad.config.min_p, 0.0f);
    EXPECT_EQ(bad.config.repetition_penalty, 1.0f);
    EXPECT_FALSE(bad.config.do_sample);
    EXPECT_THAT(bad.stop_token_ids(), ElementsAre(5));
  }
}

TEST(GenerationConfig, AFileThatIsNoJsonIsOneNoteThatNamesIt) {
  for (const std::string& text :
       {std::string("{\n \"eos_token_id\": 258,\n \"temperature\": 0.15,\n}\n"), std::string(),
        std::string("[]"), std::string("7"), std::string("{\"a\": 1, \"a\": 2}"),
        std::string("\x89PNG\0", 5), std::string(200000, '['), std::string("{\"a\": \"\xff\"}")}) {
    const GenerationDefaults defaults = read({{kGeneration, text}});
    ASSERT_EQ(defaults.notes.size(), 1u) << text.substr(0, 40);
    EXPECT_EQ(defaults.notes[0].where, kGeneration);
    EXPECT_EQ(defaults.notes[0].message.find('\n'), std::string::npos);
    EXPECT_THAT(defaults.stop_tokens, IsEmpty());
  }
}

TEST(GenerationConfig, AFolderOrALoopInItsPlaceIsANote) {
  const auto tokenizer = Tokenizer::parse(testing::byte_tokenizer_json(), "test");
  const testing::TempDir folder;
  std::filesystem::create_directory(folder / kGeneration);
  EXPECT_EQ(read_generation_defaults(folder.path(), *tokenizer, 260).notes.size(), 1u);
  const testing::TempDir other;
  std::filesystem::create_symlink(kGeneration, other / kGeneration);
  EXPECT_EQ(read_generation_defaults(other.path(), *tokenizer, 260).notes.size(), 1u);
}

TEST(GenerationConfig, SettingsThatAreNotAppliedAreNamedUnlessTheyAskForNothing) {
  const GenerationDefaults asked =
      read({{kGeneration, R"({"num_beams": 4, "no_repeat_ngram_size": 3, "suppress_tokens": [1],
                              "typical_p": 0.5, "stop_strings": ["x"]})"}});
  EXPECT_EQ(asked.notes.size(), 5u);
  const GenerationDefaults neutral =
      read({{kGeneration, R"({"num_beams": 1, "no_repeat_ngram_size": 0, "suppress_tokens": [],
                         "typical_p": 1.0, "stop_strings": null, "transformers_version": "5",
                         "pad_token_id": 3, "max_new_tokens": 100, "use_cache": true})"}});
  EXPECT_THAT(neutral.notes, IsEmpty());
}

TEST(GenerationConfig, EachSettingThatIsNotAppliedHasOneNumberThatAsksForNothing) {
  const std::vector<std::pair<const char*, int>> settings = {
      {"num_beams", 1},
      {"num_beam_groups", 1},
      {"penalty_alpha", 0},
      {"typical_p", 1},
      {"epsilon_cutoff", 0},
      {"eta_cutoff", 0},
      {"guidance_scale", 1},
      {"no_repeat_ngram_size", 0},
      {"encoder_repetition_penalty", 1},
      {"encoder_no_repeat_ngram_size", 0},
      {"min_length", 0},
      {"min_new_tokens", 0},
      {"presence_penalty", 0},
      {"frequency_penalty", 0},
      {"bad_words_ids", 0},
      {"suppress_tokens", 0},
      {"begin_suppress_tokens", 0},
      {"forced_bos_token_id", -1},
      {"forced_eos_token_id", -1},
      {"sequence_bias", 0},
      {"exponential_decay_length_penalty", 0},
      {"stop_strings", 0},
  };
  const auto notes_of = [](const char* key, int value) {
    return read({{kGeneration, "{\"" + std::string(key) + "\": " + std::to_string(value) + "}"}})
        .notes;
  };
  for (const auto& [key, neutral] : settings) {
    EXPECT_THAT(notes_of(key, neutral), IsEmpty()) << key;
    for (const int other : {neutral - 1, neutral + 1}) {
      const auto notes = notes_of(key, other);
      ASSERT_EQ(notes.size(), 1u) << key << " " << other;
      EXPECT_NE(notes[0].message.find(key), std::string::npos) << notes[0].message;
    }
  }
}

}  // namespace
}  // namespace moe4
