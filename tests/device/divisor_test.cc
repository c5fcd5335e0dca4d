// Division by a product and a shift, on the host.
#include "device/cuda/divisor.h"

#include <gtest/gtest.h>

#include <random>

namespace moe4::cuda {
namespace {

TEST(Divisor, IsExactBelowTwoToThe31) {
  constexpr uint32_t kMost = (uint32_t{1} << 31) - 1;
  std::mt19937 random(1);
  for (int i = 0; i < 3000; ++i) {
    const uint32_t by = i < 1000 ? i + 1 : std::max<uint32_t>(1, random() >> (1 + random() % 30));
    const Divisor divisor(by);
    for (int j = 0; j < 50; ++j) {
      // Around a multiple, where a quotient that is one off shows.
      const uint32_t multiple = kMost / by == 0 ? 0 : random() % (kMost / by + 1) * by;
      for (const uint32_t n : {multiple, multiple - (multiple > 0), kMost, kMost / by * by}) {
        ASSERT_EQ(divisor.divide(n), n / by) << n << " by " << by;
      }
    }
  }
}

}  // namespace
}  // namespace moe4::cuda
