// What the GPU backends share, on a real GPU: routing tables and the packer.
#include <gtest/gtest.h>

#include <algorithm>

#include "ops/experts/gpu/pack_weights.h"
#include "ops/experts/gpu/packed_layer.h"
#include "ops/experts/gpu/routing_tables.h"
#include "ops/experts/gpu_adapter.h"

namespace moe4::cuda {
namespace {

using ::moe4::testing::ExpertsConformance;
using ::moe4::testing::make_random_moe;
using ::moe4::testing::make_routing;
using ::moe4::testing::RandomMoe;
using ::moe4::testing::RoutingCase;

GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(ExpertsConformance);

class DeviceTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const std::string reason = ::moe4::testing::no_gpu_reason();
    if (!reason.empty()) GTEST_SKIP() << reason;
  }
  template <typename T>
  static std::vector<T> download(const T* device, int64_t count) {
    std::vector<T> host(count);
    MOE4_CUDA_CHECK(cudaMemcpy(host.data(), device, count * sizeof(T), cudaMemcpyDeviceToHost));
    return host;
  }
};

TEST_F(DeviceTest, RoutingTablesHoldEveryLocalPairOnce) {
  for (const int64_t experts : {1, 8, 128, 1000}) {
    for (const int64_t tokens : {0, 1, 9, 300, 5000, 40000}) {
      const int64_t top_k = std::min<int64_t>(4, experts), pairs = tokens * top_k;
      for (const bool mapped : {false, true}) {
        const auto routing =
            make_routing(RoutingCase::kWithMissing, tokens, experts, top_k, tokens + experts);
        // With a map: odd experts are elsewhere, even ones in reverse order.
        const int64_t local = mapped ? (experts + 1) / 2 : experts;
        std::vector<int32_t> map(experts, -1);
        for (int64_t e = 0; e < experts; ++e) {
          if (!mapped) map[e] = static_cast<int32_t>(e);
          if (mapped && e % 2 == 0) map[e] = static_cast<int32_t>(local - 1 - e / 2);
        }
        auto ids = allocate_device<int32_t>(pairs);
        auto device_map = allocate_device<int32_t>(experts);
        if (pairs > 0) {
          MOE4_CUDA_CHECK(
              cudaMemcpy(ids.get(), routing.ids.data(), pairs * 4, cudaMemcpyHostToDevice));
        }
        MOE4_CUDA_CHECK(
            cudaMemcpy(device_map.get(), map.data(), experts * 4, cudaMemcpyHostToDevice));
        Arena measure = Arena::measuring();
        take_routing_tables(measure, pairs, local, 8);
        auto memory = allocate_device<std::byte>(static_cast<int64_t>(measure.peak()));
        MOE4_CUDA_CHECK(cudaMemset(memory.get(), 0xff, measure.peak()));
        Arena arena({memory.get(), measure.peak()});
        const RoutingTables tables = take_routing_tables(arena, pairs, local, 8);
        build_routing_tables({.topk_ids = ids.get(),
                              .num_pairs = pairs,
                              .num_experts = static_cast<int32_t>(experts),
                              .num_local_experts = static_cast<int32_t>(local),
                              .expert_map = mapped ? device_map.get() : nullptr,
                              .tile_tokens = 8,
                              .tables = tables},
                             nullptr, false);
        MOE4_CUDA_CHECK(cudaDeviceSynchronize());

        std::vector<std::vector<int32_t>> expected(local);
        for (int64_t p = 0; p < pairs; ++p) {
          const int32_t id = routing.ids[p];
          if (id >= 0 && map[id] >= 0) expected[map[id]].push_back(static_cast<int32_t>(p));
        }
        const auto offsets = download(tables.expert_offsets, local + 1);
        const auto tile_offsets = download(tables.tile_offsets, local + 1);
        auto sorted = download(tables.sorted_pairs, pairs);
        const auto tiles = download(tables.tiles, tile_offsets[local]);
        int32_t next = 0, tile = 0;
        for (int64_t e = 0; e < local; ++e) {
          const auto count = static_cast<int32_t>(expected[e].size());
          ASSERT_EQ(offsets[e], next);
          ASSERT_EQ(tile_offsets[e], tile);
          std::sort(sorted.begin() + next, sorted.begin() + next + count);
          ASSERT_TRUE(std::equal(expected[e].begin(), expected[e].end(), sorted.begin() + next));
          for (int32_t done = 0; done < count; done += 8, ++tile) {
            ASSERT_EQ(tiles[tile].expert, e);
            ASSERT_EQ(tiles[tile].first, next + done);
            ASSERT_EQ(tiles[tile].count, std::min(8, count - done));
          }
          next += count;
        }
        ASSERT_EQ(offsets[local], next);
      }
    }
  }
}

TEST_F(DeviceTest, TheGpuPacksTheSameBytesAsTheCpu) {
  ThreadPool threads(2);
  for (const auto kind : {ActivationKind::kSilu, ActivationKind::kRelu2}) {
    for (const QuantScheme& scheme : {kW4A4, kMxfp4W4A16}) {
      MoeProblem problem{.hidden_size = 352,
                         .intermediate_size = scheme.is_mxfp4() ? 96 : 80,
                         .num_experts = 3,
                         .num_local_experts = 3,
                         .top_k = 2,
                         .activation = {.kind = kind}};
      const RandomMoe moe =
          make_random_moe({.problem = problem, .scheme = scheme, .awkward_scales = true});
      const PackedLayer layer(moe.weights, threads);
      const WeightFormat format = weight_format(scheme);
      const PackedShape fc1 = fc1_shape(format, problem), fc2 = fc2_shape(format, problem);
      const auto rows = [](const LinearWeights& linear) {
        return code_rows(linear, check_scales(linear));
      };
      for (int64_t e = 0; e < 3; ++e) {
        const ExpertWeights& expert = moe.weights.experts[e];
        std::vector<uint8_t> expected(fc1.expert_bytes());
        pack_tiles(fc1, rows(expert.gate ? *expert.gate : expert.up), rows(expert.up), 0, fc1.tiles,
                   expected.data());
        EXPECT_EQ(download(layer.view().fc1 + e * fc1.expert_bytes(), fc1.expert_bytes()),
                  expected);
        expected.resize(fc2.expert_bytes());
        pack_tiles(fc2, rows(expert.down), rows(expert.down), 0, fc2.tiles, expected.data());
        EXPECT_EQ(download(layer.view().fc2 + e * fc2.expert_bytes(), fc2.expert_bytes()),
                  expected);
      }
    }
  }
}

}  // namespace
}  // namespace moe4::cuda
