// Validity of block scales and global scales.
#pragma once

#include <cstdint>

namespace moe4 {

/// Index of the first E4M3 byte that is NaN (0x7f, 0xff) or negative (sign bit set, other than
/// 0x80, which is zero), or -1. Reads at memory speed.
int64_t find_bad_block_scale(const uint8_t* scales, int64_t count);

/// Whether all E2M1 codes of `bytes` packed bytes are zeros (of either sign).
bool all_codes_are_zero(const uint8_t* packed, int64_t bytes);

}  // namespace moe4
