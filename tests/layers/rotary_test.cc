// Rotary angles against NumPy's (scripts/make_long_context_goldens.py).
#include "layers/rotary.h"

#include <gtest/gtest.h>

#include "support/golden.h"

namespace moe4 {
namespace {

// Far along, the rounding of the angle to float32 moves cos and sin by up to 6e-2: part of what
// transformers computes.
TEST(Rotary, AnglesAreFloat32ProductsAtAnyPosition) {
  const testing::Golden golden(std::filesystem::path(MOE4_TEST_DATA) /
                               "long_context/golden.safetensors");
  const Rotary rotary(32, 10000.0);
  const std::vector<float> cos = golden.floats("rotary.cos"), sin = golden.floats("rotary.sin");
  const std::vector<int32_t> positions = golden.ints("rotary.positions");
  ASSERT_EQ(rotary.half(), 16);
  ASSERT_EQ(cos.size(), positions.size() * 16);
  std::vector<float> found_cos(16), found_sin(16);
  for (size_t p = 0; p < positions.size(); ++p) {
    rotary.angles(positions[p], found_cos.data(), found_sin.data());
    for (size_t i = 0; i < 16; ++i) {
      EXPECT_NEAR(found_cos[i], cos[p * 16 + i], 1e-6) << positions[p] << " " << i;
      EXPECT_NEAR(found_sin[i], sin[p * 16 + i], 1e-6) << positions[p] << " " << i;
    }
  }
}

}  // namespace
}  // namespace moe4
