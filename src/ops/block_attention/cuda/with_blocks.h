// BlockAttention as the PagedAttention that it is on NVIDIA GPUs.
#pragma once

#include "ops/attention/paged_attention.h"
#include "ops/block_attention/block_attention.h"

namespace moe4 {

inline PagedAttention::Problem with_blocks(const BlockAttention::Problem& p) {
  return {.num_heads = p.num_heads,
          .num_kv_heads = p.num_kv_heads,
          .head_dim = p.head_dim,
          .scale = p.scale,
          .num_chosen = p.num_chosen,
          .block_size = p.block_size,
          .cache_dtype = p.cache_dtype,
          .k_scale = p.k_scale,
          .v_scale = p.v_scale};
}

}  // namespace moe4
