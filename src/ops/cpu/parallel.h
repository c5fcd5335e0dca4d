// How the CPU's ops cut their work into pieces.
#pragma once

#include <cstdint>

#include "base/checked_math.h"

namespace moe4 {

/// Items of a parallel loop to hand out at a time: enough memory traffic to be worth a hand-over
/// between threads (a few microseconds), or all items when the whole is not worth waking a thread.
inline int64_t parallel_grain(int64_t items, int64_t bytes_per_item) {
  constexpr int64_t kSerialBytes = 256 << 10, kChunkBytes = 64 << 10;
  if (items * bytes_per_item < kSerialBytes) return items > 0 ? items : 1;
  return bytes_per_item < kChunkBytes ? ceil_div(kChunkBytes, bytes_per_item) : 1;
}

}  // namespace moe4
