// FP8 linears whose scales are powers of two (E8M0): MiniMax-M3's groups of 32, DeepSeek-V4's
// blocks of 128 x 128.
#pragma once

#include <memory>

#include "base/aligned_buffer.h"
#include "checkpoint/stored_linear.h"

namespace moe4 {

/// `stored` as a format that moe4 computes with, the numbers being the same: MXFP8 (F8_E4M3 [N, K]
/// with U8 or F8_E8M0 scales [N, K/32]) as BF16 without scales, blocks of 128 x 128 with such
/// scales as the same with F32 ones. What was converted lies in `memory`; with
/// `headers_only` nothing is read and views have no data. Anything else stays as it is. Throws
/// Error(kBadInput) naming the tensor for NaNs, and for a product that BF16 does not hold.
StoredLinear without_e8m0(const StoredLinear& stored, bool headers_only,
                          std::shared_ptr<const AlignedBuffer>& memory);

}  // namespace moe4
