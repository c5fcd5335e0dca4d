// Counts allocations of this program (link support/allocations.cc into the test).
#pragma once

#include <cstdint>

namespace moe4::testing {

/// Calls of operator new by any thread so far.
int64_t allocations();

}  // namespace moe4::testing
