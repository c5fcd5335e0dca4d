// Continuous batching: a request's logits are those that it has alone, bit for bit, whoever shares
// its steps, and also when it is preempted or finds a part of its prompt computed.
#include "engine/engine.h"

#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <memory>

#include "base/error.h"
#include "engine/scripted_model.h"
#include "ops/experts/registry.h"
#include "support/random_moe.h"
#include "support/sequence.h"

namespace moe4 {
namespace {

using testing::LogitsFor;
using testing::Sequence;

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
  int starts = 0, ends = 0;
  int64_t cached = 0;  // tokens of the prompt that were computed before
  int64_t cached_at_start = 0;

  EngineRequest request() {
    return {.prompt = prompt,
            .max_new_tokens = max_new_tokens,
            .next_token =
                [this](std::span<float> found) {
                  logits.insert(logits.end(), found.begin(), found.end());
                  tokens.push_back(best(found));
                  return std::optional(tokens.back());
                },
            .on_start =
                [this](int64_t found) {
                  ++starts;
                  cached_at_start = found;
                },
            .on_end =
                [this](const RequestEnd& end) {
                  ends += end.error ? 100 : 1;
                  cached += end.cached_tokens;
                }};
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

// 0, or what --gtest_shuffle --gtest_repeat counts: other schedules each time (.ci/extended).
uint64_t round_of_seeds() {
  if (!GTEST_FLAG_GET(shuffle)) return 0;
  return static_cast<uint64_t>(::testing::UnitTest::GetInstance()->random_seed());
}

// Prompts of a few families with equal beginnings.
std::vector<int32_t> family_ids(Random& random, int64_t n) {
  Random family(100 + static_cast<uint64_t>(random.below(3)));
  std::vector<int32_t> ids = random_ids(family, n);
  for (int64_t t = 64 * random.below(3) + random.below(64); t < n; ++t) {
    ids[t] = static_cast<int32_t>(random.below(300));
  }
  return ids;
}

TEST_P(Engines, RandomArrivalsAbortsAndPreemptionsChangeNoBitOfAnyRequest) {
  ThreadPool threads(2);
  const auto model = load(GetParam(), threads);
  for (const int64_t count : {1, 4, 16, 64}) {
    SCOPED_TRACE(::testing::Message() << count << " requests, round " << round_of_seeds());
    Random random(static_cast<uint64_t>(count) + 1000 * round_of_seeds());
    std::vector<Job> jobs(count);
    for (Job& job : jobs) {
      job.prompt = family_ids(random, 1 + random.below(150));
      job.max_new_tokens = 1 + random.below(30);
    }
    // Pages for a few of them at a time.
    Engine engine(*model, {.max_tokens = 80,
                           .max_seqs = count == 64 ? 12 : 6,
                           .max_context = 200,
                           .cache_tokens = (count == 64 ? 5 : 4) * kPageTokens,
                           .snapshot_bytes = int64_t{1} << 18,
                           .cache_generated = count != 4});
    size_t next = 0;
    for (int steps = 0; next < jobs.size() || engine.num_requests() > 0; ++steps) {
      ASSERT_LT(steps, 5000);
      while (next < jobs.size() && random.below(3) == 0) engine.submit(jobs[next++].request());
      if (random.below(10) == 0) {
        // Somebody who goes away again, before or after a step.
        const RequestId id = engine.submit(
            {.prompt = family_ids(random, 1 + random.below(100)),
             .max_new_tokens = 20,
             .next_token = [](std::span<float> logits) { return std::optional(best(logits)); }});
        for (int64_t i = random.below(3); i > 0; --i) engine.step();
        engine.cancel(id);
      }
      engine.step();
    }
    int64_t cached = 0;
    for (const Job& job : jobs) {
      EXPECT_EQ(job.starts, 1);
      EXPECT_EQ(job.ends, 1);
      EXPECT_EQ(job.cached_at_start, job.cached);
      cached += job.cached;
      job.expect_as_alone(*model);
      if (HasFatalFailure()) return;
    }
    const EngineStats stats = engine.stats();
    EXPECT_EQ(stats.running + stats.waiting + stats.used_pages, 0);
    EXPECT_EQ(stats.pages, count == 64 ? 5 : 4);
    if (count >= 16) {
      EXPECT_GT(engine.num_preemptions(), 0) << "the test was too easy";
      EXPECT_GT(cached, 0);
    }
  }
}

TEST_P(Engines, StatsSayHowManyTokensTheLastStepComputed) {
  ThreadPool threads(1);
  const auto model = load(GetParam(), threads);
  Engine engine(*model, {.max_tokens = 80, .max_seqs = 2, .max_context = 200, .cache_tokens = 200});
  Random random(3);
  const auto submit = [&](int64_t prompt) {
    engine.submit(
        {.prompt = family_ids(random, prompt),
         .max_new_tokens = 3,
         .next_token = [](std::span<float> logits) { return std::optional(best(logits)); }});
  };
  EXPECT_EQ(engine.stats().step_tokens, 0);
  submit(5);
  engine.step();
  EXPECT_EQ(engine.stats().step_tokens, 5);
  submit(7);
  engine.step();
  EXPECT_EQ(engine.stats().step_tokens, 1 + 7);
  engine.step();  // ends the first, whose last token is only sampled
  EXPECT_EQ(engine.stats().step_tokens, 2);
  engine.step();
  EXPECT_EQ(engine.stats().step_tokens, 1);
}

TEST_P(Engines, AnEqualBeginningIsComputedOnceAndChangesNoBit) {
  ThreadPool threads(2);
  const auto model = load(GetParam(), threads);
  const bool hybrid = GetParam() == kHybrid;
  Engine engine(*model,
                {.max_tokens = 100, .max_seqs = 4, .max_context = 300, .cache_tokens = 1024});
  Random random(9);
  const std::vector<int32_t> beginning = random_ids(random, 150);
  std::vector<Job> jobs(4);
  for (Job& job : jobs) {
    job.prompt = beginning;
    const std::vector<int32_t> rest = random_ids(random, 50 + random.below(60));
    job.prompt.insert(job.prompt.end(), rest.begin(), rest.end());
    job.max_new_tokens = 5;
    engine.submit(job.request());
    while (engine.num_requests() > (&job == &jobs[1] ? 1 : 0)) engine.step();
  }
  while (engine.step()) {
  }
  // With a recurrent state the second finds out where prompts part, and the others go on from
  // there.
  EXPECT_EQ(jobs[0].cached, 0);
  EXPECT_EQ(jobs[1].cached, hybrid ? 0 : 2 * kPageTokens);
  for (const int i : {2, 3}) EXPECT_EQ(jobs[i].cached, 2 * kPageTokens);
  for (const Job& job : jobs) job.expect_as_alone(*model);
}

TEST_P(Engines, ATurnGoesOnFromTheAnswerBeforeItOnRequestAndChangesNoBit) {
  ThreadPool threads(2);
  const auto model = load(GetParam(), threads);
  for (const bool cache_generated : {false, true}) {
    Engine engine(*model, {.max_tokens = 100,
                           .max_seqs = 1,
                           .max_context = 500,
                           .cache_tokens = 500,
                           .cache_generated = cache_generated});
    Random random(11);
    Job first{.prompt = random_ids(random, 70), .max_new_tokens = 150};
    engine.submit(first.request());
    while (engine.step()) {
    }
    Job second{.prompt = first.prompt, .max_new_tokens = 5};
    second.prompt.insert(second.prompt.end(), first.tokens.begin(), first.tokens.end());
    second.prompt.push_back(7);
    engine.submit(second.request());
    while (engine.step()) {
    }
    EXPECT_EQ(second.cached, cache_generated ? 3 * kPageTokens : kPageTokens);
    second.expect_as_alone(*model);
  }
}

TEST_P(Engines, WithoutMemoryForASnapshotOnlyPagesAreReused) {
  ThreadPool threads(1);
  const auto model = load(GetParam(), threads);
  Engine engine(*model, {.max_tokens = 100,
                         .max_seqs = 2,
                         .max_context = 300,
                         .cache_tokens = 1024,
                         .snapshot_bytes = 100});
  Random random(12);
  std::vector<Job> jobs(2, {.prompt = random_ids(random, 130), .max_new_tokens = 2});
  for (Job& job : jobs) {
    engine.submit(job.request());
    while (engine.step()) {
    }
    job.expect_as_alone(*model);
  }
  EXPECT_EQ(jobs[1].cached, GetParam() == kHybrid ? 0 : 2 * kPageTokens);
}

TEST_P(Engines, ALongPromptDelaysARunningRequestByOneChunkAtMost) {
  ThreadPool threads(2);
  const auto model = load(GetParam(), threads);
  Engine engine(*model, {.max_tokens = 200,
                         .max_seqs = 2,
                         .prompt_chunk = 64,
                         .max_context = 1000,
                         .cache_tokens = 2000});
  Random random(13);
  Job runs{.prompt = random_ids(random, 3), .max_new_tokens = 40};
  engine.submit(runs.request());
  engine.step();
  Job comes{.prompt = random_ids(random, 900), .max_new_tokens = 1};
  engine.submit(comes.request());
  int64_t steps = 0;
  for (; comes.tokens.empty(); ++steps) {
    const size_t before = runs.tokens.size();
    engine.step();
    ASSERT_EQ(runs.tokens.size(), before + 1) << "a step without a token of its own";
  }
  EXPECT_EQ(steps, ceil_div(900, 64));
}

TEST_P(Engines, LogitsOfAPromptComeInOrderWhateverSharesItsSteps) {
  ThreadPool threads(2);
  const auto model = load(GetParam(), threads);
  Engine engine(*model, {.max_tokens = 100,
                         .max_seqs = 3,
                         .max_context = 300,
                         .cache_tokens = 1024,
                         .prompt_logits = 70});
  Random random(14);
  Job other{.prompt = random_ids(random, 90), .max_new_tokens = 20};
  engine.submit(other.request());
  engine.step();
  const std::vector<int32_t> ids = random_ids(random, 170);
  std::vector<float> logits, last, alone;
  bool ended = false;
  engine.submit({.prompt = ids,
                 .max_new_tokens = 1,
                 .next_token =
                     [&](std::span<float> row) {
                       last.assign(row.begin(), row.end());
                       return 1;
                     },
                 .prompt_logits =
                     [&](int64_t first, std::span<const float> rows) {
                       EXPECT_EQ(first * model->config().vocab_size,
                                 static_cast<int64_t>(logits.size()));
                       logits.insert(logits.end(), rows.begin(), rows.end());
                     },
                 .on_end = [&](const RequestEnd& end) { ended = !end.error; }});
  while (engine.step()) {
  }
  EXPECT_TRUE(ended);
  Sequence sequence(*model, 170);
  sequence.forward(ids, LogitsFor::kAllTokens, alone);
  ASSERT_EQ(logits.size(), alone.size());
  EXPECT_EQ(std::memcmp(logits.data(), alone.data(), alone.size() * 4), 0);
  // The token after them is chosen from the last row.
  ASSERT_EQ(static_cast<int64_t>(last.size()), model->config().vocab_size);
  EXPECT_EQ(std::memcmp(last.data(), alone.data() + alone.size() - last.size(), last.size() * 4),
            0);
  other.expect_as_alone(*model);
}

INSTANTIATE_TEST_SUITE_P(All, Engines, ::testing::Values(kAttentionOnly, kHybrid),
                         [](const auto& info) {
                           return info.param == kHybrid ? std::string("Hybrid")
                                                        : std::string("AttentionOnly");
                         });

TEST(Engine, ARequestThatFailsEndsAlone) {
  ThreadPool threads(1);
  const auto model = load(kAttentionOnly, threads);
  Engine engine(*model,
                {.max_tokens = 100, .max_seqs = 4, .max_context = 300, .cache_tokens = 1024});
  Random random(10);
  Job good{.prompt = random_ids(random, 20), .max_new_tokens = 6};
  engine.submit(good.request());
  std::string message;
  const auto keep = [&](const RequestEnd& end) {
    try {
      std::rethrow_exception(end.error);
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

TEST(Engine, AStepThatTheModelThrowsOutOfEndsWhoTookPartAndNobodyElse) {
  bool broken = false;
  const testing::ScriptedModel model(300, 1000, [&](const std::vector<int32_t>&) {
    if (broken) throw Error(ErrorCode::kUnavailable, "out of memory");
    return testing::only(5, 300);
  });
  Engine engine(model, {.max_tokens = 65, .max_seqs = 1, .max_context = 300, .cache_tokens = 320});
  Job fails{.prompt = {1, 2, 3}, .max_new_tokens = 9};
  Job waits{.prompt = {4}, .max_new_tokens = 3};
  engine.submit(fails.request());
  engine.step();
  engine.submit(waits.request());
  broken = true;
  engine.step();
  EXPECT_EQ(fails.ends, 100);
  EXPECT_EQ(waits.ends, 0);
  broken = false;
  while (engine.step()) {
  }
  EXPECT_EQ(waits.tokens, (std::vector<int32_t>{5, 5, 5}));
  EXPECT_EQ(waits.ends, 1);
}

TEST(Engine, WhatItCannotHoldIsRefusedWithNumbers) {
  ThreadPool threads(1);
  const auto model = load(kAttentionOnly, threads);
  Engine engine(*model,
                {.max_tokens = 100, .max_seqs = 4, .max_context = 100, .cache_tokens = 1024});
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
