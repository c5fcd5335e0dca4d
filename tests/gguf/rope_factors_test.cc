// Factors of rotary frequencies as files have them, and the settings that give them.
#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <numbers>

#include "checkpoint/gguf_rope_factors.h"

namespace moe4 {
namespace {

// What the converter writes for theta 5e6, 32 pairs, factor 2, context 131072, low 1, high 32
// (Step-3.5-Flash), from pair 14 on; before them are ones.
constexpr float kStep[] = {1.13836288f, 1.37449932f, 1.57643628f, 1.73372948f, 1.84756851f,
                           1.92564929f, 1.97725081f, 2.0f,        2.0f,        2.0f,
                           2.0f,        2.0f,        2.0f,        2.0f,        2.0f,
                           2.0f,        2.0f,        2.0f};

TEST(GgufRopeFactors, ARampIsFoundWithItsEnds) {
  std::vector<float> factors(14, 1.0f);
  factors.insert(factors.end(), std::begin(kStep), std::end(kStep));
  ASSERT_EQ(factors.size(), 32u);
  const auto found = llama3_of_factors(factors, 5e6);
  ASSERT_TRUE(found.has_value());
  EXPECT_EQ((*found)["rope_type"], "llama3");
  EXPECT_EQ((*found)["factor"], 2.0);
  EXPECT_EQ((*found)["low_freq_factor"], 1.0);
  EXPECT_NEAR((*found)["high_freq_factor"].get<double>(), 32, 1e-3);
  EXPECT_NEAR((*found)["original_max_position_embeddings"].get<double>(), 131072, 8);
}

// Llama-4 Scout: 64 pairs, theta 5e5, factor 16, context 8192, low and high 1: no ramp.
TEST(GgufRopeFactors, AStepIsPutBetweenItsNeighbours) {
  const auto wavelength = [](size_t i) {
    return 2 * std::numbers::pi * std::pow(5e5, static_cast<double>(i) / 64);
  };
  std::vector<float> factors(64, 1.0f);
  size_t first = 0;
  while (wavelength(first) < 8192) ++first;
  for (size_t i = first; i < factors.size(); ++i) factors[i] = 16.0f;
  const auto found = llama3_of_factors(factors, 5e5);
  ASSERT_TRUE(found.has_value());
  EXPECT_EQ((*found)["factor"], 16.0);
  EXPECT_EQ((*found)["high_freq_factor"], 1.0);
  const auto context = (*found)["original_max_position_embeddings"].get<double>();
  EXPECT_GT(context, wavelength(first - 1));
  EXPECT_LT(context, wavelength(first));
}

TEST(GgufRopeFactors, OnesAreNoScaling) {
  EXPECT_EQ(*llama3_of_factors(std::vector<float>(16, 1.0f), 1e4),
            Json({{"rope_type", "default"}}));
}

TEST(GgufRopeFactors, WhatNoSettingsGiveIsNotFound) {
  EXPECT_FALSE(llama3_of_factors({1, 1, 3, 2, 4, 4}, 1e4));  // not falling with 1 / wavelength
  EXPECT_FALSE(llama3_of_factors({1, 1, 1.1f, 1.2f, 4, 4}, 1e4));  // no line
  EXPECT_FALSE(llama3_of_factors({1, 0.5f, 4}, 1e4));
  EXPECT_FALSE(llama3_of_factors({1, NAN, 4}, 1e4));
  EXPECT_FALSE(llama3_of_factors({4, 4, 4}, 1e4));
}

}  // namespace
}  // namespace moe4
