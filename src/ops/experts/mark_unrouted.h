// Tokens whose router gave no expert.
#pragma once

#include "device/stream.h"
#include "ops/rows.h"

namespace moe4 {

/// Rows of y [T, width] whose first id of topk_ids [T, top_k] is -1 become NaN. Enqueued on the
/// stream of a GPU.
void mark_unrouted(const int32_t* topk_ids, int64_t top_k, const Rows& y, const Stream& stream);

}  // namespace moe4
