// The engine's thread: what is submitted ends, once, in whichever way.
#include "server/engine_loop.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <future>
#include <latch>

#include "base/error.h"
#include "engine/scripted_model.h"
#include "server/api_error.h"

namespace moe4::server {
namespace {

using testing::only;
using testing::ScriptedModel;

constexpr int64_t kVocab = 16;

ScriptedModel model_of_fives() {
  return {kVocab, 1000, [](const std::vector<int32_t>&) { return only(5, kVocab); }};
}

EngineLimits one_at_a_time() {
  return {.max_tokens = kPageTokens + 1, .max_seqs = 1, .max_context = 1000, .cache_tokens = 2048};
}

// A request and the promise of its end.
struct Job {
  std::promise<std::string> promise;
  std::future<std::string> end = promise.get_future();
  int64_t tokens = 0;

  LoopRequest request(int64_t max_new_tokens, std::function<void()> on_token = {}) {
    return {.request = {.prompt = {1, 2},
                        .max_new_tokens = max_new_tokens,
                        .next_token =
                            [this, on_token](std::span<float>) {
                              ++tokens;
                              if (on_token) on_token();
                              return std::optional<int32_t>(5);
                            },
                        .on_end = [this](const RequestEnd& end) { finish(end); }},
            .on_abort = [this] { promise.set_value("aborted"); }};
  }

  void finish(const RequestEnd& end) {
    try {
      if (end.error) std::rethrow_exception(end.error);
      promise.set_value("done");
    } catch (const std::exception& error) {
      promise.set_value(error.what());
    }
  }
};

std::vector<LoopRequest> list(LoopRequest request) {
  std::vector<LoopRequest> requests;
  requests.push_back(std::move(request));
  return requests;
}

int status_of(const std::function<void()>& fn) {
  try {
    fn();
  } catch (const ApiError& error) {
    return error.status();
  }
  return 200;
}

TEST(EngineLoop, RequestsOfManyThreadsEnd) {
  const ScriptedModel model = model_of_fives();
  EngineLoop loop(model, one_at_a_time(), 100);
  std::vector<Job> jobs(16);
  std::vector<std::thread> threads;
  for (size_t t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (size_t i = t; i < jobs.size(); i += 4) loop.submit(list(jobs[i].request(3)));
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (Job& job : jobs) {
    EXPECT_EQ(job.end.get(), "done");
    EXPECT_EQ(job.tokens, 3);
  }
  EXPECT_EQ(loop.num_active(), 0);
}

TEST(EngineLoop, AbortTakesEffectBeforeTheNextStep) {
  const ScriptedModel model = model_of_fives();
  EngineLoop loop(model, one_at_a_time(), 1);
  Job job;
  std::latch has_token(1), is_aborted(1);
  const auto tickets = loop.submit(list(job.request(900, [&] {
    if (job.tokens > 1) return;
    has_token.count_down();
    is_aborted.wait();  // within the first step
  })));
  has_token.wait();
  loop.abort(tickets.front());
  loop.abort(tickets.front());  // twice does nothing
  is_aborted.count_down();
  EXPECT_EQ(job.end.get(), "aborted");
  EXPECT_EQ(job.tokens, 1);
  loop.abort(tickets.front());  // nor after its end
  Job next;
  loop.submit(list(next.request(2)));
  EXPECT_EQ(next.end.get(), "done");
}

TEST(EngineLoop, TooManyAreRefusedAndNoneOfThemTaken) {
  const ScriptedModel model = model_of_fives();
  EngineLoop loop(model, one_at_a_time(), 1);
  Job first, second, third;
  std::latch go(1);
  loop.submit(list(first.request(2, [&] { go.wait(); })));
  std::vector<LoopRequest> two;
  two.push_back(second.request(1));
  two.push_back(third.request(1));
  EXPECT_EQ(status_of([&] { loop.submit(std::move(two)); }), 429);
  loop.submit(list(second.request(1)));
  EXPECT_EQ(status_of([&] { loop.submit(list(third.request(1))); }), 429);
  EXPECT_EQ(loop.num_active(), 2);
  go.count_down();
  EXPECT_EQ(first.end.get(), "done");
  EXPECT_EQ(second.end.get(), "done");
  EXPECT_EQ(third.tokens, 0);
}

TEST(EngineLoop, AnErrorEndsOneRequest) {
  const ScriptedModel model = model_of_fives();
  EngineLoop loop(model, one_at_a_time(), 10);
  Job bad, refused, good;
  loop.submit(list(bad.request(5, [] { throw Error(ErrorCode::kBadInput, "a bad token"); })));
  loop.submit(list(refused.request(5000)));  // beyond the context
  loop.submit(list(good.request(2)));
  EXPECT_EQ(bad.end.get(), "a bad token");
  EXPECT_THAT(refused.end.get(), ::testing::HasSubstr("the context is 1000"));
  EXPECT_EQ(good.end.get(), "done");
  EXPECT_TRUE(loop.is_alive());
}

TEST(EngineLoop, DrainingRefusesNewOnesAndEndsOthers) {
  const ScriptedModel model = model_of_fives();
  EngineLoop loop(model, one_at_a_time(), 10);
  Job first, second;
  std::latch go(1);
  loop.submit(list(first.request(2, [&] { go.wait(); })));
  loop.drain();
  EXPECT_EQ(status_of([&] { loop.submit(list(second.request(1))); }), 503);
  go.count_down();
  EXPECT_EQ(first.end.get(), "done");
}

TEST(EngineLoop, ItsEndIsTheEndOfAllRequests) {
  const ScriptedModel model = model_of_fives();
  EngineLimits limits = one_at_a_time();
  limits.max_context = limits.cache_tokens = 1000000;  // a request of many seconds
  Job running, waiting;
  {
    EngineLoop loop(model, limits, 10);
    std::latch has_token(1);
    loop.submit(list(running.request(900000, [&] {
      if (running.tokens == 1) has_token.count_down();
    })));
    loop.submit(list(waiting.request(900000)));
    has_token.wait();
  }
  EXPECT_EQ(running.end.get(), "the server is shutting down");
  EXPECT_EQ(waiting.end.get(), "the server is shutting down");
}

}  // namespace
}  // namespace moe4::server
