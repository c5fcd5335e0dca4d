// WorkRanges: who gets which item.
#include "panels/work_ranges.h"

#include <gtest/gtest.h>

#include <vector>

#include "base/thread_pool.h"

namespace moe4::cpu {
namespace {

TEST(WorkRanges, OwnerTakesInOrderAndHelpersFromTheEnd) {
  std::vector<WorkRanges::Range> storage(2);
  WorkRanges ranges(storage.data(), 2);
  ranges.reset(6);  // 0 1 2 and 3 4 5
  for (const int64_t item : {3, 4, 5, 2}) {
    EXPECT_EQ(ranges.peek(1), item);
    EXPECT_EQ(ranges.take(1), item);
  }
  EXPECT_EQ(ranges.take(0), 0);
  EXPECT_EQ(ranges.take(1), 1);
  for (const int thread : {0, 1}) {
    EXPECT_EQ(ranges.peek(thread), -1);
    EXPECT_EQ(ranges.take(thread), -1);
  }
}

TEST(WorkRanges, EachItemGoesToOneThread) {
  ThreadPool threads(4);
  for (const int64_t items : {0, 1, 3, 1000}) {
    std::vector<WorkRanges::Range> storage(4);
    WorkRanges ranges(storage.data(), 4);
    ranges.reset(items);
    std::vector<std::atomic<int>> taken(items);
    threads.run([&](int thread) {
      for (int64_t i; (i = ranges.take(thread)) >= 0;) ++taken[i];
    });
    for (int64_t i = 0; i < items; ++i) EXPECT_EQ(taken[i].load(), 1) << i << " of " << items;
  }
}

}  // namespace
}  // namespace moe4::cpu
