// Launches of b12x's kernels: plain structs in, one kernel each.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "moe/activation.h"
#include "ops/experts/gpu/routing_tables.h"

namespace moe4::b12x {

/// The routing of one call, device pointers.
struct TopK {
  const int32_t* ids = nullptr;    ///< [T, k]; -1 and experts of other ranks are skipped
  const float* weights = nullptr;  ///< [T, k]
  int64_t num_tokens = 0;
  int32_t slots = 0;                    ///< k
  int32_t num_experts = 0;              ///< of the model
  int32_t num_local_experts = 0;        ///< of this process
  const int32_t* expert_map = nullptr;  ///< [num_experts] -> local index or -1; null: identity
  bool weight_on_input = false;         ///< weights multiply the input, not the output
};

/// Rows of activations on the device, as the B operand reads them (fragment_layout.h). FP4: codes
/// and scales; BF16: values, natural order.
struct TokenRows {
  uint8_t* codes = nullptr;
  uint8_t* scales = nullptr;
  int64_t code_stride = 0;   ///< bytes between rows
  int64_t scale_stride = 0;  ///< bytes, multiple of 16
  const uint16_t* values = nullptr;
  int64_t value_stride = 0;  ///< elements
};

/// Quantises (FP4) or scales (BF16 with weight_on_input) the hidden states once, before FC1.
struct StageArgs {
  const uint16_t* hidden_states = nullptr;  ///< [T, H] BF16
  TopK top_k;
  int32_t hidden_size = 0;
  int32_t chunks = 0;
  /// [num_local_experts][2] on the device; null: 1 everywhere.
  const float* input_scale = nullptr;
  /// A row for each pair instead of each token: input scales or routing weights differ by expert.
  bool row_per_pair = false;
  /// Rows beside each other for gate and up: 2 where their input scales differ, else 1.
  int32_t variants = 1;
  TokenRows rows;                     ///< FP4 output
  uint16_t* scaled_values = nullptr;  ///< BF16 output [pairs, H]
};

/// One of the two matrix products of a layer.
struct GemmArgs {
  const uint8_t* weights = nullptr;
  const float* alpha = nullptr;  ///< [num_local_experts][2]
  const float* bias = nullptr;   ///< [num_local_experts][rows (gated: 2 x rows)] or null
  int32_t rows = 0;              ///< valid rows of one operand: I or H
  int32_t k = 0;                 ///< valid columns
  int32_t tiles = 0;             ///< m32 tiles of an expert
  int32_t chunks = 0;
  bool gated = false;
  int32_t first_tile = 0;  ///< tiles this launch computes
  int32_t end_tile = 0;

  TopK top_k;
  cuda::RoutingTables tables;  ///< unused by kFewTokens
  TokenRows tokens;
  int32_t pairs_per_row = 1;  ///< FC1: token row = pair / pairs_per_row (top_k, or 1)
  int32_t variants = 1;       ///< FC1, as in StageArgs

  // FC1: the activation and where the FC2 input goes, a row for each sorted pair.
  ActivationParams activation;
  const float* fc2_input_scale = nullptr;  ///< [num_local_experts]
  TokenRows out;
  uint16_t* out_values = nullptr;
  // FC2: float32 partial outputs [pairs][partial_stride]; column 0 is row 32 * first_tile.
  float* partial = nullptr;
  int64_t partial_stride = 0;
  uint16_t* output = nullptr;  ///< FC2 of kFewTokens, which reduces too: [T, rows] BF16
};

struct ReduceArgs {
  const float* partial = nullptr;
  int64_t partial_stride = 0;
  int32_t first_column = 0;
  int32_t columns = 0;
  TopK top_k;
  int32_t hidden_size = 0;
  uint16_t* output = nullptr;  ///< [T, H] BF16
};

enum class Gemm { kFc1, kFc2 };

/// How a layer is launched. All give the same bits.
enum class Path {
  kFewTokens,  ///< up to 64 pairs: FC1 and FC2 sort them themselves, FC2 also reduces
  kDecode,     ///< tiles of 8 pairs, K spread over the warps of a block, no shared-memory staging
  kPrefill,    ///< tiles of 64 pairs, tokens staged in shared memory, one m32 tile a warp
};
constexpr int tile_tokens(Path path) { return path == Path::kPrefill ? 64 : 8; }
inline constexpr int kFewPairs = 64;
/// Shared memory that FC2 of kFewTokens needs for its partial sums.
constexpr int64_t few_tokens_fc2_bytes(int64_t pairs, int64_t slices) {
  return pairs * slices * 32 * static_cast<int64_t>(sizeof(float));
}
inline constexpr int64_t kFewTokensFc2MaxBytes = 64 << 10;

/// Once a device, before the first launch: raises the kernels' shared-memory limits.
void configure_kernels(int64_t max_chunks);

/// `dependent`: programmatic dependent launch (SM90 and later).
void stage_tokens(const StageArgs& args, bool fp4, cudaStream_t stream, bool dependent);
/// `max_tiles`: an upper bound of the number of token tiles; surplus blocks exit.
void grouped_gemm(const GemmArgs& args, Gemm gemm, Path path, bool fp4, int64_t max_tiles,
                  cudaStream_t stream, bool dependent);
/// Weighted sum over a token's slots, in slot order, in float32.
void reduce_topk(const ReduceArgs& args, cudaStream_t stream, bool dependent);

/// D += A B of one warp through block_scaled_mma, for tests: d [32][4], a [32][4], b [32][2],
/// scales_a [32], scales_b [32], on the device.
void run_block_scaled_mma(float* d, const uint32_t* a, const uint32_t* b, const uint32_t* scales_a,
                          const uint32_t* scales_b, int thread_id_a, int thread_id_b,
                          cudaStream_t stream);

}  // namespace moe4::b12x
