// Shifts of MXFP4 exponents into a backend's window.
#include "moe/mxfp4_exponents.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "support/random_moe.h"

namespace moe4::testing {
namespace {

constexpr ExponentWindow kWindow{.least = 128, .most = 254, .preferred_shift = 106};

class Mxfp4Shift : public ::testing::Test {
 protected:
  // All blocks hold numbers; scale bytes as given, in turn.
  int shift(std::initializer_list<uint8_t> scales) {
    size_t next = 0;
    for (int64_t r = 0; r < linear_.out_features; ++r) {
      for (int64_t b = 0; b < linear_.scale.dim(1); ++b) {
        moe_.block_scale(0, RandomMoe::Projection::kUp, r, b) =
            scales.begin()[next++ % scales.size()];
      }
    }
    return mxfp4_exponent_shift(linear_, kWindow, "marlin");
  }

  RandomMoe moe_ = make_random_moe(
      {.problem = {.hidden_size = 64, .intermediate_size = 32, .num_experts = 1, .top_k = 1},
       .scheme = kMxfp4W4A16});
  LinearWeights& linear_ = moe_.linear(0, RandomMoe::Projection::kUp);
};

TEST_F(Mxfp4Shift, IsThePreferredOneWhileAllBlocksFit) {
  EXPECT_EQ(shift({120, 124, 118}), 106);
  EXPECT_EQ(shift({22, 148}), 106);
}

TEST_F(Mxfp4Shift, IsTheNearestOtherwise) {
  EXPECT_EQ(shift({21, 120}), 107);
  EXPECT_EQ(shift({0, 126}), 128);
  EXPECT_EQ(shift({149, 120}), 105);
  EXPECT_EQ(shift({200, 252}), 2);
}

TEST_F(Mxfp4Shift, ExponentsTooFarApartAreRefusedByName) {
  try {
    shift({0, 127});
    FAIL() << "127 powers of two fit nowhere";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kUnavailable);
    const std::string text = error.what();
    EXPECT_NE(text.find("experts.0.up_proj"), std::string::npos) << text;
    EXPECT_NE(text.find("marlin"), std::string::npos) << text;
  }
}

TEST_F(Mxfp4Shift, BlocksOfZerosDoNotCount) {
  auto* codes = const_cast<std::byte*>(linear_.weight.row(3));
  std::memset(codes, 0x08, 16);
  shift({120});
  moe_.block_scale(0, RandomMoe::Projection::kUp, 3, 0) = 0;
  EXPECT_EQ(mxfp4_exponent_shift(linear_, kWindow, "marlin"), 106);
  moe_.block_scale(0, RandomMoe::Projection::kUp, 3, 0) = 254;
  EXPECT_EQ(mxfp4_exponent_shift(linear_, kWindow, "marlin"), 106);
  moe_.block_scale(0, RandomMoe::Projection::kUp, 3, 0) = 255;  // no number, whatever the codes
  EXPECT_THROW(mxfp4_exponent_shift(linear_, kWindow, "marlin"), Error);
}

TEST_F(Mxfp4Shift, WhatFallsOutOfTheWindowIsStoredAtItsEdge) {
  EXPECT_EQ(shifted_exponent(120, 106), 226);
  EXPECT_EQ(shifted_exponent(254, 106), 254);
  EXPECT_EQ(shifted_exponent(3, -40), 0);
}

}  // namespace
}  // namespace moe4::testing
