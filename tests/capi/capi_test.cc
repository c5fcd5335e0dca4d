// The C interface gives what the C++ interface gives, and reports misuse instead of crashing.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <functional>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "base/aligned_buffer.h"
#include "moe4/moe4.h"
#include "ops/experts/reference/reference_backend.h"
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
  AlignedBuffer workspace(moe4_layer_workspace_size(layer.get(), tokens, MOE4_BF16));
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
  AlignedBuffer workspace(moe4_layer_workspace_size(layer, tokens, MOE4_BF16));
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
      {[](CLayer& c) { c.desc.hidden_size = 60; }, MOE4_USAGE, "hidden_size is 60"},
      {[](CLayer& c) { c.desc.hidden_size = 0; }, MOE4_USAGE, "hidden_size is 0"},
      {[](CLayer& c) { c.desc.intermediate_size = 24; }, MOE4_USAGE, "intermediate_size is 24"},
      {[](CLayer& c) { c.desc.intermediate_size = -16; }, MOE4_USAGE, "intermediate_size is -16"},
      {[](CLayer& c) { c.desc.num_experts = 0; }, MOE4_USAGE, "num_experts is 0"},
      {[](CLayer& c) { c.desc.num_local_experts = 5; }, MOE4_USAGE, "num_local_experts is 5"},
      {[](CLayer& c) { c.desc.top_k = 5; }, MOE4_USAGE, "top_k is 5, expected 1 to 4"},
      {[](CLayer& c) { c.desc.top_k = 0; }, MOE4_USAGE, "top_k is 0"},
      {[](CLayer& c) { c.desc.activation = static_cast<moe4_activation>(4); }, MOE4_USAGE,
       "activation is 4"},
      {[](CLayer& c) { c.desc.alpha = NAN; }, MOE4_USAGE, "alpha is nan"},
      {[](CLayer& c) { c.desc.alpha = INFINITY; }, MOE4_USAGE, "alpha is inf"},
      {[](CLayer& c) { c.desc.beta = -INFINITY; }, MOE4_USAGE, "beta is -inf"},
      {[](CLayer& c) { c.desc.limit = NAN; }, MOE4_USAGE, "limit is nan"},
      {[](CLayer& c) { c.desc.limit = -1; }, MOE4_USAGE, "limit is -1"},
      {[](CLayer& c) {
         c.desc.activation = MOE4_GELU_TANH;
         c.desc.limit = 7;
       },
       MOE4_USAGE, "limit is 7"},
      {[](CLayer& c) { c.desc.tp_rank = 5; }, MOE4_USAGE, "tp_rank is 5, expected a TP rank of 1"},
      {[](CLayer& c) {
         c.desc.tp_size = 1;
         c.desc.tp_rank = 1;
       },
       MOE4_USAGE, "tp_rank is 1"},
      {[](CLayer& c) { c.desc.tp_size = -2; }, MOE4_USAGE, "tp_size is -2"},
      {[](CLayer& c) { c.desc.tp_rank = -1; }, MOE4_USAGE, "tp_rank is -1"},
      {[](CLayer& c) { c.desc.device = -2; }, MOE4_USAGE, "device is -2"},
      {[](CLayer& c) { c.up[1].global_scale = NAN; }, MOE4_BAD_INPUT, "experts.1.up_proj"},
      {[](CLayer& c) { c.down[3].global_scale = INFINITY; }, MOE4_BAD_INPUT, "global_scale"},
      {[](CLayer& c) { c.gate[2].input_scale = NAN; }, MOE4_BAD_INPUT, "experts.2.gate_proj"},
      {[](CLayer& c) { c.down[0].input_scale = -1; }, MOE4_BAD_INPUT, "input_scale"},
      {[](CLayer& c) { c.up[0].input_scale = INFINITY; }, MOE4_BAD_INPUT, "experts.0.up_proj"},
      {[](CLayer& c) { c.desc.gate = nullptr; }, MOE4_USAGE, "gate"},
      {[](CLayer& c) { c.down[2].scales = nullptr; }, MOE4_USAGE, "experts.2.down_proj"},
      {[](CLayer& c) { c.desc.num_local_experts = 2; }, MOE4_USAGE, "expert_map"},
      {[](CLayer& c) { c.desc.expert_map = twice; }, MOE4_USAGE, "expert_map[1]"},
      {[](CLayer& c) { c.desc.expert_map = beyond; }, MOE4_USAGE, "expert_map[3] is 7"},
      {[](CLayer& c) {
         c.desc.expert_map = beyond;
         c.desc.expert_map_per_call = 1;
       },
       MOE4_USAGE, "expert_map_per_call"},
      {[](CLayer& c) { c.desc.tp_size = 3; }, MOE4_USAGE, "3 TP ranks"},
      {[](CLayer& c) { c.desc.tp_size = c.desc.tp_rank = 2; }, MOE4_USAGE, "tp_rank is 2"},
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

TEST(CApi, SizesFarBeyondMemoryAreRefusedByName) {
  for (const int64_t huge : {int64_t{1} << 31, int64_t{1} << 56, INT64_MAX, INT64_MIN}) {
    for (const auto& [field, name] :
         {std::pair(&moe4_layer_desc::hidden_size, "hidden_size"),
          std::pair(&moe4_layer_desc::intermediate_size, "intermediate_size"),
          std::pair(&moe4_layer_desc::num_experts, "num_experts"),
          std::pair(&moe4_layer_desc::num_local_experts, "num_local_experts"),
          std::pair(&moe4_layer_desc::top_k, "top_k")}) {
      for (const char* backend : {"cpu", "reference"}) {
        CLayer c = small_layer();
        static const int32_t map[] = {0, 1, 2, 3};
        c.desc.expert_map = map;
        c.desc.backend = backend;
        c.desc.*field = huge;
        moe4_layer* layer = nullptr;
        EXPECT_EQ(moe4_layer_create(&c.desc, &layer), MOE4_USAGE) << name << " " << huge;
        EXPECT_THAT(moe4_last_error(),
                    ::testing::HasSubstr(std::string(name) + " is " + std::to_string(huge)));
        EXPECT_EQ(layer, nullptr);
      }
    }
  }
  CLayer c = small_layer();
  const Layer layer = create(c.desc);
  for (const int64_t tokens : {int64_t{-1}, int64_t{1} << 31, int64_t{1} << 56, INT64_MAX}) {
    EXPECT_EQ(moe4_layer_workspace_size(layer.get(), tokens, MOE4_BF16), 0u);
    alignas(256) static std::byte memory[1024];
    const moe4_apply_args args{.struct_size = sizeof(moe4_apply_args),
                               .num_tokens = tokens,
                               .hidden_states = reinterpret_cast<uint16_t*>(memory),
                               .topk_ids = reinterpret_cast<int32_t*>(memory),
                               .topk_weights = reinterpret_cast<float*>(memory),
                               .output = reinterpret_cast<uint16_t*>(memory),
                               .workspace = memory,
                               .workspace_bytes = sizeof memory};
    EXPECT_EQ(moe4_layer_apply(layer.get(), &args), MOE4_USAGE) << tokens;
    EXPECT_THAT(moe4_last_error(), ::testing::HasSubstr("num_tokens"));
  }
}

// A layer whose description has one scalar field set, against the C++ interface told the same.
struct ScalarField {
  const char* name;
  ActivationKind kind;
  std::function<void(moe4_layer_desc&)> set;
  std::function<void(MoeProblem&)> same;
};

TEST(CApi, EveryScalarFieldReachesTheLayer) {
  const std::vector<ScalarField> fields = {
      {"limit of silu", ActivationKind::kSilu, [](auto& d) { d.limit = 0.25f; },
       [](auto& p) { p.activation.limit = 0.25f; }},
      {"limit of swigluoai", ActivationKind::kSwigluOai,
       [](auto& d) {
         d.alpha = 1;
         d.limit = 0.25f;
       },
       [](auto& p) {
         p.activation.alpha = 1;
         p.activation.beta = 0;
         p.activation.limit = 0.25f;
       }},
      {"alpha", ActivationKind::kSwigluOai, [](auto& d) { d.alpha = 3; },
       [](auto& p) {
         p.activation.alpha = 3;
         p.activation.beta = 0;
       }},
      {"beta", ActivationKind::kSwigluOai,
       [](auto& d) {
         d.alpha = 1;
         d.beta = 2;
       },
       [](auto& p) {
         p.activation.alpha = 1;
         p.activation.beta = 2;
       }},
      {"weight_on_input", ActivationKind::kSilu, [](auto& d) { d.weight_on_input = 1; },
       [](auto& p) { p.weight_on_input = true; }},
  };
  const int64_t tokens = 6;
  std::vector<float> x = make_hidden_states(tokens, 64, 3);
  for (float& value : x) value *= 4;  // so that clamps have something to do
  const Routing routing = make_routing(RoutingCase::kUniform, tokens, 4, 2, 4);
  for (const ScalarField& field : fields) {
    MoeProblem problem{.hidden_size = 64, .intermediate_size = 32, .num_experts = 4, .top_k = 2};
    problem.activation.kind = field.kind;
    CLayer c({.problem = problem, .scheme = kW4A16}, "reference", -1);
    const std::vector<float> without = apply(create(c.desc), x, routing, tokens);
    field.set(c.desc);
    const std::vector<float> y = apply(create(c.desc), x, routing, tokens);
    EXPECT_NE(y, without) << field.name;

    field.same(c.moe.weights.problem);
    ThreadPool threads(1);
    const auto layer = ReferenceBackend().prepare(c.moe.weights, {.threads = &threads});
    AlignedBuffer workspace(layer->workspace_size(tokens));
    std::vector<Bf16> bf16, out(x.size());
    for (const float v : x) bf16.push_back(to_bf16(v));
    layer->apply({.num_tokens = tokens,
                  .hidden_states = bf16.data(),
                  .topk_ids = routing.ids.data(),
                  .topk_weights = routing.weights.data(),
                  .output = out.data(),
                  .workspace = {workspace.data(), workspace.size()}});
    std::vector<float> expected;
    for (const Bf16 v : out) expected.push_back(to_float(v));
    EXPECT_EQ(y, expected) << field.name;
  }
}

TEST(CApi, PointersMustBeAlignedAsTheHeaderSays) {
  for (const char* backend : {"cpu", "reference"}) {
    CLayer c = small_layer();
    c.desc.backend = backend;
    const Layer layer = create(c.desc);
    const int64_t tokens = 3;
    const size_t bytes = moe4_layer_workspace_size(layer.get(), tokens, MOE4_BF16);
    AlignedBuffer workspace(bytes + 512), x(tokens * 64 * 2 + 64), out(tokens * 64 * 2 + 64);
    AlignedBuffer ids(tokens * 2 * 4 + 64), weights(tokens * 2 * 4 + 64);
    std::memset(out.data(), 0x5a, out.size());
    // AlignedBuffer's pages are multiples of 256.
    ASSERT_EQ(reinterpret_cast<uintptr_t>(workspace.data()) % 256, 0u);
    const auto status = [&](size_t at_x, size_t at_ids, size_t at_weights, size_t at_out,
                            size_t at_workspace) {
      const moe4_apply_args args{
          .struct_size = sizeof(moe4_apply_args),
          .num_tokens = tokens,
          .hidden_states = x.data() + at_x,
          .topk_ids = ids.data() + at_ids,
          .topk_weights = reinterpret_cast<const float*>(weights.data() + at_weights),
          .output = out.data() + at_out,
          .workspace = workspace.data() + at_workspace,
          .workspace_bytes = bytes};
      return moe4_layer_apply(layer.get(), &args);
    };
    EXPECT_EQ(status(8, 0, 0, 0, 0), MOE4_USAGE);
    EXPECT_EQ(status(0, 2, 0, 0, 0), MOE4_USAGE);
    EXPECT_EQ(status(0, 0, 2, 0, 0), MOE4_USAGE);
    EXPECT_EQ(status(0, 0, 0, 8, 0), MOE4_USAGE);
    for (size_t i = 0; i < out.size(); ++i) ASSERT_EQ(out.data()[i], std::byte{0x5a});
    EXPECT_EQ(status(0, 0, 0, 0, 0), MOE4_OK) << moe4_last_error();
    EXPECT_EQ(status(16, 4, 4, 16, 256), MOE4_OK) << moe4_last_error();
    for (const size_t offset : {1, 16, 32, 64, 128, 192}) {
      EXPECT_EQ(status(0, 0, 0, 0, offset), MOE4_OK) << "workspace + " << offset;
    }
  }
}

TEST(CApi, SaysWhetherATokensBitsDependOnItsBatch) {
  for (const char* backend : {"cpu", "reference"}) {
    CLayer c = small_layer();
    c.desc.backend = backend;
    c.desc.batch_invariant = 1;
    EXPECT_EQ(moe4_layer_batch_invariance(create(c.desc).get()), MOE4_BATCH_INVARIANT);
  }
  EXPECT_EQ(moe4_layer_batch_invariance(nullptr), MOE4_BATCH_DEPENDENT);
}

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
// Bytes of address space in use.
rlim_t address_space() {
  std::ifstream status("/proc/self/statm");
  rlim_t pages = 0;
  status >> pages;
  return pages * static_cast<rlim_t>(sysconf(_SC_PAGESIZE));
}

// Runs in a process of its own that may take `bytes` more; exits with the status of create().
[[noreturn]] void create_within(const moe4_layer_desc& desc, rlim_t bytes, int threads = 1) {
  if (moe4_set_num_threads(threads) != MOE4_OK) _exit(102);
  const rlim_t most = address_space() + bytes;
  const rlimit limit{most, most};
  if (setrlimit(RLIMIT_AS, &limit) != 0) _exit(100);
  moe4_layer* layer = nullptr;
  const moe4_status status = moe4_layer_create(&desc, &layer);
  if (status != MOE4_OK) std::fprintf(stderr, "%s\n", moe4_last_error());
  if ((layer == nullptr) != (status != MOE4_OK)) _exit(101);
  _exit(status);
}

TEST(CApiDeathTest, MemoryThatRunsOutIsUnavailable) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  // Very many descriptions of one small expert: the vector that holds them does not fit.
  CLayer c({.problem = {.hidden_size = 16, .intermediate_size = 16, .num_experts = 1, .top_k = 1},
            .scheme = kW4A16},
           "cpu", -1);
  const std::vector<moe4_linear> gate(65536, c.gate[0]), up(65536, c.up[0]), down(65536, c.down[0]);
  c.desc.gate = gate.data();
  c.desc.up = up.data();
  c.desc.down = down.data();
  c.desc.num_experts = c.desc.num_local_experts = 65536;
  EXPECT_EXIT(create_within(c.desc, 16 << 20), ::testing::ExitedWithCode(MOE4_UNAVAILABLE),
              "out of memory");

  // Packed weights of 7 MB.
  CLayer large(
      {.problem = {.hidden_size = 1024, .intermediate_size = 512, .num_experts = 8, .top_k = 1},
       .scheme = kW4A16},
      "cpu", -1);
  EXPECT_EXIT(create_within(large.desc, 2 << 20), ::testing::ExitedWithCode(MOE4_UNAVAILABLE),
              "memory");
}

TEST(CApiDeathTest, ThreadsThatCannotBeStartedAreUnavailable) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  CLayer c({.problem = {.hidden_size = 16, .intermediate_size = 16, .num_experts = 1, .top_k = 1},
            .scheme = kW4A16},
           "cpu", -1);
  EXPECT_EXIT(create_within(c.desc, 64 << 20, 200),  // 2 MB of stack each, at the least
              ::testing::ExitedWithCode(MOE4_UNAVAILABLE),
              "cannot start 200 threads, only [0-9]+ .*num_threads");
}
#endif

}  // namespace
}  // namespace moe4::testing
