// moe4 bench serve against a server of the test's own.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <set>

#include "support/fake_openai_server.h"
#include "support/run_program.h"

namespace moe4 {
namespace {

using nlohmann::json;
using testing::FakeOpenAiServer;
using ::testing::HasSubstr;
using testing::ProgramResult;
using testing::run_program;
using ::testing::StartsWith;

void answer(const FakeOpenAiServer::Request& request, const FakeOpenAiServer::Connection& out) {
  if (request.head.starts_with("GET /v1/models"))
    return out.reply(200, R"({"data": [{"id": "tiny"}]})");
  out.begin_stream();
  for (int i = 0; i < 3; ++i) out.event(R"({"choices": [{"text": "x"}]})");
  out.event("[DONE]");
  out.end_stream();
}

TEST(BenchServe, PrintsVllmsTable) {
  FakeOpenAiServer server(answer);
  const ProgramResult result = run_program({"bench", "serve", "--base-url", server.url(),
                                            "--num-prompts", "5", "--random-input-len", "7",
                                            "--random-output-len", "3", "--max-concurrency", "2"});
  EXPECT_EQ(result.status, 0) << result.err;
  EXPECT_THAT(result.out, StartsWith("============ Serving Benchmark Result ============\n"
                                     "Successful requests:                     5         \n"));
  for (const char* line : {"Total input tokens:                      35 ",
                           "Total generated tokens:                  15 ",
                           "Mean TTFT (ms):", "P99 TPOT (ms):", "Median ITL (ms):"})
    EXPECT_THAT(result.out, HasSubstr(line));
  const auto requests = server.requests();
  ASSERT_EQ(requests.size(), 7U);  // models, one to try, five
  EXPECT_EQ(json::parse(requests.back().body)["model"], "tiny");
}

TEST(BenchServe, TheSameSeedSendsTheSamePromptsOfTheTokenizersTokens) {
  std::vector<std::vector<std::string>> prompts;
  for (const char* seed : {"1", "1", "2"}) {
    FakeOpenAiServer server(answer);
    const ProgramResult result = run_program(
        {"bench-serve", "--base-url", server.url(), "--model", "m", "--num-prompts", "2",
         "--random-input-len", "9", "--seed", seed, "--json", "--max-concurrency", "1",
         "--tokenizer", std::string(MOE4_EMBEDDED_MODELS) + "/tiny-qwen3_5-moe-nvfp4"});
    EXPECT_EQ(result.status, 0) << result.err;
    EXPECT_EQ(json::parse(result.out)["completed"], 2);
    prompts.emplace_back();
    for (const auto& request : server.requests()) {
      const auto ids = json::parse(request.body)["prompt"].get<std::vector<int>>();
      for (const int id : ids) EXPECT_TRUE(id >= 0 && id < 4096) << id;
      prompts.back().push_back(json(ids).dump());
    }
  }
  EXPECT_EQ(prompts[0], prompts[1]);
  EXPECT_NE(prompts[0], prompts[2]);
  EXPECT_NE(prompts[0][1], prompts[0][2]);
}

TEST(BenchServe, LengthsDifferByUpToTheRangeRatio) {
  FakeOpenAiServer server(answer);
  const ProgramResult result = run_program(
      {"bench-serve", "--base-url", server.url(), "--model", "m", "--num-prompts", "40",
       "--random-input-len", "10", "--random-output-len", "20", "--random-range-ratio", "0.5"});
  ASSERT_EQ(result.status, 0) << result.err;
  std::set<size_t> inputs;
  std::set<int> outputs;
  for (const auto& request : server.requests()) {
    const json body = json::parse(request.body);
    inputs.insert(body["prompt"].size());
    outputs.insert(body["max_tokens"].get<int>());
  }
  EXPECT_GE(*inputs.begin(), 5U);
  EXPECT_LE(*inputs.rbegin(), 15U);
  EXPECT_GE(inputs.size(), 6U);
  EXPECT_GE(*outputs.begin(), 10);
  EXPECT_LE(*outputs.rbegin(), 30);
  EXPECT_GE(outputs.size(), 10U);
}

TEST(BenchThroughput, RunsEveryRequestToItsLength) {
  const std::string model = std::string(MOE4_EMBEDDED_MODELS) + "/tiny-qwen3_5-moe-nvfp4";
  const ProgramResult result =
      run_program({"bench", "throughput", model, "--num-prompts", "6", "--random-input-len", "9",
                   "--random-output-len", "5", "--max-concurrency", "3", "--max-model-len", "64",
                   "--max-num-seqs", "4", "-q", "--json"});
  ASSERT_EQ(result.status, 0) << result.err;
  const json report = json::parse(result.out);
  EXPECT_EQ(report["num_requests"], 6);
  EXPECT_EQ(report["total_input_tokens"], 54);
  EXPECT_EQ(report["total_output_tokens"], 30);
  EXPECT_EQ(report["max_concurrency"], 3);
  EXPECT_NEAR(
      report["output_tokens_per_second"].get<double>() * report["elapsed_time"].get<double>(), 30,
      1e-6);
  EXPECT_GE(report["steps"], 10) << "three at once";
  const ProgramResult wrong =
      run_program({"bench-throughput", model, "--random-input-len", "70", "--max-model-len", "64"});
  EXPECT_EQ(wrong.status, 2) << wrong.err;
}

TEST(BenchServe, WhatIsWrongIsOneLine) {
  FakeOpenAiServer refusing([](const auto&, const auto& out) {
    out.reply(400, R"({"error": {"message": "token 4711 is not in the vocabulary"}})");
  });
  const ProgramResult result =
      run_program({"bench", "serve", "--base-url", refusing.url(), "--model", "m"});
  EXPECT_EQ(result.status, 4);
  EXPECT_THAT(result.err, StartsWith("error: the first request failed: HTTP 400: token 4711"));
  EXPECT_THAT(result.err, HasSubstr("--tokenizer FOLDER"));
  EXPECT_EQ(result.out, "");
  EXPECT_EQ(run_program({"bench", "serve", "--base-url", "ftp://localhost"}).status, 2);
  EXPECT_EQ(run_program({"bench", "serve", "--request-rate", "0"}).status, 2);
  EXPECT_EQ(run_program({"bench", "serve", "--dataset-name", "sharegpt"}).status, 2);
}

}  // namespace
}  // namespace moe4
