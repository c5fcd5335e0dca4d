// TP shards: whole blocks, every element in exactly one shard, and outputs that add up.
#include "moe/shard.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

#include "base/aligned_buffer.h"
#include "base/error.h"
#include "moe/dequantize.h"
#include "ops/experts/cpu/cpu_backend.h"
#include "ops/experts/reference/reference_backend.h"
#include "support/golden.h"
#include "support/random_moe.h"

namespace moe4::testing {
namespace {

TEST(Shard, CutsAtBlocksOf16AndCoversTheIntermediateSizeOnce) {
  for (const int64_t size : {640, 704, 1856, 16 * 7}) {
    for (const int ranks : {1, 2, 3, 4, 7}) {
      int64_t next = 0;
      for (int rank = 0; rank < ranks; ++rank) {
        const IntermediateShard shard = intermediate_shard(size, ranks, rank);
        EXPECT_EQ(shard.begin, next);
        EXPECT_EQ(shard.begin % 16, 0);
        EXPECT_GT(shard.end, shard.begin);
        EXPECT_LE(shard.end - shard.begin, (size / 16 + ranks - 1) / ranks * 16);
        next = shard.end;
      }
      EXPECT_EQ(next, size);
    }
  }
}

TEST(Shard, RefusesRanksThatMakeNoSenseOrWouldHoldNothing) {
  EXPECT_THROW(intermediate_shard(64, 5, 0), Error);
  EXPECT_THROW(intermediate_shard(704, 2, 2), Error);
  EXPECT_THROW(intermediate_shard(704, 2, -1), Error);
  EXPECT_THROW(intermediate_shard(700, 2, 0), Error);
  EXPECT_THROW(intermediate_shard(720, 2, 0, 32), Error);
}

TEST(Shard, Mxfp4IsCutAtBlocksOf32) {
  const RandomMoe moe = make_random_moe(
      {.problem = {.hidden_size = 64, .intermediate_size = 160, .num_experts = 2, .top_k = 1},
       .scheme = kMxfp4W4A16});
  std::vector<float> whole_row(160), row(160);
  int64_t begin = 0;
  for (const int64_t width : {96, 64}) {
    const MoeLayerWeights part = shard_weights(moe.weights, 2, begin == 0 ? 0 : 1);
    ASSERT_EQ(part.problem.intermediate_size, width);
    for (int64_t h = 0; h < 64; ++h) {
      dequantize_row(moe.weights.experts[1].down, h, whole_row.data());
      dequantize_row(part.experts[1].down, h, row.data());
      for (int64_t i = 0; i < width; ++i) ASSERT_EQ(row[i], whole_row[begin + i]);
    }
    begin += width;
  }
}

TEST(Shard, HoldsTheSameNumbersAsTheWhole) {
  const RandomMoe moe = make_random_moe(
      {.problem = {.hidden_size = 64, .intermediate_size = 176, .num_experts = 2, .top_k = 1},
       .up_global_ratio = 3.0f,
       .biases = true});
  std::vector<float> whole_row(176), row(176), whole_up(64), up(64);
  for (int rank = 0; rank < 3; ++rank) {
    const IntermediateShard shard = intermediate_shard(176, 3, rank);
    const int64_t width = shard.end - shard.begin;
    const MoeLayerWeights part = shard_weights(moe.weights, 3, rank);
    EXPECT_EQ(part.problem.intermediate_size, width);
    for (size_t e = 0; e < 2; ++e) {
      const ExpertWeights &a = moe.weights.experts[e], &b = part.experts[e];
      for (int64_t h = 0; h < 64; ++h) {
        dequantize_row(a.down, h, whole_row.data());
        dequantize_row(b.down, h, row.data());
        for (int64_t i = 0; i < width; ++i) ASSERT_EQ(row[i], whole_row[shard.begin + i]);
      }
      for (int64_t i = 0; i < width; ++i) {
        dequantize_row(a.up, shard.begin + i, whole_up.data());
        dequantize_row(b.up, i, up.data());
        ASSERT_EQ(up, whole_up);
      }
      EXPECT_EQ(b.up.bias.as<uint16_t>()[0], a.up.bias.as<uint16_t>()[shard.begin]);
      EXPECT_EQ(b.down.bias.empty(), rank != 0);
    }
  }
}

std::vector<float> apply(const ExpertsBackend& backend, const MoeLayerWeights& weights,
                         const std::vector<float>& x, const Routing& routing) {
  ThreadPool threads(2);
  const auto layer = backend.prepare(weights, {.threads = &threads});
  const auto tokens = static_cast<int64_t>(x.size()) / weights.problem.hidden_size;
  AlignedBuffer workspace(layer->workspace_size(tokens));
  std::vector<float> y(x.size());
  layer->apply({.num_tokens = tokens,
                .hidden_states = x.data(),
                .hidden_dtype = DType::kF32,
                .topk_ids = routing.ids.data(),
                .topk_weights = routing.weights.data(),
                .output = y.data(),
                .output_dtype = DType::kF32,
                .workspace = {workspace.data(), workspace.size()}});
  return y;
}

TEST(Shard, OutputsOfAllRanksAddUp) {
  const ReferenceBackend reference;
  const CpuBackend cpu;
  for (const int64_t size : {640, 704, 1856}) {
    const RandomMoe moe = make_random_moe(
        {.problem = {.hidden_size = 64, .intermediate_size = size, .num_experts = 4, .top_k = 2},
         .biases = true});
    const std::vector<float> x = make_hidden_states(6, 64, 1);
    const Routing routing = make_routing(RoutingCase::kUniform, 6, 4, 2, 2);
    const std::vector<float> whole = apply(reference, moe.weights, x, routing);
    for (const ExpertsBackend* backend : {static_cast<const ExpertsBackend*>(&reference),
                                          static_cast<const ExpertsBackend*>(&cpu)}) {
      for (const int ranks : {2, 3, 8}) {
        std::vector<float> sum(x.size());
        for (int rank = 0; rank < ranks; ++rank) {
          const std::vector<float> part =
              apply(*backend, shard_weights(moe.weights, ranks, rank), x, routing);
          for (size_t i = 0; i < sum.size(); ++i) sum[i] += part[i];
        }
        EXPECT_LT(relative_error(sum, whole), backend == &reference ? 1e-6 : 1e-3)
            << backend->name() << ", I " << size << ", " << ranks << " ranks";
      }
    }
  }
}

}  // namespace
}  // namespace moe4::testing
