// Rotary angles against NumPy's (scripts/make_long_context_goldens.py).
#include <gtest/gtest.h>

#include "ops/conformance.h"
#include "ops/rotary/rotary_angles.h"
#include "support/golden.h"
#include "support/shared_models.h"

namespace moe4 {
namespace {

// Far along, the rounding of the angle to float32 moves cos and sin by up to 6e-2: part of what
// transformers computes.
TEST(Rotary, AnglesAreFloat32ProductsAtAnyPosition) {
  const testing::Golden golden(testing::test_data() / "long_context/golden.safetensors");
  ThreadPool threads(1);
  const std::vector<float> cos = golden.floats("rotary.cos"), sin = golden.floats("rotary.sin");
  const std::vector<int32_t> positions = golden.ints("rotary.positions");
  ASSERT_EQ(cos.size(), positions.size() * 16);
  const RotarySpec spec{.dim = 32, .theta = 10000.0};
  testing::each_implementation<RotaryAngles>(
      spec,
      [&](const Implementation<RotaryAngles>& implementation, const OpOptions& options) {
        testing::OwnedRows angles(static_cast<int64_t>(positions.size()), 32);
        testing::run_op(*implementation.prepare(spec, {}, options),
                        {.positions = positions.data(), .y = angles.view()}, threads);
        for (size_t p = 0; p < positions.size(); ++p) {
          const std::vector<float> found = angles.row(static_cast<int64_t>(p));
          for (size_t i = 0; i < 16; ++i) {
            EXPECT_NEAR(found[i], cos[p * 16 + i], 1e-6) << positions[p] << " " << i;
            EXPECT_NEAR(found[16 + i], sin[p * 16 + i], 1e-6) << positions[p] << " " << i;
          }
        }
      },
      threads);
}

TEST(Rotary, TheAmplitudeMultipliesBothAndPaddingStandsAtZero) {
  const std::vector<int32_t> positions = {0, 7, -1, 100000};
  ThreadPool threads(1);
  const auto angles = [&](const Prepared<RotaryAngles>& op) {
    testing::OwnedRows y(4, 12);
    testing::run_op(op, {.positions = positions.data(), .y = y.view()}, threads);
    return y;
  };
  RotarySpec spec{.dim = 12, .theta = 500.0, .amplitude = 1.5};
  const auto judge = [&] {
    return angles(*testing::reference_of<RotaryAngles>().prepare(spec, {}, {}));
  };
  testing::OwnedRows expected = judge();
  EXPECT_EQ(expected.row(0)[0], 1.5f);
  EXPECT_EQ(expected.row(2), expected.row(0));
  testing::each_implementation<RotaryAngles>(
      spec,
      [&](const Implementation<RotaryAngles>& implementation, const OpOptions& options) {
        testing::OwnedRows found = angles(*implementation.prepare(spec, {}, options));
        EXPECT_LT(testing::relative_error(found.dense(), expected.dense()), 1e-7);
      },
      threads);
  spec.amplitude = 1.0;
  const std::vector<float> plain = judge().row(1), loud = expected.row(1);
  for (size_t i = 0; i < plain.size(); ++i) EXPECT_NEAR(loud[i], 1.5f * plain[i], 1e-6) << i;
}

}  // namespace
}  // namespace moe4
