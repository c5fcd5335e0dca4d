// The commands that run the embedded checkpoint: text, scores, tensors and tables.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

#include "checkpoint/safetensors.h"
#include "checkpoint/safetensors_writer.h"
#include "support/header_folder.h"
#include "support/run_program.h"
#include "support/scripted_checkpoint.h"
#include "support/temp_dir.h"

namespace moe4 {
namespace {

using nlohmann::json;
using ::testing::AllOf;
using ::testing::HasSubstr;
using testing::ProgramResult;
using testing::run_program;

const std::string kModel = std::string(MOE4_EMBEDDED_MODELS) + "/tiny-qwen3_5-moe-nvfp4";
const std::string kTokens = std::string(MOE4_EMBEDDED_MODELS) + "/heldout_tokens.safetensors";

class ModelCommands : public ::testing::Test {
 protected:
  std::string path(const std::string& name) const { return (folder_ / name).string(); }

  testing::TempDir folder_;
};

json run_json(std::vector<std::string> arguments) {
  arguments.emplace_back("--json");
  const ProgramResult result = run_program(arguments);
  EXPECT_EQ(result.status, 0) << result.err;
  return json::parse(result.out);
}

TEST_F(ModelCommands, RunStreamsTextAndSaysWhoRanItAndHowFast) {
  const ProgramResult result = run_program({"run", kModel, "-p", "The President", "-n", "12"});
  ASSERT_EQ(result.status, 0) << result.err;
  EXPECT_GT(result.out.size(), 12u);
  EXPECT_THAT(result.err, AllOf(HasSubstr("cpu on cpu, activations: bf16"), HasSubstr("tok/s"),
                                HasSubstr("GB per token")));
}

TEST_F(ModelCommands, GreedyTextIsTheSameEveryTimeAndOnBothBackends) {
  const auto text = [](const std::string& backend) {
    return run_json({"run", kModel, "-p", "In the beginning", "-n", "16", "--temperature", "0",
                     "--moe-backend", backend})["text"]
        .get<std::string>();
  };
  const std::string first = text("cpu");
  EXPECT_FALSE(first.empty());
  EXPECT_EQ(first, text("cpu"));
  EXPECT_EQ(first, text("reference"));
}

TEST_F(ModelCommands, TheForcedBackendIsTheOneThatRan) {
  for (const char* backend : {"cpu", "reference"}) {
    const json result = run_json({"run", kModel, "-p", "a", "-n", "2", "--moe-backend", backend});
    for (const json& group : result["plan"]) EXPECT_EQ(group["backend"], backend);
  }
}

TEST_F(ModelCommands, TheSeedDecidesSampledText) {
  const auto text = [](const std::string& seed) {
    return run_json({"run", kModel, "-p", "The", "-n", "24", "--temperature", "1.0", "--ignore-eos",
                     "--seed", seed})["tokens"];
  };
  EXPECT_EQ(text("1"), text("1"));
  EXPECT_NE(text("1"), text("2"));
}

TEST_F(ModelCommands, AStopStringEndsTheTextBeforeIt) {
  const json all = run_json({"run", kModel, "-p", "The President of the", "-n", "24",
                             "--temperature", "0", "--ignore-eos"});
  const std::string text = all["text"];
  const std::string stop = text.substr(text.size() / 2, 3);
  const json cut = run_json({"run", kModel, "-p", "The President of the", "-n", "24",
                             "--temperature", "0", "--ignore-eos", "--stop", stop});
  EXPECT_EQ(cut["stop_reason"], "stop string");
  EXPECT_EQ(cut["text"], text.substr(0, text.find(stop)));
}

TEST_F(ModelCommands, AContextLimitBoundsTheText) {
  EXPECT_EQ(run_program({"run", kModel, "-p", "one two three four five", "--ctx", "2"}).status, 3);
  const json result =
      run_json({"run", kModel, "-p", "one two", "-n", "100", "--ctx", "12", "--ignore-eos"});
  EXPECT_LE(result["prompt_tokens"].get<size_t>() + result["tokens"].size(), 12u);
}

TEST_F(ModelCommands, ChatAnswersEachLineOfAConversation) {
  const ProgramResult result =
      run_program({"chat", kModel, "-n", "8", "--temperature", "0"}, {},
                  "What does the word \"light\" mean?\n\n/clear\nQuote Genesis 1.\n/exit\nno\n");
  ASSERT_EQ(result.status, 0) << result.err;
  const std::string answer = "generation: ";
  size_t answers = 0;
  for (size_t at = 0; (at = result.err.find(answer, at)) != std::string::npos; ++at) ++answers;
  EXPECT_EQ(answers, 2u) << result.err;
}

TEST_F(ModelCommands, ATurnOfAChatGoesOnFromThoseBefore) {
  std::string longer = "And";
  for (int i = 0; i < 80; ++i) longer += " light";
  const ProgramResult result = run_program({"chat", kModel, "-n", "8", "--temperature", "0"}, {},
                                           longer + "\nAnd what is dark?\n/clear\nhello\n");
  ASSERT_EQ(result.status, 0) << result.err;
  const std::string kept = " of them kept from before";
  const size_t second = result.err.find(kept);
  ASSERT_NE(second, std::string::npos) << result.err;
  EXPECT_EQ(result.err.find(kept, second + 1), std::string::npos) << result.err;
  EXPECT_GT(second, result.err.find("generation: ")) << "the first turn has nothing to go on from";
}

TEST_F(ModelCommands, EvalScoresTokenRowsAndText) {
  const json rows = run_json({"eval", kModel, "--tokens", kTokens, "--rows", "2"});
  EXPECT_EQ(rows["rows"], 2);
  EXPECT_EQ(rows["predictions"], 2 * 511);
  EXPECT_GT(rows["perplexity"], 5);
  EXPECT_LT(rows["perplexity"], 40);

  std::ofstream(path("text.txt")) << "And God said, Let there be light: and there was light.";
  const json text = run_json({"eval", kModel, "--text", path("text.txt")});
  EXPECT_GT(text["predictions"], 8);
  EXPECT_NEAR(text["perplexity"].get<double>(),
              std::exp(-text["mean_log_likelihood"].get<double>()), 1e-6);
}

TEST_F(ModelCommands, EvalCutsATextIntoRowsOfTheWindow) {
  testing::write_checkpoint(folder_ / "bytes", {});  // a token a byte
  const auto eval = [&](const std::string& window, const std::string& text) {
    std::ofstream(path("text")) << text;
    return run_json({"eval", path("bytes"), "--text", path("text"), "--window", window});
  };
  const std::string twenty = "abcdefghijklmnopqrst";
  json result = eval("8", twenty);
  EXPECT_EQ(result["rows"], 3);
  EXPECT_EQ(result["tokens"], 20);
  EXPECT_EQ(result["predictions"], 7 + 7 + 3);
  EXPECT_EQ(eval("20", twenty)["predictions"], 19);
  EXPECT_EQ(eval("512", twenty)["predictions"], 19);
  EXPECT_EQ(eval("2", twenty)["predictions"], 10);
  result = eval("19", twenty);  // one token is left over: nothing to predict
  EXPECT_EQ(result["rows"], 1);
  EXPECT_EQ(result["predictions"], 18);
  EXPECT_EQ(result["tokens"], 19);
}

TEST_F(ModelCommands, CompareGivesTheDivergenceOfTheOthersFromTheBase) {
  std::string list;
  std::vector<int32_t> ids(40);
  for (size_t i = 0; i < ids.size(); ++i) {
    ids[i] = static_cast<int32_t>(i * 7919 % 4000);
    list += std::to_string(ids[i]) + " ";
  }
  std::ofstream(path("ids")) << list;
  const NamedTensor rows[] = {{"tokens", {ids.data(), DType::kI32, {1, 40}}}};
  write_safetensors(path("tokens"), rows);
  // log p [40, 4096] of the next token in float64, from moe4 forward.
  const auto log_p = [&](const std::string& activations) {
    EXPECT_EQ(run_program({"forward", kModel, "--ids", path("ids"), "--out", path("logits"),
                           "--moe-backend", "cpu", "--activations", activations})
                  .status,
              0);
    const auto file = SafetensorsFile::open(path("logits"));
    const auto* logits = file->tensor("logits").as<float>();
    std::vector<double> result(logits, logits + 40 * 4096);
    for (size_t row = 0; row < 40; ++row) {
      double sum = 0;
      for (size_t i = 0; i < 4096; ++i) sum += std::exp(result[row * 4096 + i]);
      for (size_t i = 0; i < 4096; ++i) result[row * 4096 + i] -= std::log(sum);
    }
    return result;
  };
  const std::vector<double> p = log_p("bf16"), q = log_p("fp4");
  double forward = 0, backward = 0, likelihood = 0;
  int64_t same = 0;
  for (size_t row = 0; row < 39; ++row) {
    const double *a = p.data() + row * 4096, *b = q.data() + row * 4096;
    for (size_t i = 0; i < 4096; ++i) {
      forward += std::exp(a[i]) * (a[i] - b[i]);
      backward += std::exp(b[i]) * (b[i] - a[i]);
    }
    same += std::max_element(a, a + 4096) - a == std::max_element(b, b + 4096) - b;
    likelihood += b[ids[row + 1]];
  }
  ASSERT_GT(std::abs(forward - backward), 1e-3 * forward) << "the directions cannot be told apart";
  const json result =
      run_json({"compare", kModel, "--backends", "cpu:bf16,cpu:fp4", "--tokens", path("tokens")});
  const json& fp4 = result["backends"][1];
  EXPECT_NEAR(fp4["kl"].get<double>(), forward / 39, 1e-9 + 1e-6 * forward);
  EXPECT_NEAR(fp4["same_argmax"].get<double>(), static_cast<double>(same) / 39, 1e-12);
  EXPECT_NEAR(fp4["perplexity"].get<double>(), std::exp(-likelihood / 39),
              1e-9 * std::exp(-likelihood / 39));
}

TEST_F(ModelCommands, ForwardWritesLogitsAndHiddenStates) {
  std::ofstream(path("ids")) << "1 2\n3\t4 5";
  ASSERT_EQ(run_program({"forward", kModel, "--ids", path("ids"), "--out", path("out.safetensors"),
                         "--hidden"})
                .status,
            0);
  const auto file = SafetensorsFile::open(path("out.safetensors"));
  EXPECT_EQ(file->tensor("logits").shape, (std::vector<int64_t>{5, 4096}));
  for (const char* name : {"hidden.embed", "hidden.layer0", "hidden.layer3", "hidden.final_norm"})
    EXPECT_EQ(file->tensor(name).shape, (std::vector<int64_t>{5, 256})) << name;
  EXPECT_EQ(file->tensor("router.layer3.logits").shape, (std::vector<int64_t>{5, 16}));
}

TEST_F(ModelCommands, ForwardWritesRouterLogitsOfLayersWithARouterOnly) {
  std::ofstream(path("ids")) << "1 2 3";
  const std::string dense_second = MOE4_TEST_DATA "/checkpoints/qwen3-fp8-block128";
  ASSERT_EQ(run_program({"forward", dense_second, "--ids", path("ids"), "--out",
                         path("out.safetensors"), "--hidden"})
                .status,
            0);
  const auto file = SafetensorsFile::open(path("out.safetensors"));
  EXPECT_EQ(file->tensor("router.layer0.logits").shape, (std::vector<int64_t>{3, 3}));
  EXPECT_EQ(file->tensor("hidden.layer1").shape, (std::vector<int64_t>{3, 160}));
  EXPECT_EQ(file->find("router.layer1.logits"), nullptr);
}

TEST_F(ModelCommands, ForwardRefusesAnIdOutsideTheVocabulary) {
  std::ofstream(path("ids")) << "1 4096";
  EXPECT_EQ(run_program({"forward", kModel, "--ids", path("ids"), "--out", path("x")}).status, 3);
}

TEST_F(ModelCommands, ExpertsTakesItsOwnOutputBackAndRepeatsIt) {
  // Hidden states of a forward pass are inputs of the right shape.
  std::ofstream(path("ids")) << "10 11 12";
  ASSERT_EQ(run_program({"forward", kModel, "--ids", path("ids"), "--out", path("h.safetensors"),
                         "--hidden"})
                .status,
            0);
  EXPECT_EQ(run_program({"experts", kModel, "--layer", "1", "--in", path("h.safetensors"), "--out",
                         path("y.safetensors")})
                .status,
            3);  // no tensor x in it
  const auto x_file = SafetensorsFile::open(path("h.safetensors"));
  const TensorView x = x_file->tensor("hidden.layer0");
  {
    // A file with x alone, written by hand: eight bytes of length, a JSON header, the data.
    std::string header = R"({"x":{"dtype":"F32","shape":[3,256],"data_offsets":[0,3072]}})";
    const uint64_t length = header.size();
    std::ofstream out(path("x.safetensors"), std::ios::binary);
    out.write(reinterpret_cast<const char*>(&length), 8);
    out << header;
    out.write(static_cast<const char*>(x.data), 3072);
  }
  ASSERT_EQ(run_program({"experts", kModel, "--layer", "1", "--in", path("x.safetensors"), "--out",
                         path("y.safetensors")})
                .status,
            0);
  const auto y = SafetensorsFile::open(path("y.safetensors"));
  EXPECT_EQ(y->tensor("y").shape, (std::vector<int64_t>{3, 256}));
  EXPECT_EQ(y->tensor("topk_ids").shape, (std::vector<int64_t>{3, 4}));
  EXPECT_EQ(y->tensor("topk_weights").shape, (std::vector<int64_t>{3, 4}));
  EXPECT_EQ(run_program({"experts", kModel, "--layer", "4", "--in", path("x.safetensors"), "--out",
                         path("z.safetensors")})
                .status,
            2);
}

TEST_F(ModelCommands, CompareFindsNoErrorAgainstItselfAndSomeInFp4) {
  const json result = run_json({"compare", kModel, "--backends", "reference,reference,cpu:fp4",
                                "--tokens", kTokens, "--rows", "1"});
  const json& same = result["backends"][1];
  EXPECT_EQ(same["kl"], 0.0);
  EXPECT_EQ(same["same_argmax"], 1.0);
  EXPECT_EQ(same["residual_error"], json({0.0, 0.0, 0.0, 0.0}));
  const json& fp4 = result["backends"][2];
  EXPECT_GT(fp4["kl"], 1e-4);
  ASSERT_EQ(fp4["residual_error"].size(), 4u);
  for (const json& error : fp4["residual_error"]) {
    EXPECT_GT(error, 1e-4);
    EXPECT_LT(error, 0.5);
  }
  EXPECT_EQ(fp4["experts_error"].size(), 4u);
  for (const json& layer : fp4["experts_error"]) {
    EXPECT_GT(layer["error"], 0.01);
    EXPECT_LT(layer["error"], 0.5);
  }
}

TEST_F(ModelCommands, BenchMeasuresEveryCombinationAsked) {
  const json result =
      run_json({"bench", kModel, "--moe-backend", "cpu,reference", "--activations", "bf16,fp4",
                "-p", "16", "-n", "4", "-r", "1", "--tokens", kTokens, "--rows", "1"});
  ASSERT_EQ(result["results"].size(), 4u);
  for (const json& row : result["results"]) {
    EXPECT_GT(row["prompt"]["tokens_per_second"], 0);
    EXPECT_GT(row["generation"]["tokens_per_second"], 0);
    EXPECT_GT(row["perplexity"], 1);
    EXPECT_GT(row["gb_per_token"], 0);
  }
}

TEST_F(ModelCommands, RunSaysAShareOfTheMemorysBandwidthOnlyWhereCachesAreTooSmall) {
  const json result = run_json({"run", kModel, "-p", "Once", "-n", "4", "--ignore-eos"});
  const double caches = result["cache_bytes"];
  const bool fits = caches > 0 && result["gb_per_token"].get<double>() * 1e9 <= caches;
  EXPECT_EQ(result["memory_share"].is_null(), fits || result["memory_read_gbs"] == 0);
}

TEST_F(ModelCommands, BenchPrintsAMarkdownTable) {
  const ProgramResult result = run_program(
      {"bench", kModel, "--moe-backend", "all", "-p", "8", "-n", "2", "-r", "1", "--quiet"});
  EXPECT_EQ(result.status, 0) << result.err;
  EXPECT_THAT(result.out, AllOf(HasSubstr("| backend"), HasSubstr("| cpu"), HasSubstr("|--")));
}

TEST_F(ModelCommands, BenchRunsManyRequestsAtOnce) {
  const std::vector<std::string> command = {"bench", kModel, "-p",         "100", "-n",      "4",
                                            "-r",    "1",    "--requests", "1,5", "--chunk", "64"};
  const json row = run_json(command)["results"].at(0);
  ASSERT_EQ(row["together"].size(), 2u);
  EXPECT_EQ(row["together"][1]["requests"], 5);
  for (const json& one : row["together"]) {
    EXPECT_GT(one["tokens_per_second"], 0);
    EXPECT_GT(one["longest_pause_ms"], 0);
    EXPECT_GT(one["prompt_tokens_per_second"], 0);
  }
  EXPECT_THAT(run_program(command).out, HasSubstr("| requests | tg4 tok/s of all"));
  EXPECT_EQ(run_program({"bench", kModel, "-n", "0", "--requests", "2"}).status, 2);
}

TEST_F(ModelCommands, ASyntheticCheckpointRuns) {
  ASSERT_EQ(run_program({"synth", path("model"), "--preset", "tiny"}).status, 0);
  EXPECT_EQ(run_program({"synth", path("model"), "--preset", "tiny"}).status, 2);  // exists
  const json result = run_json({"bench", path("model"), "-p", "8", "-n", "2", "-r", "1"});
  EXPECT_GT(result["results"][0]["generation"]["tokens_per_second"], 0);
}

TEST_F(ModelCommands, FilledHeadersRun) {
  const std::string headers = path("headers"), model = path("model");
  testing::copy_headers(std::filesystem::path(MOE4_TEST_DATA) / "checkpoints/mistral4-ct-nvfp4",
                        headers);
  ASSERT_EQ(run_program({"synth", model, "--headers", headers, "--threads", "2"}).status, 0);
  EXPECT_EQ(run_json({"run", model, "-p", "a word", "-n", "4", "--ignore-eos"})["tokens"].size(),
            4u);
  const std::string other = path("other");
  for (const std::vector<std::string>& wrong :
       {std::vector<std::string>{"synth", other},
        {"synth", other, "--headers", headers, "--preset", "tiny"},
        {"synth", other, "--headers", headers, "--layers", "1"},
        {"synth", other, "--headers", headers, "--format", "modelopt"},
        {"synth", model, "--headers", headers}}) {  // exists
    EXPECT_EQ(run_program(wrong).status, 2) << wrong.back();
  }
  EXPECT_EQ(run_program({"synth", other, "--headers", path("nowhere")}).status, 3);
  EXPECT_FALSE(std::filesystem::exists(other));
}

}  // namespace
}  // namespace moe4
