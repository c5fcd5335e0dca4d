// Loops over scale bytes that a compiler turns into vector code.
#include "checkpoint/scale_checks.h"

#include <algorithm>

namespace moe4 {
namespace {

// Good bytes are 0x00..0x7e and 0x80.
constexpr bool is_bad(uint8_t byte) { return byte >= 0x7f && byte != 0x80; }

}  // namespace

int64_t find_bad_block_scale(const uint8_t* scales, int64_t count) {
  constexpr int64_t kChunk = 4096;  // small enough to search again when something is found
  for (int64_t begin = 0; begin < count; begin += kChunk) {
    const int64_t end = std::min(begin + kChunk, count);
    uint8_t bad = 0;
    for (int64_t i = begin; i < end; ++i) bad |= static_cast<uint8_t>(is_bad(scales[i]));
    if (bad == 0) continue;
    for (int64_t i = begin; i < end; ++i) {
      if (is_bad(scales[i])) return i;
    }
  }
  return -1;
}

bool all_codes_are_zero(const uint8_t* packed, int64_t bytes) {
  uint8_t any = 0;
  for (int64_t i = 0; i < bytes; ++i) any |= packed[i];
  return (any & 0x77) == 0;
}

}  // namespace moe4
