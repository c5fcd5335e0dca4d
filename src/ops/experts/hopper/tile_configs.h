// How the grouped GEMMs are cut: tokens, warps, registers and stages of each tile configuration.
#pragma once

namespace moe4::cuda::hopper {

/// How a call is cut into tiles of weight rows and tokens (grouped_gemms_sm90.cu).
enum class TileConfig {
  k16,     ///< 256 rows x up to 16 tokens
  k24,     ///< 256 rows x up to 24 tokens
  k40,     ///< 256 rows x up to 40 tokens
  kSmall,  ///< 256 rows x up to 96 tokens
  kLarge,  ///< 256 rows x up to 160 tokens
};
inline constexpr TileConfig kTileConfigs[] = {TileConfig::k16, TileConfig::k24, TileConfig::k40,
                                              TileConfig::kSmall, TileConfig::kLarge};
/// Tokens that share one decode of a weight.
constexpr int max_tile_tokens(TileConfig config) {
  constexpr int kTokens[] = {16, 24, 40, 96, 160};
  return kTokens[static_cast<int>(config)];
}

/// Tiles of at most `Few` tokens take narrower products.
template <TileConfig Tiles, int Few>
struct NarrowConfig {
  static constexpr TileConfig kTiles = Tiles;
  static constexpr int kConsumerGroups = 4;
  static constexpr int kBlocks = 1;
  static constexpr int kMaxTokens = max_tile_tokens(kTiles);
  static constexpr int kFewTokens = Few;
  static constexpr int kStageChunks = 4;
  static constexpr int kConsumerRegisters = 112;
  static constexpr int kProducerRegisters = 32;
  static constexpr int kTokenStages = 3;
  static constexpr int kReportBehind = 1;  ///< stages of tokens on their way besides the last
  static constexpr int kWeightStages = 4;
};
template <class Config>
inline constexpr bool kIsNarrow = false;
template <TileConfig Tiles, int Few>
inline constexpr bool kIsNarrow<NarrowConfig<Tiles, Few>> = true;

struct SmallConfig {
  static constexpr int kConsumerGroups = 4;
  static constexpr int kBlocks = 1;  ///< blocks of 64 rows of a consumer group
  static constexpr TileConfig kTiles = TileConfig::kSmall;
  static constexpr int kMaxTokens = max_tile_tokens(kTiles);
  static constexpr int kStageChunks = 2;  ///< chunks of 64 columns in a stage of tokens
  static constexpr int kConsumerRegisters = 112;
  static constexpr int kProducerRegisters = 32;
  static constexpr int kTokenStages = 4;
  static constexpr int kReportBehind = 1;
  static constexpr int kWeightStages = 3;
};

struct LargeConfig {
  static constexpr int kConsumerGroups = 2;
  static constexpr int kBlocks = 2;
  static constexpr TileConfig kTiles = TileConfig::kLarge;
  static constexpr int kMaxTokens = max_tile_tokens(kTiles);
  static constexpr int kStageChunks = 1;
  static constexpr int kConsumerRegisters = 224;
  static constexpr int kProducerRegisters = 56;
  static constexpr int kTokenStages = 5;
  static constexpr int kReportBehind = 2;
  static constexpr int kWeightStages = 2;
};

/// Tiles that the thread which takes them may be ahead of the last that uses them. More than stages
/// of weights: so many more tiles may be done with before it looks whether one is (StoredTile).
inline constexpr int kTilesAhead = 8;

/// Of 8 tokens, in a slot of a large tile's epilogue (gemm_staging_sm90.cuh).
inline constexpr int kSlotGroups = 4;

/// Calls `run` with the configuration's type.
template <class Run>
void with_config(TileConfig config, Run run) {
  switch (config) {
    case TileConfig::k16:
      return run.template operator()<NarrowConfig<TileConfig::k16, 8>>();
    case TileConfig::k24:
      return run.template operator()<NarrowConfig<TileConfig::k24, 16>>();
    case TileConfig::k40:
      return run.template operator()<NarrowConfig<TileConfig::k40, 32>>();
    case TileConfig::kSmall:
      return run.template operator()<SmallConfig>();
    case TileConfig::kLarge:
      return run.template operator()<LargeConfig>();
  }
}

}  // namespace moe4::cuda::hopper
