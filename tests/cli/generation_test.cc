// How run and chat pick tokens and end turns, on a checkpoint that says what a test tells it to.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <regex>
#include <string>
#include <thread>
#include <vector>

#include "support/interactive_program.h"
#include "support/run_program.h"
#include "support/scripted_checkpoint.h"
#include "support/temp_dir.h"

namespace moe4 {
namespace {

using nlohmann::json;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;
using testing::ProgramResult;
using testing::run_program;
using testing::ScriptedCheckpoint;
using ::testing::StartsWith;

class Generation : public ::testing::Test {
 protected:
  std::string model(const ScriptedCheckpoint& scripted) {
    const auto folder = folder_ / ("model" + std::to_string(++count_));
    testing::write_checkpoint(folder, scripted);
    return folder.string();
  }
  std::string with_generation(const std::string& text) {
    return model({.generation_config = text});
  }

  testing::TempDir folder_;
  int count_ = 0;
};

std::vector<std::string> chat_run(const std::string& model, std::vector<std::string> flags = {}) {
  std::vector<std::string> arguments = {"run", model, "--chat", "-p", "hi", "--threads", "1"};
  if (std::find(flags.begin(), flags.end(), "-n") == flags.end())
    arguments.insert(arguments.end(), {"-n", "12"});
  arguments.insert(arguments.end(), flags.begin(), flags.end());
  return arguments;
}

json run_json(const std::vector<std::string>& arguments) {
  std::vector<std::string> all = arguments;
  all.emplace_back("--quiet");  // no measurement of the memory
  all.emplace_back("--json");
  const ProgramResult result = run_program(all);
  EXPECT_EQ(result.status, 0) << result.err;
  return result.status == 0 ? json::parse(result.out) : json();
}

// Prompt tokens of each turn, from the speeds that chat prints.
std::vector<int> prompt_tokens(const std::string& err) {
  std::vector<int> counts;
  const std::regex pattern("prompt: ([0-9]+) tokens");
  for (std::sregex_iterator it(err.begin(), err.end(), pattern), end; it != end; ++it)
    counts.push_back(std::stoi((*it)[1]));
  return counts;
}

// Tokens of the template: one a byte and one a special token.
constexpr int kTurn = 1 + 5 + 1 + 1;     // <|im_start|> user\n ... <|im_end|> \n
constexpr int kAnswer = 1 + 10 + 1 + 1;  // <|im_start|> assistant\n ... <|im_end|> \n
constexpr int kSystem = 1 + 7 + 1 + 1;   // <|im_start|> system\n ... <|im_end|> \n
constexpr int kPrompt = 1 + 10;          // <|im_start|> assistant\n

TEST_F(Generation, AnyFileThatNamesTheEndTokenEndsTheTurn) {
  const json nothing = {{"pad_token", "<|endoftext|>"}};
  const std::vector<ScriptedCheckpoint> checkpoints = {
      {},  // tokenizer_config.json alone
      {.config = {{"eos_token_id", 256}}, .generation_config = R"({"eos_token_id": 256})"},
      {.config = {{"eos_token_id", nullptr}}},
      {.config = {{"eos_token_id", 258}}, .tokenizer_config = nothing},
      {.config = {{"eos_token_id", {256, 258}}}, .tokenizer_config = nothing},
      {.generation_config = R"({"eos_token_id": [256, 258]})", .tokenizer_config = nothing},
      {.tokenizer_config = {{"eos_token", {{"content", "<|im_end|>"}}}}},
  };
  for (size_t i = 0; i < checkpoints.size(); ++i) {
    const ProgramResult result =
        run_program(chat_run(model(checkpoints[i]), {"--temperature", "0"}));
    EXPECT_EQ(result.status, 0) << result.err;
    EXPECT_EQ(result.out, "ok\n") << i;
  }
  const ProgramResult none = run_program(chat_run(model({.tokenizer_config = nothing})));
  EXPECT_EQ(none.out, "oku!u!u!u!u\n");
  EXPECT_THAT(none.err, HasSubstr("stop tokens: none"));
}

TEST_F(Generation, TheStopTokensAndTheirFilesAreSaid) {
  const std::string folder =
      model({.config = {{"eos_token_id", 258}}, .generation_config = R"({"eos_token_id": 256})"});
  EXPECT_THAT(run_program(chat_run(folder)).err,
              HasSubstr("stop tokens: 256 '<|endoftext|>' (generation_config.json); 258 "
                        "'<|im_end|>' (config.json, tokenizer_config.json)\n"));
  const json result = run_json(chat_run(folder));
  EXPECT_EQ(result["stop_reason"], "stop token");
  ASSERT_EQ(result["stop_tokens"].size(), 2u);
  EXPECT_EQ(result["stop_tokens"][1]["id"], 258);
  EXPECT_EQ(result["stop_tokens"][1]["from"], json({"config.json", "tokenizer_config.json"}));
}

TEST_F(Generation, IgnoreEosGoesOnToTheAskedLength) {
  const json result = run_json(chat_run(model({}), {"--ignore-eos"}));
  EXPECT_EQ(result["tokens"].size(), 12u);
  EXPECT_EQ(result["text"], "oku!u!u!u!u");
  EXPECT_EQ(result["stop_reason"], "length");
}

TEST_F(Generation, EverySettingOfTheFileHasItsEffectAndAFlagReplacesIt) {
  // At temperature 100 the choice is all but uniform over 260 tokens: never "ok" by chance.
  const auto text = [&](const std::string& file, const std::vector<std::string>& flags = {}) {
    const json result = run_json(chat_run(with_generation(file), flags));
    return result.is_null() ? std::string() : result["text"].get<std::string>();
  };
  EXPECT_EQ(text(R"({"temperature": 100})"), "ok") << "do_sample is false unless it says so";
  EXPECT_EQ(text(R"({"do_sample": false, "temperature": 100})"), "ok");
  EXPECT_NE(text(R"({"do_sample": false})", {"--temperature", "100"}), "ok");
  EXPECT_NE(text(R"({"do_sample": true, "temperature": 100})"), "ok");
  EXPECT_EQ(text(R"({"do_sample": true, "temperature": 100})", {"--temperature", "0"}), "ok");
  EXPECT_EQ(text(R"({"do_sample": true, "temperature": 100, "top_k": 1})"), "ok");
  EXPECT_NE(text(R"({"do_sample": true, "temperature": 100, "top_k": 1})", {"--top-k", "0"}), "ok");
  EXPECT_NE(text(R"({"do_sample": true, "temperature": 100, "top_k": 1})", {"--top-k", "-1"}),
            "ok");
  EXPECT_NE(text(R"({"do_sample": true, "temperature": 100, "top_k": -1})"), "ok");
  EXPECT_EQ(text(R"({"do_sample": true, "temperature": 100, "top_p": 0.001})"), "ok");
  EXPECT_NE(text(R"({"do_sample": true, "temperature": 100, "top_p": 0.001})", {"--top-p", "1"}),
            "ok");
  EXPECT_EQ(text(R"({"do_sample": true, "temperature": 100, "min_p": 1})"), "ok");
  EXPECT_NE(text(R"({"do_sample": true, "temperature": 100, "min_p": 1})", {"--min-p", "0"}), "ok");
  // "u" and "!" take turns until each has come: a penalty of 100 lets neither come twice.
  const auto generated = [&](const std::string& file, const std::vector<std::string>& flags) {
    std::vector<std::string> arguments = {"run", with_generation(file), "-p", "!", "-n",
                                          "4",   "--ignore-eos"};
    arguments.insert(arguments.end(), flags.begin(), flags.end());
    return run_json(arguments)["text"].get<std::string>();
  };
  EXPECT_EQ(generated("{}", {}), "u!u!");
  EXPECT_NE(generated(R"({"repetition_penalty": 100})", {}), "u!u!");
  EXPECT_EQ(generated(R"({"repetition_penalty": 100})", {"--repetition-penalty", "1"}), "u!u!");
  // The second of several: "k" ends the answer.
  EXPECT_EQ(text(R"({"eos_token_id": [256, 107]})"), "o");
}

TEST_F(Generation, ABrokenFileIsANoteAndStopsNobody) {
  const std::vector<std::pair<std::string, std::string>> files = {
      {"{\n \"eos_token_id\": 258,\n \"temperature\": 0.15,\n}\n", "generation_config.json"},
      {"[]", "generation_config.json"},
      {"", "generation_config.json"},
      {R"({"top_k": -7})", "top_k"},
      {R"({"temperature": "hot"})", "temperature"},
      {R"({"eos_token_id": "x"})", "eos_token_id"},
      {R"({"num_beams": 4})", "num_beams"}};
  for (const auto& [text, mention] : files) {
    SCOPED_TRACE(text);
    const std::string folder = with_generation(text);
    const ProgramResult result = run_program(chat_run(folder));
    EXPECT_EQ(result.status, 0);
    EXPECT_EQ(result.out, "ok\n");
    EXPECT_THAT(result.err, AllOf(HasSubstr("note: generation_config.json: "), HasSubstr(mention),
                                  HasSubstr("not used")));
    EXPECT_THAT(run_program(chat_run(folder, {"--quiet"})).err, Not(HasSubstr("note")));
    for (const char* command : {"plan", "inspect"}) {
      const ProgramResult other = run_program({command, folder});
      EXPECT_EQ(other.status, 0) << other.err;
      EXPECT_THAT(other.out + other.err, Not(HasSubstr("generation_config")));
    }
  }
  EXPECT_THAT(run_program(chat_run(with_generation(R"({"top_k": -1})"))).err,
              Not(HasSubstr("note")));
}

TEST_F(Generation, FlagsWithoutEffectAreNamed) {
  const std::string folder = model({});
  EXPECT_THAT(run_program(chat_run(folder, {"--top-p", "0.5"})).err,
              HasSubstr("note: --top-p has no effect"));
  EXPECT_THAT(run_program(chat_run(folder, {"--top-p", "0.5", "--temperature", "1"})).err,
              Not(HasSubstr("no effect")));
}

TEST_F(Generation, BiasMinTokensAndPenaltiesReachTheSampler) {
  const std::string folder = model({});
  const auto text = [&](const std::vector<std::string>& flags) {
    return run_json(chat_run(folder, flags))["text"].get<std::string>();
  };
  EXPECT_EQ(text({"--logit-bias", "33=100", "-n", "4"}), "!!!!");
  EXPECT_EQ(text({"--logit-bias", R"({"33": 100, "34": -5})", "-n", "3"}), "!!!");
  EXPECT_EQ(text({"--logit-bias", "258=-100", "--logit-bias", "117=100", "-n", "3"}), "uuu");
  const json longer = run_json(chat_run(folder, {"--min-tokens", "5"}));
  EXPECT_GE(longer["tokens"].size(), 5u);
  EXPECT_EQ(longer["text"].get<std::string>().substr(0, 2), "ok");
  // "#" and "?" have logits of 0 whatever comes before: 100 and 99 with the bias, less 4 a use.
  std::vector<std::string> two = {"--logit-bias", R"({"35": 100, "63": 99})", "-n", "3"};
  EXPECT_EQ(text(two), "###");
  two.insert(two.end(), {"--presence-penalty", "2", "--frequency-penalty", "2"});
  EXPECT_EQ(text(two), "#?#");
}

TEST_F(Generation, ConstraintsReachTheSampler) {
  const std::string folder = model({});
  const auto text = [&](const std::vector<std::string>& flags) {
    return run_json(chat_run(folder, flags))["text"].get<std::string>();
  };
  EXPECT_EQ(text({"--choice", "no"}), "no");
  EXPECT_EQ(text({"--regex", "[xy]z{3}"}).substr(1), "zzz");
  const std::string schema = R"({"type":"array","items":{"type":"boolean"},"maxItems":2})";
  EXPECT_TRUE(json::parse(text({"--json-schema", schema, "-n", "500"})).is_array());
  const std::filesystem::path file = std::filesystem::path(folder) / "schema.json";
  std::ofstream(file) << R"({"const":{"a":"b"}})";
  EXPECT_EQ(json::parse(text({"--json-schema", file.string(), "-n", "500"})), json({{"a", "b"}}));
  EXPECT_EQ(run_json(chat_run(folder, {"--choice", "no"}))["stop_reason"], "grammar end");
}

// "<think>" makes the template one of a model that reasons; here the prompt begins it, so the form
// holds behind "</think>" only.
TEST_F(Generation, AConstraintHoldsBehindReasoning) {
  const auto text = [&](const std::string& folder) {
    return run_json(chat_run(folder, {"--choice", "no", "-n", "400"}))["text"].get<std::string>();
  };
  const auto with_template = [&](const std::string& end) {
    std::string folder = model({});
    std::ofstream(std::filesystem::path(folder) / "chat_template.jinja")
        << testing::kScriptedTemplate
        << "{%- if add_generation_prompt %}{{ '" + end + "' }}{%- endif %}"
        << "{#- <think> </think> #}";
    return folder;
  };
  EXPECT_EQ(text(with_template("<think>\\n")).substr(0, 2), "ok") << "its own words";
  EXPECT_EQ(text(with_template("<think>\\n\\n</think>\\n\\n")), "no");
}

TEST_F(Generation, MistakesInConstraintsExit2BeforeAnythingIsOpened) {
  const std::vector<std::vector<std::string>> mistakes = {
      {"--json-schema", "{\"type\": \"strin\"}"},
      {"--json-schema", "{\"type\""},
      {"--regex", "(?=a)"},
      {"--regex", "a", "--choice", "b"},
      {"--choice", ""}};
  for (const auto& mistake : mistakes) {
    std::vector<std::string> arguments = {"run", "/no/such/model", "-p", "a"};
    arguments.insert(arguments.end(), mistake.begin(), mistake.end());
    const ProgramResult result = run_program(arguments);
    EXPECT_EQ(result.status, 2) << ::testing::PrintToString(mistake) << result.err;
    EXPECT_THAT(result.err, StartsWith("error: "));
    EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
  }
}

TEST_F(Generation, MistakesInSamplingFlagsExit2BeforeAnythingIsOpened) {
  const std::vector<std::vector<std::string>> mistakes = {
      {"--temperature", "nan"},
      {"--temperature", "-0.5"},
      {"--temperature", "inf"},
      {"--temperature", "warm"},
      {"--top-p", "nan"},
      {"--top-p", "1.5"},
      {"--min-p", "-1"},
      {"--top-k", "-2"},
      {"--top-k", "1.5"},
      {"--repetition-penalty", "0"},
      {"--repetition-penalty", "nan"},
      {"--presence-penalty", "2.5"},
      {"--presence-penalty", "nan"},
      {"--frequency-penalty", "-2.1"},
      {"--seed", "-1"},
      {"--seed", "18446744073709551616"},
      {"--seed", "1e3"},
      {"--seed", "0x10"},
      {"-n", "-1"},
      {"-n", "9223372036854775808"},
      {"-n", "010"},
      {"--ctx", "99999999999999999999"},
      {"--min-tokens", "-1"},
      {"--min-tokens", "5", "-n", "4"},
      {"--logit-bias", "5"},
      {"--logit-bias", "5=x"},
      {"--logit-bias", "x=5"},
      {"--logit-bias", "5=100.5"},
      {"--logit-bias", "5=nan"},
      {"--logit-bias", "-1=5"},
      {"--logit-bias", "5=1=2"},
      {"--logit-bias", "{\"5\": \"x\"}"},
      {"--logit-bias", "{\"5\": 1"},
      {"--logit-bias", "{\"5\": 1, \"5\": 2}"},
      {"--logit-bias", "4294967297=1"},
      {"--logit-bias", "5=1", "--logit-bias", "5=2"}};
  for (const auto& mistake : mistakes) {
    for (const std::string command : {"run", "chat"}) {
      std::vector<std::string> arguments = {command, "/no/such/model"};
      if (command == "run") arguments.insert(arguments.end(), {"-p", "a"});
      arguments.insert(arguments.end(), mistake.begin(), mistake.end());
      const ProgramResult result = run_program(arguments);
      EXPECT_EQ(result.status, 2) << ::testing::PrintToString(mistake) << result.err;
      EXPECT_THAT(result.err, StartsWith("error: "));
      EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
    }
  }
  const std::string folder = model({});
  EXPECT_EQ(run_program(chat_run(folder, {"--logit-bias", "260=1"})).status, 2);
  EXPECT_EQ(run_program(chat_run(folder, {"--logit-bias", "259=1"})).status, 0);
  EXPECT_EQ(run_program(chat_run(folder, {"--seed", "18446744073709551615"})).status, 0);
  EXPECT_EQ(run_program(chat_run(folder, {"--seed", "0"})).status, 0);
  EXPECT_EQ(
      run_program({"synth", (folder_ / "s").string(), "--preset", "tiny", "--seed", "-1"}).status,
      2);
}

TEST_F(Generation, APromptThatFillsTheContextIsRefusedAndOneTokenLessIsNot) {
  const std::string small = model({.config = {{"max_position_embeddings", 16}}});
  const auto run = [&](const std::string& prompt, const std::vector<std::string>& flags) {
    std::vector<std::string> arguments = {"run", small, "-p", prompt, "--ignore-eos"};
    arguments.insert(arguments.end(), flags.begin(), flags.end());
    return arguments;
  };
  const std::string sixteen(16, 'u'), fifteen(15, 'u'), eight(8, 'u'), seven(7, 'u');
  for (const auto& arguments :
       {run(sixteen, {}), run(sixteen + "u", {}), run(eight, {"--ctx", "8"}),
        run(eight, {"--ctx", "3"}), run(sixteen, {"--ctx", "99"})}) {
    const ProgramResult result = run_program(arguments);
    EXPECT_EQ(result.status, 3) << ::testing::PrintToString(arguments);
    EXPECT_THAT(result.err, StartsWith("error: the prompt does not fit into the context"));
    EXPECT_EQ(result.out, "");
  }
  for (const auto& arguments : {run(fifteen, {}), run(seven, {"--ctx", "8"})}) {
    const json result = run_json(arguments);
    EXPECT_EQ(result["tokens"].size(), 1u);
    EXPECT_EQ(result["stop_reason"], "context full");
    EXPECT_EQ(result["generation_tokens_per_second"], 0) << "the first token is the prompt's";
  }
  const json whole = run_json(run(seven, {"-n", "9"}));
  EXPECT_EQ(whole["tokens"].size(), 9u);
  EXPECT_EQ(whole["stop_reason"], "length");
}

TEST_F(Generation, AnAnswerThatTheContextEndsSaysSo) {
  const std::string small = model({.config = {{"max_position_embeddings", 16}}});
  const auto err = [&](const std::string& tokens, const std::string& context) {
    return run_program(
               {"run", small, "-p", "uuuuuuu", "--ignore-eos", "-n", tokens, "--ctx", context})
        .err;
  };
  const std::string more = "note: --ctx 17 is more than the 16 tokens that the model was made for";
  EXPECT_THAT(err("9", "16"),
              AllOf(Not(HasSubstr("note: --ctx")), Not(HasSubstr("context is full"))));
  EXPECT_THAT(err("10", "16"),
              AllOf(Not(HasSubstr("note: --ctx")), HasSubstr("; the context is full")));
  EXPECT_THAT(err("10", "17"), AllOf(HasSubstr(more), HasSubstr("; the context is full")));
}

TEST_F(Generation, ChatKeepsAnswersAndTheSystemMessageInTheConversation) {
  const std::string folder = model({});
  const auto turns = [&](const std::vector<std::string>& flags, const std::string& input) {
    std::vector<std::string> arguments = {"chat", folder, "-n", "12"};
    arguments.insert(arguments.end(), flags.begin(), flags.end());
    const ProgramResult result = run_program(arguments, {}, input);
    EXPECT_EQ(result.status, 0) << result.err;
    std::string answers;
    for (const int count : prompt_tokens(result.err)) {
      EXPECT_GT(count, 0);
      answers += "ok\n";
    }
    EXPECT_EQ(result.out, answers);
    return prompt_tokens(result.err);
  };
  constexpr int kFirst = kTurn + 2 + kPrompt;
  constexpr int kSecond = kTurn + 2 + kAnswer + 2 + kTurn + 3 + kPrompt;
  EXPECT_THAT(turns({}, "hi\nyou\n"), ElementsAre(kFirst, kSecond));
  EXPECT_THAT(turns({"--system", "be"}, "hi\nyou\n"),
              ElementsAre(kSystem + 2 + kFirst, kSystem + 2 + kSecond));
  EXPECT_THAT(turns({"--system", "be"}, "you\n/clear\nhi\n/exit\nnever\n"),
              ElementsAre(kSystem + 2 + kTurn + 3 + kPrompt, kSystem + 2 + kFirst));
  EXPECT_THAT(turns({}, "hi"), ElementsAre(kFirst)) << "a last line without its end";
}

TEST_F(Generation, ChatTakesLinesThatEndInCarriageReturns) {
  const std::string folder = model({});
  const auto prompts = [&](const std::string& input) {
    const ProgramResult result = run_program({"chat", folder, "-n", "12"}, {}, input);
    EXPECT_EQ(result.status, 0) << result.err;
    EXPECT_THAT(result.err, Not(HasSubstr("\n> "))) << "nobody types there";
    return prompt_tokens(result.err);
  };
  EXPECT_EQ(prompts("hi\r\n"), prompts("hi\n"));
  EXPECT_EQ(prompts("hi\r\n\r\nyou\r\n/clear\r\nhi\r\n/exit\r\nno\r\n"),
            prompts("hi\n\nyou\n/clear\nhi\n/exit\nno\n"));
  EXPECT_THAT(prompts("a\rb\n"), ElementsAre(kTurn + 3 + kPrompt)) << "only the line's end";
}

TEST_F(Generation, CtrlCEndsTheAnswerAndTheConversationGoesOn) {
  // The answer would be longer than a pipe holds: the program waits for its reader, so that the
  // signal comes in the middle however slow this machine is.
  const std::string folder = model({.config = {{"max_position_embeddings", 60000}}});
  testing::InteractiveProgram program({"chat", folder, "-n", "20000", "--ignore-eos"});
  program.write("hi\n");
  std::string first = program.read(6);
  program.send_signal(SIGINT);
  first += program.read_line();
  EXPECT_THAT(first, StartsWith("oku!u!"));
  EXPECT_LT(first.size(), 19000u) << "the answer was not cut";

  program.write("you\n");
  std::string second = program.read(6);
  program.send_signal(SIGINT);
  second += program.read_line();
  EXPECT_THAT(second, StartsWith("oku!u!"));
  program.close_input();
  const ProgramResult result = program.finish();
  EXPECT_EQ(result.status, 0) << result.err;
  EXPECT_EQ(result.out, "");
  const int answer = static_cast<int>(first.size());
  EXPECT_THAT(prompt_tokens(result.err),
              ElementsAre(kTurn + 2 + kPrompt, kTurn + 2 + kAnswer + answer + kTurn + 3 + kPrompt))
      << "what was said before Ctrl-C stays in the conversation";
}

TEST_F(Generation, CtrlCBetweenAnswersEndsTheChat) {
  testing::InteractiveProgram program({"chat", model({}), "-n", "12"});
  program.write("hi\n");
  EXPECT_NE(program.read_line(), "");
  // The first may still meet the end of the answer.
  for (int i = 0; i < 300 && !program.has_ended(); ++i) {
    program.send_signal(SIGINT);
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  }
  ASSERT_TRUE(program.has_ended());
  EXPECT_EQ(program.finish().status, 128 + SIGINT);
}

}  // namespace
}  // namespace moe4
