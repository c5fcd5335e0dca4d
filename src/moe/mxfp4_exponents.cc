// One pass over the scale bytes; codes are looked at only where a scale is unusual.
#include "moe/mxfp4_exponents.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "numerics/mxfp4.h"

namespace moe4 {
namespace {

// 2^-105 .. 2^21: fits every window as it is, so nobody needs to know whether the block is zero.
constexpr int kUsualLeast = 22, kUsualMost = 148;

// The largest magnitude of a block's codes.
float largest_code(const uint8_t* packed_row, int64_t block) {
  float most = 0.0f;
  for (int64_t k = block * kMxfp4Block; k < (block + 1) * kMxfp4Block; ++k) {
    most = std::max(most, std::abs(e2m1_to_float(mxfp4_code(packed_row, k))));
  }
  return most;
}

[[noreturn]] void fail(const LinearWeights& linear, int64_t row, int64_t block, std::string what,
                       std::string expected, std::string found) {
  throw_bad_input({.what = std::move(what),
                   .tensor = fmt::format("{}, block scale at [{}, {}]", linear.name, row, block),
                   .expected = std::move(expected),
                   .found = std::move(found),
                   .hint = "the file is damaged or was exported wrongly"});
}

}  // namespace

int mxfp4_exponent_shift(const LinearWeights& linear, const ExponentWindow& window,
                         std::string_view backend) {
  MOE4_CHECK(window.least - window.preferred_shift <= kUsualLeast &&
             window.most - window.preferred_shift >= kUsualMost);
  int least = 255, most = -1;
  const int64_t blocks = linear.in_features / kMxfp4Block;
  for (int64_t r = 0; r < linear.out_features; ++r) {
    const auto* scales = reinterpret_cast<const uint8_t*>(linear.scale.row(r));
    const auto* codes = reinterpret_cast<const uint8_t*>(linear.weight.row(r));
    for (int64_t b = 0; b < blocks; ++b) {
      const int scale = scales[b];
      if (scale < kUsualLeast || scale > kUsualMost) {
        if (e8m0_is_nan(scales[b])) fail(linear, r, b, "block scale is NaN", "0 to 254", "255");
        const float code = largest_code(codes, b);
        if (code == 0.0f) continue;
        if (!std::isfinite(code * e8m0_to_float(scales[b]))) {
          fail(linear, r, b, "weight is beyond float32", "magnitudes below 2^128",
               fmt::format("{} * 2^{}", code, scale - kE8m0Bias));
        }
      }
      least = std::min(least, scale);
      most = std::max(most, scale);
    }
  }
  if (least > most) return window.preferred_shift;
  if (most - least > window.most - window.least) {
    throw Error(
        ErrorCode::kUnavailable,
        fmt::format("{}: MXFP4 block scales from 2^{} to 2^{} are further apart than the {} "
                    "powers of two that {} holds exactly; use another backend",
                    linear.name, least - kE8m0Bias, most - kE8m0Bias, window.most - window.least,
                    backend));
  }
  return std::clamp(window.preferred_shift, window.least - least, window.most - most);
}

}  // namespace moe4
