// Device names as users write them.
#include "base/device.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"

namespace moe4 {
namespace {

TEST(Device, NamesRoundTrip) {
  for (const char* name : {"cpu", "sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120", "sm_121"})
    EXPECT_EQ(to_string(parse_device(name)), name);
}

TEST(Device, UnderscoreAndArchitectureSuffixAreOptional) {
  EXPECT_EQ(parse_device("sm90").sm, 90);
  EXPECT_EQ(parse_device("sm_90a").sm, 90);
  EXPECT_EQ(parse_device("sm_100f").sm, 100);
}

TEST(Device, UnknownNamesAreUsageErrorsThatListTheKnown) {
  for (const char* name : {"", "gpu", "sm_", "sm_85", "sm_9", "sm_90x", "90", "sm_-80", "CPU"}) {
    try {
      parse_device(name);
      ADD_FAILURE() << name;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kUsage);
      EXPECT_THAT(error.what(), ::testing::HasSubstr("sm_121"));
    }
  }
}

TEST(Device, Fp4TensorCoresBeginWithSm100) {
  EXPECT_FALSE(Device::cpu().has_fp4_tensor_cores());
  EXPECT_FALSE(Device::cuda_sm(90).has_fp4_tensor_cores());
  EXPECT_TRUE(Device::cuda_sm(100).has_fp4_tensor_cores());
  EXPECT_TRUE(Device::cuda_sm(121).has_fp4_tensor_cores());
}

TEST(Device, Sm12xIsSm120AndSm121) {
  EXPECT_TRUE(Device::cuda_sm(120).is_sm12x());
  EXPECT_TRUE(Device::cuda_sm(121).is_sm12x());
  EXPECT_FALSE(Device::cuda_sm(110).is_sm12x());
  EXPECT_FALSE(Device::cuda_sm(100).is_sm12x());
}

}  // namespace
}  // namespace moe4
