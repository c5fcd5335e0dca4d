// Rows of a device to and from the host, where they are dense float32.
#pragma once

#include <span>

#include "device/memory.h"
#include "ops/rows.h"

namespace moe4 {

/// values [rows, width], rounded to the format of `rows`. Waits for the copy.
void write_rows(std::span<const float> values, const Rows& rows, const Stream& stream);
/// The other way round. Waits for what was enqueued, and for the copy.
void read_rows(const Rows& rows, std::span<float> values, const Stream& stream);

}  // namespace moe4
