// How a family's experts lie where a tensor holds all of them.
#pragma once

namespace moe4 {

/// Of 3-D tensors of a projection: E experts, N outputs, K inputs (packed K/2, two a byte).
enum class StackedExperts {
  kRows,               ///< [E, N, K], rows of gate before those of up
  kRowsOrColumns,      ///< the same or [E, K, N], columns of gate before those of up (Llama-4)
  kAlternatingColumns  ///< [E, K, N], columns of gate and up in turn (gpt-oss)
};

}  // namespace moe4
