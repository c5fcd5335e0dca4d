// Token ids that name a choice of the step before.
#pragma once

#include <cstdint>

#include "device/stream.h"

namespace moe4 {

/// Instead of a token that the device chose and the host does not know yet: the choice in `row` of
/// the step before.
constexpr int32_t chosen_in_row(int64_t row) { return static_cast<int32_t>(-2 - row); }

/// ids[i], i in [0, n), that are chosen_in_row(r) become chosen[r]; others stay. Enqueued on the
/// stream of a GPU.
void take_chosen(int32_t* ids, int64_t n, const int32_t* chosen, const Stream& stream);

}  // namespace moe4
