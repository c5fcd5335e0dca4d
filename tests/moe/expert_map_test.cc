// Which ids of the router reach an expert of this process.
#include "moe/expert_map.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <limits>

namespace moe4 {
namespace {

TEST(ExpertMap, IdsFromNumExpertsUpNeverReadBehindTheMap) {
  // What follows the four entries of the map would be experts, if it were read.
  const int32_t map[] = {2, -1, 0, 1, 0, 1, 2, 0};
  const int32_t expected[] = {2, -1, 0, 1};
  for (int32_t id = 0; id < 4; ++id) EXPECT_EQ(local_expert(id, map, 4, 3), expected[id]);
  for (int32_t id = 4; id < 8; ++id) EXPECT_EQ(local_expert(id, map, 4, 3), -1) << id;
  for (const int32_t id : {4, 1000000, std::numeric_limits<int32_t>::max()}) {
    EXPECT_EQ(local_expert(id, nullptr, 4, 4), -1) << id;
  }
}

TEST(ExpertMap, NegativeIdsAreNoExperts) {
  const int32_t around[] = {0, 1, 2, -1};
  for (const int32_t id : {-1, -2}) EXPECT_EQ(local_expert(id, around + 2, 2, 3), -1);
  EXPECT_EQ(local_expert(std::numeric_limits<int32_t>::min(), nullptr, 4, 4), -1);
}

TEST(ExpertMap, WithoutAMapTheShareBeginsWithExpertZero) {
  EXPECT_EQ(local_expert(1, nullptr, 8, 2), 1);
  EXPECT_EQ(local_expert(2, nullptr, 8, 2), -1);
  EXPECT_EQ(local_expert(7, nullptr, 8, 8), 7);
}

TEST(ExpertMap, AnEntryBeyondTheExpertsHeldIsNoExpert) {
  const int32_t map[] = {0, 2};
  EXPECT_EQ(local_expert(1, map, 2, 2), -1);
}

}  // namespace
}  // namespace moe4
