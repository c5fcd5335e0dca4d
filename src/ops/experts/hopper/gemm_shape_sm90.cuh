// Shared memory and threads of each tile configuration, and what a launch is told.
#pragma once

#include "base/checked_math.h"
#include "device/cuda/divisor.h"
#include "ops/experts/hopper/hopper_kernels.h"

namespace moe4::cuda::hopper {

template <class Config, WeightFormat Format, bool Runs>
struct GemmShape : Config {
  static constexpr WeightFormat kFormat = Format;
  static constexpr bool kRuns = Runs;  ///< decoding's order of sums (gpu/sum_order.h)
  using Unit = UnitLayout<Format>;
  static constexpr int kConsumerWarps = Config::kConsumerGroups * 4;
  static constexpr int kGroupTiles = 4 * Config::kBlocks;  ///< m16 tiles of a consumer group
  static constexpr int kRowTiles = Config::kConsumerGroups * kGroupTiles;
  static constexpr int kThreads = (Config::kConsumerGroups + 1) * 128;
  static constexpr int kGatherThreads = 96;  ///< warps 0 to 2; warp 3 brings weights
  static constexpr int kTokenTileBytes = Config::kMaxTokens * 128;
  static constexpr int kTokenStageBytes = Config::kStageChunks * kTokenTileBytes;
  static constexpr int kWeightStageBytes = kRowTiles * Unit::kBytes;
  // What the epilogues need (gemm_staging_sm90.cuh): large tiles a group's slots, else a warp's
  // two.
  static constexpr int kSlots = Config::kBlocks > 1 ? 3 : 2;
  static constexpr int kSlotBytes = Config::kBlocks > 1 ? kSlotGroups * 8 * kOutputRowBytes : 512;
  static constexpr int kStagingBytes =
      (Config::kBlocks > 1 ? Config::kConsumerGroups : kConsumerWarps) * kSlots * kSlotBytes;
  // Shared memory: tokens, weights, staging, barriers of the first two, tiles with theirs.
  static constexpr int kWeightOffset = Config::kTokenStages * kTokenStageBytes;
  static constexpr int kStagingOffset = kWeightOffset + Config::kWeightStages * kWeightStageBytes;
  static constexpr int kBarrierOffset = kStagingOffset + kStagingBytes;
  static constexpr int kTileOffset =
      kBarrierOffset +
      16 * (Config::kTokenStages + Config::kConsumerGroups * Config::kWeightStages);
  static constexpr int kSharedBytes = kTileOffset + 32 * kTilesAhead;
  static_assert(kTokenTileBytes % 1024 == 0 && kSharedBytes <= 232448);
  // The registers a launch gets: 65536 over all threads, in units of 8 a thread.
  static_assert(Config::kConsumerGroups * Config::kConsumerRegisters + Config::kProducerRegisters <=
                65536 / kThreads / 8 * 8 * (Config::kConsumerGroups + 1));
};

/// What a tile's sums are multiplied by: gate and up of FC1, down of FC2.
struct Factors {
  float up_or_down, gate;
};

/// One of the two GEMMs: weights [experts, rows, K] in the packed layout.
struct GemmWeights {
  const uint8_t* units;
  int tiles;      ///< m16 tiles of an expert
  int k_units;    ///< units of 256 columns of an expert's tile
  int steps;      ///< of 128 columns
  int row_tiles;  ///< CTA tiles over the rows
  Divisor row_tiles_divisor;
  int run_units;  ///< of K, summed in one chain; kRuns
};

// Shifts to the left as products with numbers that ptxas does not know: the pipe that shifts is the
// one that decoding keeps busy, and products have another.
struct ShiftByProduct {
  __device__ uint32_t operator()(uint32_t x, int bits) const {
    return x * (bits == 2 ? by2 : bits == 4 ? by4 : by6);
  }

  uint32_t by2 = 1 << 2, by4 = 1 << 4, by6 = 1 << 6;
};

struct GemmArgs {
  GemmWeights weights[2];  ///< of FC1 and of FC2
  const TokenTile* token_tiles;
  const int32_t* num_token_tiles;
  ShiftByProduct shift_left;
  int32_t* taken;             ///< [1] tiles that CTAs have taken
  int32_t* stored;            ///< [1] tiles of FC1 that are stored
  int32_t* stored_of_tokens;  ///< [token tiles] the same of each: row_tiles in the end
  int64_t position_capacity;
  // FC1
  const int32_t* sorted_pairs;
  Divisor row_of_pair;  ///< a pair's row of `hidden`
  const void* hidden;   ///< permuted rows
  const float* alpha_up;
  const float* alpha_gate;
  const float* bias_up;    ///< [experts, I], or null
  const float* bias_gate;  ///< null exactly when `bias_up` is
  ActivationParams activation;
  int64_t intermediate_size;
  int intermediate_chunks;  ///< of 64 that the intermediate has room for
  void* intermediate;
  // FC2
  const float* alpha_down;
  const float* bias_down;  ///< [experts, H], or null
  int64_t hidden_size;
  void* outputs;
};

}  // namespace moe4::cuda::hopper
