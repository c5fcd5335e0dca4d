// Linears whose file has inputs as rows (Llama-4's experts, exports of gpt-oss): from [K, N] to the
// canonical [N, K].
#pragma once

#include <memory>
#include <vector>

#include "base/aligned_buffer.h"
#include "checkpoint/stored_linear.h"

namespace moe4 {

/// `stored.is_transposed`: its weight is a view [K, N] (packed [K/2, N], two inputs a byte) and its
/// scale, where that is a matrix, [groups of K, N], both with `column_step` elements from a column
/// to the next. The result has both the other way round, copied
/// to memory that is added to `memory`; views without data (headers) keep none.
StoredLinear untransposed(const StoredLinear& stored,
                          std::vector<std::shared_ptr<const AlignedBuffer>>& memory);

}  // namespace moe4
