// The non-linearities, against their formulas in float64.
#include "moe/activation.h"

#include <gtest/gtest.h>

#include <cmath>

namespace moe4 {
namespace {

double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

const double kPoints[] = {-30, -7.5, -3, -1, -0.25, 0, 0.5, 1, 2, 6.5, 7.5, 30};

TEST(Activation, SiluGatesUp) {
  for (double gate : kPoints) {
    for (double up : kPoints) {
      EXPECT_NEAR(apply_activation<double>({}, gate, up), gate * sigmoid(gate) * up, 1e-12);
      EXPECT_NEAR(apply_activation<float>({}, static_cast<float>(gate), static_cast<float>(up)),
                  gate * sigmoid(gate) * up, 1e-4);
    }
  }
}

TEST(Activation, ALimitClampsGateFromAboveAndUpFromBothSides) {
  const ActivationParams p{.kind = ActivationKind::kSilu, .limit = 7.0f};
  EXPECT_NEAR(apply_activation<double>(p, 100, 100), 7 * sigmoid(7) * 7, 1e-12);
  EXPECT_NEAR(apply_activation<double>(p, 100, -100), 7 * sigmoid(7) * -7, 1e-12);
  EXPECT_NEAR(apply_activation<double>(p, -100, 1), -100 * sigmoid(-100), 1e-12);
}

TEST(Activation, SwigluOaiAddsBetaToUpAndScalesTheGate) {
  const ActivationParams p{
      .kind = ActivationKind::kSwigluOai, .alpha = 1.702f, .beta = 1.0f, .limit = 7.0f};
  for (double gate : kPoints) {
    for (double up : kPoints) {
      const double g = std::min(gate, 7.0), u = std::clamp(up, -7.0, 7.0);
      const double alpha = 1.702f;
      EXPECT_NEAR(apply_activation<double>(p, gate, up), g * sigmoid(alpha * g) * (u + 1), 1e-12);
    }
  }
}

TEST(Activation, GeluTanhFollowsTheTanhFormula) {
  const ActivationParams p{.kind = ActivationKind::kGeluTanh};
  for (double gate : kPoints) {
    const double inner = std::sqrt(2 / M_PI) * (gate + 0.044715 * gate * gate * gate);
    EXPECT_NEAR(apply_activation<double>(p, gate, 2), gate * (1 + std::tanh(inner)), 1e-9);
  }
}

TEST(Activation, Relu2IgnoresTheGateAndSquares) {
  const ActivationParams p{.kind = ActivationKind::kRelu2};
  EXPECT_FALSE(p.is_gated());
  EXPECT_EQ(apply_activation<double>(p, NAN, 3), 9);
  EXPECT_EQ(apply_activation<double>(p, 5, -3), 0);
}

TEST(Activation, TheLateClampBoundsTheActivatedGate) {
  const ActivationParams late{.kind = ActivationKind::kSiluLateClamp, .limit = 7.0f};
  const ActivationParams early{.kind = ActivationKind::kSilu, .limit = 7.0f};
  // silu(7) is 7 / (1 + e^-7) = 6.9936...: below the limit, which only the late clamp reaches.
  EXPECT_EQ(apply_activation<double>(late, 10, 1), 7);
  EXPECT_NEAR(apply_activation<double>(early, 10, 1), 7 / (1 + std::exp(-7.0)), 1e-12);
  EXPECT_EQ(apply_activation<double>(late, 10, -9), -49);
  EXPECT_NEAR(apply_activation<double>(late, -1, 2), -2 / (1 + std::exp(1.0)), 1e-12);
  EXPECT_EQ(to_string(late), "silu(late limit=7)");
}

TEST(Activation, NanPassesThroughEveryKind) {
  for (ActivationKind kind :
       {ActivationKind::kSilu, ActivationKind::kSwigluOai, ActivationKind::kGeluTanh,
        ActivationKind::kRelu2, ActivationKind::kSiluLateClamp}) {
    const ActivationParams p{.kind = kind, .limit = 7.0f};
    EXPECT_TRUE(std::isnan(apply_activation<float>(p, 1.0f, NAN)));
    if (p.is_gated()) {
      EXPECT_TRUE(std::isnan(apply_activation<float>(p, NAN, 1.0f)));
    }
  }
}

TEST(Activation, NamesSayTheParametersThatMatter) {
  EXPECT_EQ(to_string(ActivationParams{}), "silu");
  EXPECT_EQ(to_string(ActivationParams{.limit = 10.0f}), "silu(limit=10)");
  EXPECT_EQ(to_string(ActivationParams{.kind = ActivationKind::kSwigluOai, .limit = 7.0f}),
            "swigluoai(alpha=1.702, beta=1, limit=7)");
  EXPECT_EQ(to_string(ActivationParams{.kind = ActivationKind::kRelu2}), "relu2");
}

}  // namespace
}  // namespace moe4
