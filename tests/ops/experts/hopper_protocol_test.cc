// The waits of hopper's grouped GEMMs end and are long enough, for each tile configuration, whoever
// is slow (hopper_protocol_model.h).
#include <gtest/gtest.h>

#include "ops/experts/hopper/tile_configs.h"
#include "ops/experts/hopper_protocol_model.h"

namespace moe4::testing {
namespace {

using namespace cuda::hopper;

ProtocolConfig config_of(TileConfig tiles) {
  ProtocolConfig config{};
  with_config(tiles, [&]<class Config>() {
    config = {.consumer_groups = Config::kConsumerGroups,
              .stage_chunks = Config::kStageChunks,
              .token_stages = Config::kTokenStages,
              .report_behind = Config::kReportBehind,
              .weight_stages = Config::kWeightStages,
              .tiles_ahead = kTilesAhead};
  });
  return config;
}

ProtocolProblem random_problem(unsigned seed) {
  std::mt19937 random(seed);
  const auto among = [&](std::initializer_list<int> values) {
    return values.begin()[random() % values.size()];
  };
  return {.ctas = among({1, 2, 3, 4}),
          .token_tiles = among({0, 1, 2, 3, 6}),
          .row_tiles = {among({1, 2, 4}), among({1, 2, 3, 5})},
          .steps = {among({1, 1, 2, 3, 5, 8, 16}), among({1, 1, 2, 3, 4, 8})}};
}

// Runs until something goes wrong; returns what.
std::string first_failure(const ProtocolConfig& config, unsigned runs) {
  for (unsigned seed = 0; seed < runs; ++seed) {
    std::string failure = ProtocolModel(config, random_problem(seed), seed).run();
    if (!failure.empty()) return failure + " (seed " + std::to_string(seed) + ")";
  }
  return "";
}

TEST(HopperProtocol, EveryTileIsMultipliedAndNoneTooEarlyWhoeverIsSlow) {
  for (const TileConfig tiles : kTileConfigs) {
    EXPECT_EQ(first_failure(config_of(tiles), 300), "") << static_cast<int>(tiles);
  }
}

TEST(HopperProtocol, FewerPlacesForTilesThanStagesOfWeightsAndOneWouldNotDo) {
  ProtocolConfig config = config_of(TileConfig::k40);
  config.tiles_ahead = config.weight_stages;
  EXPECT_NE(first_failure(config, 3000), "");
}

}  // namespace
}  // namespace moe4::testing
