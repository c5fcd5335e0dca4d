// A step of one token whose keys were copied to pages of their own: what ops that choose keys give
// to PagedAttention.
#pragma once

#include <numeric>

#include "ops/batch.h"

namespace moe4 {

/// What the token sees. Stays in place as long as its batch() is used.
class OneToken {
 public:
  OneToken() = default;  ///< for measuring
  /// `keys` keys, its own the last of them, in pages 0, 1, ...; `blocks` has room for as many
  /// numbers.
  OneToken(int64_t keys, int32_t* blocks)
      : position_(static_cast<int32_t>(keys - 1)), context_(static_cast<int32_t>(keys)) {
    const int64_t pages = (keys + kPageTokens - 1) / kPageTokens;
    std::iota(blocks, blocks + pages, 0);
    table_ = {.blocks = blocks, .max_blocks = pages};
  }
  OneToken(const OneToken&) = delete;
  OneToken& operator=(const OneToken&) = delete;

  Batch batch(int64_t keys) const {
    Batch batch{.num_tokens = 1, .num_seqs = 1, .max_query = 1, .max_context = keys, .tables = {}};
    batch.positions = &position_;
    batch.query_start = query_start_;
    batch.context_len = &context_;
    batch.tables = {&table_, 1};
    return batch;
  }

 private:
  int32_t query_start_[2] = {0, 1};
  int32_t position_ = 0, context_ = 0;
  CacheTable table_;
};

}  // namespace moe4
