// Rows of a linear in an order of their own: fused projections that interleave what others keep
// apart.
#pragma once

#include <span>
#include <vector>

#include "base/aligned_buffer.h"
#include "moe/weights.h"

namespace moe4 {

/// A linear and the memory that its views lie in.
struct CopiedRows {
  LinearWeights linear;
  std::vector<AlignedBuffer> memory;
};

/// Row i is row `rows[i]` of `whole`, bias and scales included, whatever the format. Of a linear
/// without data (headers alone) the views have shapes and no data. Throws Error(kBadInput) naming
/// the module where FP8 blocks of 128 rows would be torn apart.
CopiedRows copy_rows(const LinearWeights& whole, std::span<const int64_t> rows);

}  // namespace moe4
