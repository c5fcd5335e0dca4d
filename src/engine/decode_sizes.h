// The sizes of steps that are recorded as graphs.
#pragma once

#include <cstdint>
#include <vector>

namespace moe4 {

/// Numbers of sequences: 1, 2, 4, 8, 12, 16, 24, 32, then by 16, and at last max_seqs. A step
/// between two of them is padded to the larger one.
std::vector<int64_t> decode_sizes(int64_t max_seqs);

/// Lengths of contexts: 1024 and then four times as many, up to the first that is at least
/// max_context. They size the grids of attention and nothing else.
std::vector<int64_t> context_sizes(int64_t max_context);

}  // namespace moe4
