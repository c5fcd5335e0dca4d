// Rows in another order decode to what they were.
#include "moe/copied_rows.h"

#include <gtest/gtest.h>

#include <numeric>

#include "base/error.h"
#include "moe/dequantize.h"
#include "support/random_moe.h"

namespace moe4::testing {
namespace {

struct Case {
  QuantScheme scheme;
  DType dtype = DType::kBF16;
};
const Case kCases[] = {{kUnquantized},
                       {kUnquantized, DType::kF32},
                       {kW4A4},
                       {kMxfp4W4A16},
                       {{{QuantFormat::kFp8Tensor, false}, std::nullopt}},
                       {{{QuantFormat::kFp8Channel, false}, std::nullopt}},
                       {{{QuantFormat::kFp8Block128, false}, std::nullopt}}};

LinearWeights make(RandomMoe& memory, const Case& c, int64_t n) {
  Random random(9);
  return internal::random_linear(memory,
                                 {.scheme = c.scheme, .biases = true, .float_dtype = c.dtype},
                                 random, "in_proj_qkvz", n, 96, 1.0f);
}

TEST(CopiedRows, DecodeToTheRowsThatTheyWere) {
  // Blocks of 128 rows, last first, and half of them only.
  std::vector<int64_t> rows(256);
  std::iota(rows.begin(), rows.begin() + 128, 384);
  std::iota(rows.begin() + 128, rows.end(), 0);
  for (const Case& c : kCases) {
    SCOPED_TRACE(to_string(c.scheme));
    RandomMoe memory;
    const LinearWeights whole = make(memory, c, 512);
    const CopiedRows copy = copy_rows(whole, rows);
    ASSERT_EQ(copy.linear.out_features, 256);
    std::vector<float> expected(96), found(96);
    for (size_t i = 0; i < rows.size(); ++i) {
      dequantize_row(whole, rows[i], expected.data());
      dequantize_row(copy.linear, static_cast<int64_t>(i), found.data());
      ASSERT_EQ(found, expected) << i;
      ASSERT_EQ(bias_at(copy.linear, static_cast<int64_t>(i)), bias_at(whole, rows[i]));
    }
  }
}

TEST(CopiedRows, HeadersHaveShapesWithoutData) {
  RandomMoe memory;
  LinearWeights whole = make(memory, kCases[2], 64);
  whole.weight.data = whole.scale.data = whole.bias.data = nullptr;
  const std::vector<int64_t> rows = {5, 7, 5};
  const CopiedRows copy = copy_rows(whole, rows);
  EXPECT_TRUE(copy.linear.weight.empty());
  EXPECT_EQ(copy.linear.weight.shape, (std::vector<int64_t>{3, 48}));
  EXPECT_EQ(copy.linear.scale.shape, (std::vector<int64_t>{3, 6}));
}

TEST(CopiedRows, BlocksOfScalesAreNotTornApart) {
  RandomMoe memory;
  const LinearWeights whole = make(memory, kCases[6], 512);
  std::vector<int64_t> rows(128);
  std::iota(rows.begin(), rows.end(), 64);
  try {
    copy_rows(whole, rows);
    FAIL() << "half a block was taken for a whole one";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kBadInput);
    EXPECT_NE(std::string(error.what()).find("in_proj_qkvz"), std::string::npos);
  }
}

}  // namespace
}  // namespace moe4::testing
