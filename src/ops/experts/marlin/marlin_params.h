// What marlin's kernels are launched with.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

#include "device/cuda/divisor.h"
#include "ops/experts/gpu/packed_layer.h"
#include "ops/experts/gpu/routing_tables.h"
#include "ops/experts/gpu/sum_order.h"

namespace moe4::cuda {

/// One chunk of tokens of one apply(). P = num_tokens * top_k pairs.
struct MarlinParams {
  PackedLayerView layer;
  const __nv_bfloat16* x = nullptr;     ///< [T, H]; [P, H], already weighted, with weight_on_input
  const int32_t* topk_ids = nullptr;    ///< [T, k]
  const float* topk_weights = nullptr;  ///< [T, k]
  __nv_bfloat16* act = nullptr;         ///< [P, I]; rows of skipped pairs are never written
  float* y = nullptr;                   ///< [P, H]; experts structure only
  __nv_bfloat16* out = nullptr;         ///< [T, H]
  int32_t num_tokens = 0;
  int32_t num_pairs = 0;
  int32_t fc1_split = 1;     ///< warps that share the K of an FC1 step (sum_order.h): 1, 2, 4 or 8
  int32_t fc2_split = 1;     ///< likewise of an FC2 step: 1 .. 8
  bool bulk_copies = false;  ///< as step_stream.cuh was compiled for the device
  int32_t sm_count = 0;      ///< blocks of FC1 and of the expert-wise FC2
  Divisor top_k;
  Divisor groups, steps;  ///< of the kernel at hand; set by its launcher
  /// Tables made by an earlier kernel, with tiles of 8; null: every block routes for itself.
  const TokenTile* tiles = nullptr;
  const int32_t* sorted_pairs = nullptr;
  const int32_t* num_tiles = nullptr;
};

}  // namespace moe4::cuda
