// The C interface gives what the C++ interface gives, and reports misuse instead of crashing.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <vector>

#include "base/aligned_buffer.h"
#include "experts/reference/reference_backend.h"
#include "moe4/moe4.h"
#include "support/c_layer.h"
#include "support/golden.h"

namespace moe4::testing {
namespace {

// Four experts of H 64, I 32.
CLayer small_layer() {
  return CLayer(
      {.problem = {.hidden_size = 64, .intermediate_size = 32, .num_experts = 4, .top_k = 2},
       .scheme = kW4A16,
       .biases = true},
      "reference", -1);
}

struct DestroyLayer {
  void operator()(moe4_layer* layer) const { moe4_layer_destroy(layer); }
};
using Layer = std::unique_ptr<moe4_layer, DestroyLayer>;

Layer create(const moe4_layer_desc& desc) {
  moe4_layer* layer = nullptr;
  EXPECT_EQ(moe4_layer_create(&desc, &layer), MOE4_OK) << moe4_last_error();
  return Layer(layer);
}

// Applies the layer to T tokens and returns the output as float32.
std::vector<float> apply(const Layer& layer, const std::vector<float>& x, const Routing& routing,
                         int64_t tokens) {
  std::vector<uint16_t> bf16, out(x.size());
  for (const float v : x) bf16.push_back(to_bf16(v).bits);
  AlignedBuffer workspace(moe4_layer_workspace_size(layer.get(), tokens));
  const moe4_apply_args args{.struct_size = sizeof(moe4_apply_args),
                             .num_tokens = tokens,
                             .hidden_states = bf16.data(),
                             .topk_ids = routing.ids.data(),
                             .topk_weights = routing.weights.data(),
                             .output = out.data(),
                             .workspace = workspace.data(),
                             .workspace_bytes = workspace.size()};
  EXPECT_EQ(moe4_layer_apply(layer.get(), &args), MOE4_OK) << moe4_last_error();
  std::vector<float> y;
  for (const uint16_t bits : out) y.push_back(to_float(Bf16{bits}));
  return y;
}

TEST(CApi, GivesTheBitsOfTheCppInterface) {
  CLayer c = small_layer();
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

TEST(CApi, TpRanksAddUpToTheWholeLayer) {
  // 44 blocks of 16 over 8 ranks: four ranks of 96, four of 80.
  CLayer c({.problem = {.hidden_size = 64, .intermediate_size = 704, .num_experts = 4, .top_k = 2},
            .scheme = kW4A16,
            .biases = true},
           "reference", -1);
  const int64_t tokens = 7;
  const std::vector<float> x = make_hidden_states(tokens, 64, 3);
  const Routing routing = make_routing(RoutingCase::kUniform, tokens, 4, 2, 4);
  const std::vector<float> whole = apply(create(c.desc), x, routing, tokens);
  std::vector<float> sum(whole.size());
  c.desc.tp_size = 8;
  for (int rank = 0; rank < 8; ++rank) {
    c.desc.tp_rank = rank;
    const Layer layer = create(c.desc);
    EXPECT_EQ(moe4_layer_intermediate_size(layer.get()), rank < 4 ? 96 : 80);
    const std::vector<float> part = apply(layer, x, routing, tokens);
    for (size_t i = 0; i < sum.size(); ++i) sum[i] += part[i];
  }
  EXPECT_LT(relative_error(sum, whole), 5e-3);  // each part is rounded to BF16
}

TEST(CApi, EpRanksAddUpToTheWholeLayer) {
  CLayer c = small_layer();
  const int64_t tokens = 9;
  const std::vector<float> x = make_hidden_states(tokens, 64, 5);
  const Routing routing = make_routing(RoutingCase::kDuplicates, tokens, 4, 2, 6);
  const std::vector<float> whole = apply(create(c.desc), x, routing, tokens);
  std::vector<float> sum(whole.size());
  const std::vector<moe4_linear> gate = c.gate, up = c.up, down = c.down;
  // Rank 0 holds experts 2 and 0, rank 1 holds 1 and 3.
  const std::vector<std::vector<int32_t>> held = {{2, 0}, {1, 3}};
  for (const std::vector<int32_t>& experts : held) {
    std::vector<int32_t> map(4, -1);
    for (int32_t i = 0; i < 2; ++i) {
      map[experts[i]] = i;
      c.gate[i] = gate[experts[i]];
      c.up[i] = up[experts[i]];
      c.down[i] = down[experts[i]];
    }
    c.desc.num_local_experts = 2;
    c.desc.expert_map = map.data();
    const std::vector<float> part = apply(create(c.desc), x, routing, tokens);
    for (size_t i = 0; i < sum.size(); ++i) sum[i] += part[i];
  }
  EXPECT_LT(relative_error(sum, whole), 5e-3);
}

TEST(CApi, ActivationsAreQuantisedWhenAsked) {
  CLayer c({.problem = {.hidden_size = 64, .intermediate_size = 32, .num_experts = 4, .top_k = 2}},
           "reference", -1);
  const std::vector<float> x = make_hidden_states(4, 64, 7);
  const Routing routing = make_routing(RoutingCase::kUniform, 4, 4, 2, 8);
  std::vector<std::vector<float>> outputs;
  for (const char* mode : {"bf16", "fp4", "fp4-static"}) {
    c.desc.activations = mode;
    outputs.push_back(apply(create(c.desc), x, routing, 4));
  }
  EXPECT_NE(outputs[0], outputs[1]);
  EXPECT_NE(outputs[1], outputs[2]);
  EXPECT_LT(relative_error(outputs[1], outputs[0]), 0.3);
}

// One change to a good description, and what the refusal must say.
struct Refusal {
  std::function<void(CLayer&)> damage;
  moe4_status status;
  const char* message;
};

TEST(CApi, RefusesWhatItCannotTakeAndSaysWhy) {
  static const int32_t twice[] = {0, 0, -1, -1}, beyond[] = {0, 1, 2, 7};
  const std::vector<Refusal> refusals = {
      {[](CLayer& c) { c.desc.struct_size -= 8; }, MOE4_USAGE, "struct_size"},
      {[](CLayer& c) { c.desc.hidden_size = 60; }, MOE4_USAGE, "multiples of 16"},
      {[](CLayer& c) { c.desc.gate = nullptr; }, MOE4_USAGE, "gate"},
      {[](CLayer& c) { c.down[2].scales = nullptr; }, MOE4_USAGE, "experts.2.down_proj"},
      {[](CLayer& c) { c.desc.num_local_experts = 2; }, MOE4_USAGE, "expert_map"},
      {[](CLayer& c) { c.desc.expert_map = twice; }, MOE4_USAGE, "expert_map[1]"},
      {[](CLayer& c) { c.desc.expert_map = beyond; }, MOE4_USAGE, "expert_map[3] is 7"},
      {[](CLayer& c) { c.desc.tp_size = 3; }, MOE4_USAGE, "3 TP ranks"},
      {[](CLayer& c) { c.desc.tp_size = c.desc.tp_rank = 2; }, MOE4_USAGE, "TP rank 2 of 2"},
      {[](CLayer& c) { c.desc.weights_on_device = 1; }, MOE4_USAGE, "weights_on_device"},
      {[](CLayer& c) { c.desc.backend = "nonsense"; }, MOE4_USAGE, "nonsense"},
      {[](CLayer& c) { c.desc.activations = "int3"; }, MOE4_USAGE, "int3"},
      {[](CLayer& c) { c.desc.backend = "hopper"; }, MOE4_UNAVAILABLE, "hopper"},
      {[](CLayer& c) { c.desc.device = 1000; }, MOE4_UNAVAILABLE, ""},
      {[](CLayer& c) { c.moe.block_scale(1, RandomMoe::Projection::kUp, 3, 1) = 0x7f; },
       MOE4_BAD_INPUT, "experts.1.up_proj"},
  };
  for (const Refusal& refusal : refusals) {
    CLayer c = small_layer();
    c.desc.backend = "cpu";
    refusal.damage(c);
    moe4_layer* layer = nullptr;
    EXPECT_EQ(moe4_layer_create(&c.desc, &layer), refusal.status) << refusal.message;
    EXPECT_THAT(moe4_last_error(), ::testing::HasSubstr(refusal.message));
    EXPECT_EQ(layer, nullptr);
  }
  moe4_layer* layer = nullptr;
  EXPECT_EQ(moe4_layer_create(nullptr, &layer), MOE4_USAGE);
  EXPECT_EQ(moe4_layer_apply(nullptr, nullptr), MOE4_USAGE);
  moe4_layer_destroy(nullptr);
}

}  // namespace
}  // namespace moe4::testing
