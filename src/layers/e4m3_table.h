// All 256 E4M3 values, for kernels that look scales up.
#pragma once

#include <array>
#include <cstdint>

#include "numerics/e4m3.h"

namespace moe4 {

inline constexpr std::array<float, 256> kE4m3Table = [] {
  std::array<float, 256> table{};
  for (int i = 0; i < 256; ++i) table[i] = e4m3_to_float(static_cast<uint8_t>(i));
  return table;
}();

}  // namespace moe4
