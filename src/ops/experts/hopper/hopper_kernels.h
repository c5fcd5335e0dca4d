// The launchers of the wgmma path and what they are told: one call's layer, tokens and scratch.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "device/arena.h"
#include "ops/experts/gpu/packed_layer.h"
#include "ops/experts/gpu/sum_order.h"
#include "ops/experts/gpu/token_tile.h"
#include "ops/experts/hopper/tile_configs.h"

namespace moe4::cuda::hopper {

inline constexpr int kStepK = 128;  ///< columns of one step of a GEMM

/// FC2's outputs between the launches: blocks of 128 rows, 256 bytes of each position
/// (hopper/pair_output.cuh).
inline constexpr int kOutputBlockRows = 128, kOutputRowBytes = 256;
constexpr int output_blocks(int hidden_size) {
  return (hidden_size + kOutputBlockRows - 1) / kOutputBlockRows;
}

/// The arrays between the launches.
struct Scratch {
  /// BF16 [rows, hidden_steps * 128], permuted (prologue_sm90.cu); a row is a token, or a pair with
  /// weight_on_input.
  void* hidden = nullptr;
  int32_t* sorted_pairs = nullptr;        ///< [positions] token * top_k + slot, nothing in padding
  int32_t* positions_of_pairs = nullptr;  ///< [T * top_k], -1 for experts of other devices
  /// Up to max_tile_tokens() pairs each, for both GEMMs; places are positions in `sorted_pairs`,
  /// the first of each expert a multiple of 8.
  TokenTile* tiles = nullptr;
  int32_t* num_tiles = nullptr;         ///< [1]
  int32_t* taken = nullptr;             ///< [1] CTA tiles of both GEMMs that CTAs have taken
  int32_t* stored = nullptr;            ///< [1] CTA tiles of FC1 that are stored
  int32_t* stored_of_tokens = nullptr;  ///< [tiles] the same of each tile of tokens
  /// BF16 [2 * intermediate_steps][positions][64] (fc1_epilogue_sm90.cuh)
  void* intermediate = nullptr;
  /// of FC2 [ceil(H / 128)][positions][256] (hopper/pair_output.cuh); with runs float32
  /// [positions, H]
  uint8_t* outputs = nullptr;
  int64_t positions = 0;       ///< capacity, a multiple of 8
  int hidden_steps = 0;        ///< K of FC1 in steps
  int intermediate_steps = 0;  ///< K of FC2 in steps
};
Scratch take_scratch(Arena& arena, const PackedLayerView& layer, int64_t num_tokens, bool runs);

/// One call; pointers as in ExpertsArgs. num_tokens * top_k is below 2^31.
struct Call {
  PackedLayerView layer;
  int64_t num_tokens = 0;
  const void* hidden_states = nullptr;  ///< BF16 [T, H]
  const int32_t* topk_ids = nullptr;
  const float* topk_weights = nullptr;
  void* output = nullptr;  ///< BF16 [T, H]
  TileConfig config = TileConfig::kSmall;
  /// Sums in the order of decoding, `order`, and float32 outputs; narrow tiles only. Otherwise sums
  /// are single chains.
  bool runs = false;
  SumOrder order;
  Scratch scratch;
  int sm_count = 0;
};

/// Sorts pairs by expert, cuts tiles and permutes the tokens. Starts before the kernel in front of
/// it has ended, whosever it is, and waits for it before it reads or writes anything.
void launch_prologue(const Call& call, cudaStream_t stream);
/// Gate, up and activation of every pair, then down of every pair, not yet weighted.
void launch_grouped_gemms(const Call& call, cudaStream_t stream);
/// The weighted sum over a token's slots, in slot order.
void launch_combine(const Call& call, cudaStream_t stream);
/// One token in place of the three above, single chains, to the same bits. Where
/// has_one_token_kernels(); waits as launch_prologue() does.
void launch_one_token(const Call& call, cudaStream_t stream);
bool has_one_token_kernels(const PackedLayerView& layer);

/// Lets the kernels of a format use the shared memory they need on the current device; once before
/// the first launch.
void prepare_grouped_gemms(WeightFormat format);
void prepare_one_token(WeightFormat format);

}  // namespace moe4::cuda::hopper
