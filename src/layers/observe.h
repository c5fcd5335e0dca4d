// What observers are shown of a step.
#pragma once

#include "ops/execution.h"

namespace moe4 {

/// Shows the rows to the execution's observer, if there is one and this is no measuring run. Those
/// of a GPU are copied to the host first, which waits for them.
void observe(Observer::Point point, int64_t layer, const Rows& rows, Execution& execution);

}  // namespace moe4
