// The forms in which engines have weights, rows and ids give the bits of the plain form.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "base/aligned_buffer.h"
#include "moe4/moe4.h"
#include "numerics/f16.h"
#include "support/c_layer.h"

namespace moe4::testing {
namespace {

constexpr int64_t kHidden = 64, kWidth = 32, kExperts = 4, kTopK = 2, kTokens = 7;

CLayer small_layer(const char* backend = "cpu") {
  return CLayer({.problem = {.hidden_size = kHidden,
                             .intermediate_size = kWidth,
                             .num_experts = kExperts,
                             .top_k = kTopK},
                 .scheme = kW4A4,
                 .biases = true},
                backend, -1);
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

template <typename T>
T value_from(float x) {
  if constexpr (std::is_same_v<T, Bf16>) return to_bf16(x);
  if constexpr (std::is_same_v<T, F16>) return to_f16(x);
  if constexpr (std::is_same_v<T, float>) return x;
}

struct Call {
  std::vector<float> x = make_hidden_states(kTokens, kHidden, 3);
  Routing routing = make_routing(RoutingCase::kWithMissing, kTokens, kExperts, kTopK, 4);
  const int32_t* expert_map = nullptr;
};

template <typename T>
constexpr moe4_dtype kDtype = MOE4_BF16;
template <>
constexpr moe4_dtype kDtype<F16> = MOE4_F16;
template <>
constexpr moe4_dtype kDtype<float> = MOE4_F32;

// The output as float32 of rows of T with ids of Id.
template <typename T, typename Id = int32_t>
std::vector<float> apply(const Layer& layer, const Call& call = {}) {
  std::vector<T> x, out(call.x.size());
  for (const float v : call.x) x.push_back(value_from<T>(v));
  const std::vector<Id> ids(call.routing.ids.begin(), call.routing.ids.end());
  std::vector<std::byte> workspace(moe4_layer_workspace_size(layer.get(), kTokens, kDtype<T>));
  const moe4_apply_args args{.struct_size = sizeof(moe4_apply_args),
                             .num_tokens = kTokens,
                             .hidden_states = x.data(),
                             .topk_ids = ids.data(),
                             .topk_weights = call.routing.weights.data(),
                             .output = out.data(),
                             .workspace = workspace.data(),
                             .workspace_bytes = workspace.size(),
                             .hidden_dtype = kDtype<T>,
                             .ids_are_int64 = sizeof(Id) == 8,
                             .expert_map = call.expert_map};
  EXPECT_EQ(moe4_layer_apply(layer.get(), &args), MOE4_OK) << moe4_last_error();
  std::vector<float> y;
  for (const T v : out) {
    if constexpr (std::is_same_v<T, float>) {
      y.push_back(v);
    } else {
      y.push_back(to_float(v));
    }
  }
  return y;
}

// The layer's linears as w13 [E, 2 I, H] and w2 [E, H, I], scales of gate and up side by side.
struct Stacked {
  explicit Stacked(CLayer& c) {
    for (int64_t e = 0; e < kExperts; ++e) {
      append(w13, c.gate[e].codes, kWidth * kHidden / 2);
      append(w13, c.up[e].codes, kWidth * kHidden / 2);
      append(w13_scale, c.gate[e].scales, kWidth * kHidden / 16);
      append(w13_scale, c.up[e].scales, kWidth * kHidden / 16);
      append(w13_bias, c.gate[e].bias, kWidth);
      append(w13_bias, c.up[e].bias, kWidth);
      append(w2, c.down[e].codes, kWidth * kHidden / 2);
      append(w2_scale, c.down[e].scales, kWidth * kHidden / 16);
      append(w2_bias, c.down[e].bias, kHidden);
      for (const moe4_linear* linear : {&c.gate[e], &c.up[e]}) {
        w13_globals.push_back(linear->global_scale);
        w13_inputs.push_back(linear->input_scale);
      }
      w2_globals.push_back(c.down[e].global_scale);
      w2_inputs.push_back(c.down[e].input_scale);
    }
    const int64_t size = kWidth * kHidden;
    const moe4_stacked_linear both{.codes = w13.data(),
                                   .scales = w13_scale.data(),
                                   .global_scales = w13_globals.data(),
                                   .input_scales = w13_inputs.data(),
                                   .bias = w13_bias.data(),
                                   .codes_stride = size,  // two of size / 2
                                   .scales_stride = size / 8,
                                   .global_scales_stride = 2,
                                   .input_scales_stride = 2,
                                   .bias_stride = 2 * kWidth};
    gate = up = both;
    up.codes += size / 2;
    up.scales += size / 16;
    up.global_scales += 1;
    up.input_scales += 1;
    up.bias += kWidth;
    down = {.codes = w2.data(),
            .scales = w2_scale.data(),
            .global_scales = w2_globals.data(),
            .input_scales = w2_inputs.data(),
            .bias = w2_bias.data()};
    c.desc.gate = c.desc.up = c.desc.down = nullptr;
    c.desc.stacked_gate = &gate;
    c.desc.stacked_up = &up;
    c.desc.stacked_down = &down;
  }
  template <typename T>
  static void append(std::vector<T>& to, const T* from, int64_t count) {
    to.insert(to.end(), from, from + count);
  }

  std::vector<uint8_t> w13, w13_scale, w2, w2_scale;
  std::vector<uint16_t> w13_bias, w2_bias;
  std::vector<float> w13_globals, w13_inputs, w2_globals, w2_inputs;
  moe4_stacked_linear gate, up, down;
};

TEST(CApiForms, StackedLinearsGiveTheBitsOfSingleOnes) {
  for (const char* activations : {"bf16", "fp4-static"}) {
    CLayer c = small_layer();
    c.desc.activations = activations;
    const std::vector<float> expected = apply<Bf16>(create(c.desc));
    const Stacked stacked(c);
    EXPECT_EQ(apply<Bf16>(create(c.desc)), expected) << activations;
  }
}

TEST(CApiForms, ReciprocalScalesAreInverted) {
  CLayer c = small_layer();
  for (auto* linears : {&c.gate, &c.up, &c.down}) {
    for (moe4_linear& l : *linears) l.global_scale = 0.25f;
  }
  c.desc.activations = "fp4-static";
  const std::vector<float> expected = apply<Bf16>(create(c.desc));
  for (auto* linears : {&c.gate, &c.up, &c.down}) {
    for (moe4_linear& l : *linears) {
      l.global_scale = 4;
      l.input_scale = 1 / l.input_scale;
    }
  }
  c.desc.reciprocal_scales = 1;
  const std::vector<float> y = apply<Bf16>(create(c.desc));
  double error = 0, norm = 0;
  for (size_t i = 0; i < y.size(); ++i) {
    error += (y[i] - expected[i]) * (y[i] - expected[i]);
    norm += expected[i] * expected[i];
  }
  EXPECT_LT(error, norm * 1e-4);  // input scales are inverted twice

  c.down[1].global_scale = 0;
  moe4_layer* layer = nullptr;
  EXPECT_EQ(moe4_layer_create(&c.desc, &layer), MOE4_BAD_INPUT);
  EXPECT_THAT(moe4_last_error(), ::testing::HasSubstr("experts.1.down_proj"));
}

TEST(CApiForms, AStackedLinearThatIsIncompleteOrOverlapsIsRefused) {
  const auto refused = [](auto&& damage, const char* message) {
    CLayer c = small_layer();
    Stacked stacked(c);
    damage(c, stacked);
    moe4_layer* layer = nullptr;
    EXPECT_EQ(moe4_layer_create(&c.desc, &layer), MOE4_USAGE);
    EXPECT_THAT(moe4_last_error(), ::testing::HasSubstr(message));
    EXPECT_EQ(layer, nullptr);
  };
  refused([](CLayer&, Stacked& s) { s.up.global_scales = nullptr; }, "of up");
  refused([](CLayer&, Stacked& s) { s.down.codes = nullptr; }, "of down");
  refused([](CLayer&, Stacked& s) { s.gate.codes_stride = 8; }, "of gate: codes_stride is 8");
  refused([](CLayer&, Stacked& s) { s.gate.bias_stride = -1; }, "bias_stride is -1");
  refused([](CLayer& c, Stacked&) { c.desc.stacked_down = nullptr; }, "down is NULL");
  refused([](CLayer& c, Stacked&) { c.desc.stacked_gate = nullptr; }, "gate");
  refused([](CLayer& c, Stacked&) { c.desc.up = c.up.data(); }, "one by one and stacked");
}

TEST(CApiForms, RowsOfFloat16AndFloat32AreTakenAsTheyAre) {
  for (const char* backend : {"cpu", "reference"}) {
    CLayer c = small_layer(backend);
    Call call;
    for (float& v : call.x) v = to_float(to_f16(to_float(to_bf16(v))));  // exact in all types
    const Layer layer = create(c.desc);
    const std::vector<float> bf16 = apply<Bf16>(layer, call);
    const std::vector<float> f32 = apply<float>(layer, call);
    const std::vector<float> f16 = apply<F16>(layer, call);
    for (size_t i = 0; i < f32.size(); ++i) {
      ASSERT_EQ(f16[i], to_float(to_f16(f32[i]))) << backend << " " << i;
      ASSERT_NEAR(bf16[i], f32[i], 0.02 * std::abs(f32[i]) + 1e-3) << backend << " " << i;
    }
  }
}

TEST(CApiForms, ATypeThatIsNoneIsRefused) {
  CLayer c = small_layer();
  const Layer layer = create(c.desc);
  const auto none = static_cast<moe4_dtype>(3);
  EXPECT_EQ(moe4_layer_workspace_size(layer.get(), 1, none), 0u);
  EXPECT_THAT(moe4_last_error(), ::testing::HasSubstr("hidden_dtype is 3"));
  alignas(256) static std::byte memory[1 << 16];
  const moe4_apply_args args{.struct_size = sizeof(moe4_apply_args),
                             .num_tokens = 1,
                             .hidden_states = memory,
                             .topk_ids = memory,
                             .topk_weights = reinterpret_cast<float*>(memory),
                             .output = memory,
                             .workspace = memory,
                             .workspace_bytes = sizeof memory,
                             .hidden_dtype = none};
  EXPECT_EQ(moe4_layer_apply(layer.get(), &args), MOE4_USAGE);
  EXPECT_THAT(moe4_last_error(), ::testing::HasSubstr("hidden_dtype is 3"));
}

TEST(CApiForms, IdsMayBeInt64AndFarOnesAreSkipped) {
  CLayer c = small_layer();
  const Layer layer = create(c.desc);
  Call call;
  const std::vector<float> expected = apply<Bf16>(layer, call);
  EXPECT_EQ((apply<Bf16, int64_t>(layer, call)), expected);

  // An id whose low half is an expert's, and one beyond the last, count as -1.
  std::vector<int64_t> ids(kTokens * kTopK, -1), far = ids;
  far[0] = (int64_t{1} << 32) + 1;
  far[1] = kExperts;
  std::vector<Bf16> x(kTokens * kHidden, to_bf16(1.0f)), out(x.size(), to_bf16(9.0f));
  std::vector<std::byte> workspace(moe4_layer_workspace_size(layer.get(), kTokens, MOE4_BF16));
  const moe4_apply_args args{.struct_size = sizeof(moe4_apply_args),
                             .num_tokens = kTokens,
                             .hidden_states = x.data(),
                             .topk_ids = far.data(),
                             .topk_weights = call.routing.weights.data(),
                             .output = out.data(),
                             .workspace = workspace.data(),
                             .workspace_bytes = workspace.size(),
                             .ids_are_int64 = 1};
  ASSERT_EQ(moe4_layer_apply(layer.get(), &args), MOE4_OK) << moe4_last_error();
  for (const Bf16 v : out) ASSERT_EQ(to_float(v), 0.0f);
}

TEST(CApiForms, AMapThatCallsBringGivesTheBitsOfTheLayersOwn) {
  CLayer c = small_layer();
  const int32_t map[] = {-1, 1, 0, -1};  // experts 2 and 1 are here
  c.gate = {c.gate[2], c.gate[1]};
  c.up = {c.up[2], c.up[1]};
  c.down = {c.down[2], c.down[1]};
  c.desc.gate = c.gate.data();
  c.desc.up = c.up.data();
  c.desc.down = c.down.data();
  c.desc.num_local_experts = 2;
  c.desc.expert_map = map;
  const std::vector<float> expected = apply<Bf16>(create(c.desc));
  c.desc.expert_map = nullptr;
  c.desc.expert_map_per_call = 1;
  const Layer layer = create(c.desc);
  Call call;
  call.expert_map = map;
  EXPECT_EQ(apply<Bf16>(layer, call), expected);
  EXPECT_EQ((apply<Bf16, int64_t>(layer, call)), expected);

  const moe4_apply_args args{.struct_size = sizeof(moe4_apply_args), .num_tokens = 1};
  moe4_apply_args without = args;
  alignas(256) static std::byte memory[4096];
  without.hidden_states = without.topk_ids = memory;
  without.topk_weights = reinterpret_cast<float*>(memory);
  without.output = without.workspace = memory;
  without.workspace_bytes = sizeof memory;
  EXPECT_EQ(moe4_layer_apply(layer.get(), &without), MOE4_USAGE);
  EXPECT_THAT(moe4_last_error(), ::testing::HasSubstr("expert_map is NULL"));
}

TEST(CApiForms, TwoThreadsApplyTwoLayersAndOneTogether) {
  CLayer a = small_layer(), b = small_layer();
  const Layer first = create(a.desc), second = create(b.desc);
  const std::vector<float> of_first = apply<Bf16>(first), of_second = apply<float>(second);
  const auto loop = [&] {
    for (int i = 0; i < 50; ++i) {
      ASSERT_EQ(apply<Bf16>(first), of_first);
      ASSERT_EQ(apply<float>(second), of_second);
    }
  };
  std::thread other(loop);
  loop();
  other.join();
}

TEST(CApiForms, AQuestionNamesTheBackendAndEveryReasonWithoutWeights) {
  CLayer c = small_layer("auto");
  c.desc.gate = c.desc.up = c.desc.down = nullptr;
  moe4_selection* selection = nullptr;
  ASSERT_EQ(moe4_layer_query(&c.desc, &selection), MOE4_OK) << moe4_last_error();
  EXPECT_STREQ(moe4_selection_backend(selection), "cpu");
  EXPECT_THAT(moe4_selection_reason(selection), ::testing::HasSubstr("first in priority"));
  std::vector<std::string> names;
  for (int i = 0; moe4_selection_candidate(selection, i) != nullptr; ++i) {
    const moe4_candidate& candidate = *moe4_selection_candidate(selection, i);
    names.emplace_back(candidate.backend);
    EXPECT_EQ(candidate.kind == nullptr, candidate.reason == nullptr);
    if (names.back() == "marlin") {
      EXPECT_STREQ(candidate.kind, "device");
    }
    if (names.back() == "cpu") {
      EXPECT_EQ(candidate.kind, nullptr);
    }
  }
  EXPECT_THAT(names, ::testing::IsSupersetOf({"b12x", "hopper", "marlin", "cpu", "reference"}));
  EXPECT_EQ(moe4_selection_candidate(selection, -1), nullptr);
  moe4_selection_destroy(selection);

  c.desc.backend = "marlin";  // nobody
  ASSERT_EQ(moe4_layer_query(&c.desc, &selection), MOE4_OK) << moe4_last_error();
  EXPECT_STREQ(moe4_selection_backend(selection), "");
  EXPECT_THAT(moe4_selection_reason(selection), ::testing::HasSubstr("marlin"));
  moe4_selection_destroy(selection);

  c.desc.hidden_size = 60;
  EXPECT_EQ(moe4_layer_query(&c.desc, &selection), MOE4_USAGE);
  EXPECT_EQ(moe4_layer_query(nullptr, &selection), MOE4_USAGE);
  moe4_selection_destroy(nullptr);
}

TEST(CApiForms, EveryCallRefusesStructsOfAnotherVersion) {
  CLayer c = small_layer();
  const Layer layer = create(c.desc);
  alignas(256) static std::byte memory[1 << 16];
  for (const int64_t more : {-8, 8}) {
    moe4_layer_desc desc = c.desc;
    desc.struct_size += more;
    const auto expect_refused = [](moe4_status status, const std::string& call) {
      EXPECT_EQ(status, MOE4_USAGE) << call;
      EXPECT_THAT(moe4_last_error(), ::testing::HasSubstr(call + ": struct_size differs"));
    };
    moe4_selection* selection = nullptr;
    expect_refused(moe4_layer_query(&desc, &selection), "moe4_layer_query");
    EXPECT_EQ(selection, nullptr);
    moe4_layer* created = nullptr;
    expect_refused(moe4_layer_create(&desc, &created), "moe4_layer_create");
    EXPECT_EQ(created, nullptr);
    const moe4_apply_args args{.struct_size = sizeof(moe4_apply_args) + more,
                               .num_tokens = 1,
                               .hidden_states = memory,
                               .topk_ids = memory,
                               .topk_weights = reinterpret_cast<float*>(memory),
                               .output = memory,
                               .workspace = memory,
                               .workspace_bytes = sizeof memory};
    expect_refused(moe4_layer_apply(layer.get(), &args), "moe4_layer_apply");
  }
}

TEST(CApiForms, WeightBytesAreThePackedOnes) {
  const CLayer c = small_layer();
  const int64_t raw = kExperts * 3 * kHidden * kWidth * 9 / 16;
  EXPECT_GE(moe4_layer_weight_bytes(create(c.desc).get()), raw);
  EXPECT_EQ(moe4_layer_weight_bytes(nullptr), 0);
}

TEST(CApiForms, TheNumberOfThreadsIsSetOnceForAll) {
  const Layer layer = create(small_layer().desc);
  EXPECT_EQ(moe4_set_num_threads(0), MOE4_OK);  // as it is
  EXPECT_EQ(moe4_set_num_threads(3), MOE4_USAGE);
  EXPECT_THAT(moe4_last_error(), ::testing::HasSubstr("before the first layer"));
  EXPECT_EQ(moe4_set_num_threads(-1), MOE4_USAGE);
  EXPECT_EQ(moe4_set_num_threads(1 << 20), MOE4_USAGE);
}

}  // namespace
}  // namespace moe4::testing
