// Continuous batching: a request's logits are those that it has alone, bit for bit, whoever shares
// its steps, and also when it is preempted or finds a part of its prompt computed.
#include "engine/engine.h"

#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <memory>

#include "base/error.h"
#include "engine/sequence.h"
#include "experts/registry.h"
#include "support/random_moe.h"

namespace moe4 {
namespace {

namespace fs = std::filesystem;
using testing::Random;

constexpr const char* kAttentionOnly = "qwen3-modelopt-nvfp4";
constexpr const char* kHybrid = "qwen3_5-modelopt-mixed-prefix";

std::unique_ptr<Model> load(const char* folder, ThreadPool& threads) {
  register_builtin_backends();
  const auto checkpoint = Checkpoint::open(fs::path(MOE4_TEST_DATA) / "checkpoints" / folder);
  return Model::load(*checkpoint, {.threads = &threads});
}

int32_t best(std::span<const float> logits) {
  return static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

// What a request asks for and what came of it.
struct Job {
  std::vector<int32_t> prompt;
  int64_t max_new_tokens = 0;
  std::vector<int32_t> tokens;
  std::vector<float> logits;  // that its tokens were chosen from
  int ends = 0;

  EngineRequest request() {
    return {.prompt = prompt,
            .max_new_tokens = max_new_tokens,
            .next_token =
                [this](std::span<float> found) {
                  logits.insert(logits.end(), found.begin(), found.end());
                  tokens.push_back(best(found));
                  return std::optional(tokens.back());
                },
            .on_end = [this](std::exception_ptr error) { ends += error ? 100 : 1; }};
  }

  // The same by a sequence of its own.
  void expect_as_alone(const Model& model) const {
    Sequence sequence(model, static_cast<int64_t>(prompt.size()) + max_new_tokens);
    std::vector<float> alone;
    sequence.forward(prompt, LogitsFor::kLastToken, alone);
    ASSERT_EQ(static_cast<int64_t>(tokens.size()), max_new_tokens);
    for (size_t i = 0; i < tokens.size(); ++i) {
      ASSERT_EQ(std::memcmp(alone.data(), logits.data() + i * alone.size(), alone.size() * 4), 0)
          << "token " << i;
      ASSERT_EQ(tokens[i], best(alone));
      sequence.forward({&tokens[i], 1}, LogitsFor::kLastToken, alone);
    }
  }
};

std::vector<int32_t> random_ids(Random& random, int64_t n) {
  std::vector<int32_t> ids(n);
  for (int32_t& id : ids) id = static_cast<int32_t>(random.below(300));
  return ids;
}

class Engines : public ::testing::TestWithParam<const char*> {};

TEST_P(Engines, RandomArrivalsAbortsAndPreemptionsChangeNoBitOfAnyRequest) {
  ThreadPool threads(2);
  const auto model = load(GetParam(), threads);
  for (const int64_t count : {1, 4, 16}) {
    Random random(static_cast<uint64_t>(count));
    std::vector<Job> jobs(count);
    for (Job& job : jobs) {
      job.prompt = random_ids(random, 1 + random.below(150));
      job.max_new_tokens = 1 + random.below(30);
    }
    // Pages for about two of them.
    Engine engine(*model, {.scheduler = {.max_tokens = 80, .max_seqs = 6},
                           .max_context = 200,
                           .cache_tokens = 4 * kPageTokens});
    size_t next = 0;
    std::vector<int32_t> strangers;
    for (int steps = 0; next < jobs.size() || engine.num_requests() > 0; ++steps) {
      ASSERT_LT(steps, 5000);
      if (next < jobs.size() && random.below(3) == 0) engine.submit(jobs[next++].request());
      if (random.below(10) == 0) {
        // Somebody who goes away again, before or after a step.
        const RequestId id = engine.submit(
            {.prompt = random_ids(random, 1 + random.below(100)),
             .max_new_tokens = 20,
             .next_token = [](std::span<float> logits) { return std::optional(best(logits)); }});
        for (int64_t i = random.below(3); i > 0; --i) engine.step();
        engine.cancel(id);
      }
      engine.step();
    }
    for (const Job& job : jobs) {
      EXPECT_EQ(job.ends, 1);
      job.expect_as_alone(*model);
      if (HasFatalFailure()) return;
    }
    if (count == 16) {
      EXPECT_GT(engine.num_preemptions(), 0) << "the test was too easy";
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, Engines, ::testing::Values(kAttentionOnly, kHybrid),
                         [](const auto& info) {
                           return info.param == kHybrid ? std::string("Hybrid")
                                                        : std::string("AttentionOnly");
                         });

TEST(Engine, AnEqualBeginningIsComputedOnceAndChangesNoBit) {
  ThreadPool threads(2);
  const auto model = load(kAttentionOnly, threads);
  Engine engine(
      *model,
      {.scheduler = {.max_tokens = 100, .max_seqs = 4}, .max_context = 300, .cache_tokens = 1024});
  Random random(9);
  const std::vector<int32_t> beginning = random_ids(random, 150);
  std::vector<Job> jobs(4);
  for (Job& job : jobs) {
    job.prompt = beginning;
    const std::vector<int32_t> rest = random_ids(random, 1 + random.below(60));
    job.prompt.insert(job.prompt.end(), rest.begin(), rest.end());
    job.max_new_tokens = 5;
    engine.submit(job.request());
    while (engine.num_requests() > (&job == &jobs[1] ? 1 : 0)) engine.step();
  }
  while (engine.step()) {
  }
  EXPECT_EQ(engine.num_cached_tokens(), 3 * 2 * kPageTokens);
  for (const Job& job : jobs) job.expect_as_alone(*model);
}

TEST(Engine, ARequestThatFailsEndsAlone) {
  ThreadPool threads(1);
  const auto model = load(kAttentionOnly, threads);
  Engine engine(
      *model,
      {.scheduler = {.max_tokens = 100, .max_seqs = 4}, .max_context = 300, .cache_tokens = 1024});
  Random random(10);
  Job good{.prompt = random_ids(random, 20), .max_new_tokens = 6};
  engine.submit(good.request());
  std::string message;
  const auto keep = [&](std::exception_ptr error) {
    try {
      std::rethrow_exception(error);
    } catch (const std::exception& e) {
      message = e.what();
    }
  };
  engine.submit({.prompt = {1, 2, 3},
                 .max_new_tokens = 6,
                 .next_token = [](std::span<float>) -> std::optional<int32_t> {
                   throw Error(ErrorCode::kBadInput, "no token");
                 },
                 .on_end = keep});
  while (engine.step()) {
  }
  EXPECT_EQ(message, "no token");
  // An id outside the vocabulary is no token either.
  engine.submit({.prompt = {1},
                 .max_new_tokens = 6,
                 .next_token = [](std::span<float>) { return std::optional<int32_t>(1 << 30); },
                 .on_end = keep});
  while (engine.step()) {
  }
  EXPECT_NE(message.find("outside the vocabulary"), std::string::npos);
  EXPECT_EQ(good.ends, 1);
  good.expect_as_alone(*model);
}

TEST(Engine, WhatItCannotHoldIsRefusedWithNumbers) {
  ThreadPool threads(1);
  const auto model = load(kAttentionOnly, threads);
  Engine engine(
      *model,
      {.scheduler = {.max_tokens = 100, .max_seqs = 4}, .max_context = 100, .cache_tokens = 1024});
  const auto token = [](std::span<float>) { return std::optional<int32_t>(1); };
  const auto code = [&](EngineRequest request) {
    try {
      engine.submit(std::move(request));
    } catch (const Error& error) {
      return error.code();
    }
    return ErrorCode::kInternal;
  };
  EXPECT_EQ(code({.max_new_tokens = 1, .next_token = token}), ErrorCode::kUsage);
  EXPECT_EQ(code({.prompt = {1, 2}, .max_new_tokens = 99, .next_token = token}), ErrorCode::kUsage);
  EXPECT_EQ(code({.prompt = {1, -2}, .max_new_tokens = 9, .next_token = token}),
            ErrorCode::kBadInput);
  EXPECT_EQ(engine.num_requests(), 0);
  EXPECT_FALSE(engine.step());
}

}  // namespace
}  // namespace moe4
