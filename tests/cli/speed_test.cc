// Which speeds are a share of the memory's read bandwidth.
#include "cli/speed.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace moe4::cli {
namespace {

using ::testing::EndsWith;

constexpr int64_t kMebibyte = 1 << 20;

GenerateResult eleven_tokens_in_a_second() {
  GenerateResult result;
  result.tokens.resize(11);
  result.decode_seconds = 1;
  return result;
}

// 2 GB a token, ten tokens a second.
Speed speed_with(const MemoryReads& memory) {
  return measure_speed(eleven_tokens_in_a_second(), 2'000'000'000, memory);
}

std::string line_with(const MemoryReads& memory) {
  return speed_line(eleven_tokens_in_a_second(), speed_with(memory));
}

TEST(Speed, WeightsThatCachesDoNotHoldAreAShareOfTheMemorysBandwidth) {
  const MemoryReads memory{.gbs = 25, .cache_bytes = 32 * kMebibyte};
  const Speed speed = speed_with(memory);
  EXPECT_DOUBLE_EQ(speed.gb_per_second, 20);
  EXPECT_DOUBLE_EQ(speed.memory_share.share.value_or(0), 0.8);
  EXPECT_EQ(share_cell(speed.memory_share), "80%");
  EXPECT_THAT(line_with(memory),
              EndsWith("20.00 GB/s (80% of the memory's read bandwidth measured here)"));
}

TEST(Speed, WhatFitsInCachesIsNoShareOfTheMemorysBandwidth) {
  const MemoryReads memory{.gbs = 5, .cache_bytes = 2'000'000'000};
  const Speed speed = speed_with(memory);
  EXPECT_TRUE(speed.memory_share.in_caches);
  EXPECT_EQ(speed.memory_share.share, std::nullopt);
  EXPECT_EQ(share_cell(speed.memory_share), "in caches");
  EXPECT_THAT(line_with(memory),
              EndsWith("20.00 GB/s (they fit in the caches, 2.000 GB; memory reads at 5.0 GB/s)"));
  EXPECT_FALSE(speed_with({.gbs = 5, .cache_bytes = 1'999'999'999}).memory_share.in_caches);
}

TEST(Speed, NoLineSaysMoreThanAllOfTheMemorysBandwidth) {
  const MemoryReads memory{.gbs = 16, .cache_bytes = 32 * kMebibyte};
  const Speed speed = speed_with(memory);
  EXPECT_DOUBLE_EQ(speed.memory_share.share.value_or(0), 1.25);
  EXPECT_EQ(share_cell(speed.memory_share), "over 100%");
  EXPECT_THAT(line_with(memory), EndsWith("20.00 GB/s (more than the 16.0 GB/s of the memory's "
                                          "reads measured afterwards)"));
}

TEST(Speed, WhatWasNotMeasuredIsNotSaid) {
  for (const MemoryReads& memory : {MemoryReads{}, MemoryReads{.cache_bytes = kMebibyte}}) {
    EXPECT_EQ(share_cell(speed_with(memory).memory_share), "-");
    EXPECT_THAT(line_with(memory), EndsWith("20.00 GB/s"));
  }
  GenerateResult one;
  one.tokens.resize(1);
  one.decode_seconds = 1;
  const MemoryReads memory{.gbs = 16, .cache_bytes = kMebibyte};
  EXPECT_THAT(speed_line(one, measure_speed(one, 2'000'000'000, memory)), EndsWith("0.00 GB/s"));
  EXPECT_EQ(memory_share(0, 0, {}).in_caches, false);
}

}  // namespace
}  // namespace moe4::cli
