// The C interface gives what the C++ interface gives, and reports misuse instead of crashing.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/aligned_buffer.h"
#include "experts/reference/reference_backend.h"
#include "moe4/moe4.h"
#include "support/random_moe.h"

namespace moe4::testing {
namespace {

struct CLayer {
  RandomMoe moe = make_random_moe(
      {.problem = {.hidden_size = 64, .intermediate_size = 32, .num_experts = 4, .top_k = 2},
       .scheme = kW4A16,
       .biases = true});
  std::vector<moe4_linear> gate, up, down;
  moe4_layer_desc desc{};

  CLayer() {
    const auto c_linear = [](const LinearWeights& l) {
      return moe4_linear{static_cast<const uint8_t*>(l.weight.data),
                         static_cast<const uint8_t*>(l.scale.data), l.global_scale.value,
                         static_cast<const uint16_t*>(l.bias.data)};
    };
    for (const ExpertWeights& expert : moe.weights.experts) {
      gate.push_back(c_linear(*expert.gate));
      up.push_back(c_linear(expert.up));
      down.push_back(c_linear(expert.down));
    }
    desc = {.struct_size = sizeof(moe4_layer_desc),
            .hidden_size = 64,
            .intermediate_size = 32,
            .num_experts = 4,
            .num_local_experts = 4,
            .top_k = 2,
            .activation = MOE4_SILU,
            .gate = gate.data(),
            .up = up.data(),
            .down = down.data(),
            .device = -1,
            .backend = "reference",
            .num_threads = 1};
  }
};

TEST(CApi, GivesTheBitsOfTheCppInterface) {
  CLayer c;
  moe4_layer* layer = nullptr;
  ASSERT_EQ(moe4_layer_create(&c.desc, &layer), MOE4_OK) << moe4_last_error();
  EXPECT_STREQ(moe4_layer_backend(layer), "reference");
  const int64_t tokens = 5;
  const std::vector<float> x = make_hidden_states(tokens, 64, 3);
  std::vector<uint16_t> bf16, out(x.size()), expected(x.size());
  for (const float v : x) bf16.push_back(to_bf16(v).bits);
  const Routing routing = make_routing(RoutingCase::kWithMissing, tokens, 4, 2, 4);
  AlignedBuffer workspace(moe4_layer_workspace_size(layer, tokens));
  moe4_apply_args args{.struct_size = sizeof(moe4_apply_args),
                       .num_tokens = tokens,
                       .hidden_states = bf16.data(),
                       .topk_ids = routing.ids.data(),
                       .topk_weights = routing.weights.data(),
                       .output = out.data(),
                       .workspace = workspace.data(),
                       .workspace_bytes = workspace.size()};
  ASSERT_EQ(moe4_layer_apply(layer, &args), MOE4_OK) << moe4_last_error();

  ThreadPool threads(1);
  const auto reference = ReferenceBackend().prepare(c.moe.weights, {.threads = &threads});
  reference->apply({.num_tokens = tokens,
                    .hidden_states = bf16.data(),
                    .topk_ids = routing.ids.data(),
                    .topk_weights = routing.weights.data(),
                    .output = expected.data(),
                    .workspace = {workspace.data(), workspace.size()}});
  EXPECT_EQ(out, expected);

  args.workspace_bytes = 1;
  EXPECT_EQ(moe4_layer_apply(layer, &args), MOE4_USAGE);
  EXPECT_THAT(moe4_last_error(), ::testing::HasSubstr("workspace"));
  moe4_layer_destroy(layer);
}

TEST(CApi, RefusesWhatItCannotTakeAndSaysWhy) {
  moe4_layer* layer = nullptr;
  EXPECT_EQ(moe4_layer_create(nullptr, &layer), MOE4_USAGE);
  CLayer c;
  moe4_layer_desc desc = c.desc;
  desc.struct_size -= 8;
  EXPECT_EQ(moe4_layer_create(&desc, &layer), MOE4_USAGE);
  desc = c.desc;
  desc.hidden_size = 60;
  EXPECT_EQ(moe4_layer_create(&desc, &layer), MOE4_USAGE);
  EXPECT_THAT(moe4_last_error(), ::testing::HasSubstr("multiples of 16"));
  desc = c.desc;
  desc.gate = nullptr;
  EXPECT_EQ(moe4_layer_create(&desc, &layer), MOE4_USAGE);
  desc = c.desc;
  desc.backend = "nonsense";
  EXPECT_EQ(moe4_layer_create(&desc, &layer), MOE4_USAGE);
  EXPECT_EQ(layer, nullptr);
  moe4_layer_destroy(nullptr);
}

}  // namespace
}  // namespace moe4::testing
