// The thread pool runs every thread and every chunk once, at any size, also after it slept.
#include "base/thread_pool.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <numeric>
#include <vector>

namespace moe4 {
namespace {

class ThreadPoolTest : public ::testing::TestWithParam<int> {
 protected:
  ThreadPool pool_{GetParam()};
};

TEST_P(ThreadPoolTest, SizeCountsTheCaller) { EXPECT_EQ(pool_.size(), GetParam()); }

TEST_P(ThreadPoolTest, RunCallsEveryThreadOnce) {
  std::vector<std::atomic<int>> calls(pool_.size());
  for (int round = 1; round <= 100; ++round) {
    pool_.run([&](int thread) { calls[thread].fetch_add(1); });
    for (const auto& count : calls) ASSERT_EQ(count.load(), round);
  }
}

TEST_P(ThreadPoolTest, WhatAThreadWroteIsVisibleAfterRun) {
  std::vector<int64_t> partial(pool_.size());  // not atomic on purpose
  for (int64_t round = 1; round <= 200; ++round) {
    pool_.run([&](int thread) { partial[thread] = round * (thread + 1); });
    const int64_t n = pool_.size();
    ASSERT_EQ(std::accumulate(partial.begin(), partial.end(), int64_t{0}), round * n * (n + 1) / 2);
  }
}

TEST_P(ThreadPoolTest, ParallelForCoversEachIndexOnce) {
  for (int64_t n : {0, 1, 2, 7, 64, 1000}) {
    for (int64_t grain : {1, 3, 64, 5000}) {
      std::vector<std::atomic<int>> touched(n);
      pool_.parallel_for(n, grain, [&](int64_t begin, int64_t end, int thread) {
        ASSERT_LT(thread, pool_.size());
        ASSERT_LE(end, n);
        ASSERT_LE(end - begin, std::max(grain, int64_t{1}));
        for (int64_t i = begin; i < end; ++i) touched[i].fetch_add(1);
      });
      EXPECT_TRUE(std::all_of(touched.begin(), touched.end(),
                              [](const auto& count) { return count.load() == 1; }))
          << n << " " << grain;
    }
  }
}

TEST_P(ThreadPoolTest, BarrierSeparatesPhases) {
  constexpr int kPhases = 50;
  std::vector<int> written(pool_.size() * kPhases);  // not atomic on purpose
  std::atomic<int> mistakes{0};
  pool_.run([&](int thread) {
    for (int phase = 0; phase < kPhases; ++phase) {
      written[phase * pool_.size() + thread] = phase + 1;
      pool_.barrier();
      for (int other = 0; other < pool_.size(); ++other) {
        if (written[phase * pool_.size() + other] != phase + 1) mistakes.fetch_add(1);
      }
    }
  });
  EXPECT_EQ(mistakes.load(), 0);
}

TEST_P(ThreadPoolTest, DestroyingAnIdlePoolReturns) {
  for (int i = 0; i < 20; ++i) ThreadPool pool(GetParam());
}

INSTANTIATE_TEST_SUITE_P(Sizes, ThreadPoolTest, ::testing::Values(1, 2, 3, 8));

TEST(ThreadPool, ZeroMeansAllThreadsOfThisProcess) { EXPECT_GE(ThreadPool(0).size(), 1); }

}  // namespace
}  // namespace moe4
