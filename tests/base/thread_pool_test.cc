// The thread pool does every piece of work once, at any size, also after it slept and without a
// core for every thread.
#include "base/thread_pool.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <deque>
#include <numeric>
#include <string>
#include <thread>
#include <vector>

#include "base/cpu_count.h"
#include "base/error.h"

namespace moe4 {
namespace {

class ThreadPoolTest : public ::testing::TestWithParam<int> {
 protected:
  ThreadPool pool_{GetParam()};
};

TEST_P(ThreadPoolTest, SizeCountsTheCaller) { EXPECT_EQ(pool_.size(), GetParam()); }

TEST_P(ThreadPoolTest, RunOnAllCallsEveryThreadOnce) {
  std::vector<std::atomic<int>> calls(pool_.size());
  for (int round = 1; round <= 100; ++round) {
    pool_.run_on_all([&](int thread) { calls[thread].fetch_add(1); });
    for (const auto& count : calls) ASSERT_EQ(count.load(), round);
  }
}

TEST_P(ThreadPoolTest, RunCallsNoThreadTwiceAndTheCallerAlways) {
  for (int round = 0; round < 2000; ++round) {
    std::vector<std::atomic<int>> calls(pool_.size());
    pool_.run([&](int thread) { calls[thread].fetch_add(1); });
    ASSERT_EQ(calls[0].load(), 1);
    for (const auto& count : calls) ASSERT_LE(count.load(), 1);
  }
}

TEST_P(ThreadPoolTest, WhatAThreadWroteIsVisibleAfterRunOnAll) {
  std::vector<int64_t> partial(pool_.size());  // not atomic on purpose
  for (int64_t round = 1; round <= 200; ++round) {
    pool_.run_on_all([&](int thread) { partial[thread] = round * (thread + 1); });
    const int64_t n = pool_.size();
    ASSERT_EQ(std::accumulate(partial.begin(), partial.end(), int64_t{0}), round * n * (n + 1) / 2);
  }
}

// Work shared through a counter is all done and visible when run() returns, whoever did it.
TEST_P(ThreadPoolTest, WhatWasTakenIsDoneWhenRunReturns) {
  constexpr int kItems = 64;
  for (int round = 1; round <= 500; ++round) {
    std::vector<int> results(kItems);  // not atomic on purpose
    std::atomic<int> next{0};
    pool_.run([&](int) {
      for (int i; (i = next.fetch_add(1)) < kItems;) results[i] = round + i;
    });
    for (int i = 0; i < kItems; ++i) ASSERT_EQ(results[i], round + i);
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

TEST_P(ThreadPoolTest, APhaseBeginsWhenAllPiecesOfTheOneBeforeAreDone) {
  constexpr int64_t kPhases = 20, kItems = 16;
  for (int round = 0; round < 50; ++round) {
    std::vector<int64_t> written(kPhases * kItems);  // not atomic on purpose
    std::vector<std::atomic<int64_t>> next(kPhases);
    std::deque<ThreadPool::Phase> phases;
    for (int64_t p = 0; p < kPhases; ++p) phases.emplace_back(kItems);
    std::atomic<int> mistakes{0};
    pool_.run([&](int thread) {
      for (int64_t p = 0; p < kPhases; ++p) {
        int64_t done = 0;
        for (int64_t i; (i = next[p].fetch_add(1)) < kItems; ++done) {
          written[p * kItems + i] = p + 1;
          for (int64_t other = 0; p > 0 && other < kItems; ++other)
            if (written[(p - 1) * kItems + other] != p) mistakes.fetch_add(1);
        }
        pool_.finish(phases[p], done);
        pool_.wait(phases[p], thread);
      }
    });
    ASSERT_EQ(mistakes.load(), 0);
    for (int64_t i = 0; i < kPhases * kItems; ++i) ASSERT_EQ(written[i], i / kItems + 1);
  }
}

// A worker that sits in a region which the caller has left is waited for, asleep in the end.
TEST_P(ThreadPoolTest, WorkThatAWorkerHasBegunIsWaitedFor) {
  if (pool_.size() == 1) return;
  std::atomic<int> inside{0};
  std::atomic<bool> finished{false};
  pool_.run([&](int thread) {
    if (thread == 0) {
      while (inside.load() == 0) std::this_thread::yield();
      return;
    }
    if (inside.fetch_add(1) > 0) return;
    // Longer than any spinning of the caller.
    const auto until = std::chrono::steady_clock::now() + std::chrono::milliseconds(5);
    while (std::chrono::steady_clock::now() < until) std::this_thread::yield();
    finished.store(true);
  });
  EXPECT_TRUE(finished.load());
}

TEST_P(ThreadPoolTest, DestroyingAnIdlePoolReturns) {
  for (int i = 0; i < 20; ++i) ThreadPool pool(GetParam());
}

// A worker may be anywhere between its look for a region and its sleep when the pool ends.
TEST_P(ThreadPoolTest, DestroyingAPoolRightAfterARegionReturns) {
  for (int i = 0; i < 2000; ++i) {
    ThreadPool pool(GetParam());
    for (int region = 0; region <= i % 4; ++region) pool.run([](int) {});
  }
}

INSTANTIATE_TEST_SUITE_P(Sizes, ThreadPoolTest, ::testing::Values(1, 2, 3, 8));

// Workers go to sleep and get up in every order when they have no core of their own.
TEST(ThreadPool, ManyMoreThreadsThanCoresAllRun) {
  ThreadPool pool(64);
  std::vector<std::atomic<int>> calls(pool.size());
  for (int round = 1; round <= 30; ++round) {
    pool.run_on_all([&](int thread) { calls[thread].fetch_add(1); });
    for (const auto& count : calls) ASSERT_EQ(count.load(), round);
    for (int i = 0; i < 20; ++i) pool.run([](int) {});
  }
}

TEST(ThreadPool, ZeroMeansAllCoresThatThisProcessMayUse) {
  EXPECT_EQ(ThreadPool(0).size(), usable_cpus());
}

TEST(ThreadPool, ARegionEndsWithoutWorkersThatHaveNoCore) {
  cpu_set_t all, one;
  ASSERT_EQ(sched_getaffinity(0, sizeof all, &all), 0);
  int core = 0;
  while (!CPU_ISSET(core, &all)) ++core;
  CPU_ZERO(&one);
  CPU_SET(core, &one);
  // On one core, workers run only when the caller gives it away, and the caller never does: it
  // neither sleeps nor waits as long as all work is its own.
  ASSERT_EQ(sched_setaffinity(0, sizeof one, &one), 0);
  {
    ThreadPool pool(16);
    int64_t regions = 0, by_caller = 0;
    const auto until = std::chrono::steady_clock::now() + std::chrono::milliseconds(50);
    while (std::chrono::steady_clock::now() < until) {
      std::atomic<int> next{0};
      pool.run([&](int thread) {
        while (next.fetch_add(1) < 4) {
          if (thread == 0) ++by_caller;  // one writer
        }
      });
      ++regions;
    }
    EXPECT_GT(by_caller, regions * 3);
  }
  ASSERT_EQ(sched_setaffinity(0, sizeof all, &all), 0);
}

TEST(ThreadPool, TooManyThreadsAreAUsageError) {
  try {
    ThreadPool pool(ThreadPool::kMaxThreads + 1);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kUsage);
    EXPECT_THAT(error.what(), ::testing::HasSubstr("1025 threads"));
  }
}

// In a child process: its address space has no room for the stacks.
TEST(ThreadPool, ThreadsThatTheSystemRefusesAreAnErrorAndThoseStartedEnd) {
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
  GTEST_SKIP() << "sanitizers need the address space";
#endif
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    alarm(60);  // a hang is a failure, not an endless test
    const rlimit limit{.rlim_cur = size_t{1} << 30, .rlim_max = size_t{1} << 30};
    setrlimit(RLIMIT_AS, &limit);
    try {
      ThreadPool pool(1000);
      _exit(1);
    } catch (const Error& error) {
      const std::string message = error.what();
      _exit(error.code() == ErrorCode::kUnavailable &&
                    message.find("cannot start 1000 threads, only ") != std::string::npos
                ? 0
                : 2);
    } catch (...) {
      _exit(3);
    }
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFEXITED(status)) << "killed by signal " << WTERMSIG(status);
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

}  // namespace
}  // namespace moe4
