// marlin on a real GPU: the conformance suite, then what is special about a device.
#include <gtest/gtest.h>

#include "ops/experts/gpu_adapter.h"
#include "ops/experts/marlin/marlin_backend.h"

namespace moe4::testing {
namespace {

std::shared_ptr<BackendAdapter> make_marlin() {
  return std::make_shared<GpuAdapter>(std::make_shared<MarlinBackend>());
}

INSTANTIATE_TEST_SUITE_P(
    Marlin, ExpertsConformance,
    ::testing::Values(ConformanceTarget{.name = "marlin",
                                        .make = make_marlin,
                                        .skip_reason = [] { return no_gpu_reason(); },
                                        .tolerance = gpu_tolerance},
                      ConformanceTarget{.name = "marlin_mxfp4",
                                        .make = make_marlin,
                                        .skip_reason = [] { return no_gpu_reason(); },
                                        .tolerance = gpu_tolerance,
                                        .scheme = kMxfp4W4A16}));

class MarlinOnGpu : public ::testing::Test {
 protected:
  void SetUp() override {
    const std::string reason = no_gpu_reason();
    if (!reason.empty()) GTEST_SKIP() << reason;
  }
  std::unique_ptr<PreparedExperts> prepare(const RandomMoe& moe, const char* structure = nullptr) {
    PrepareOptions options{.device = cuda::describe_device(0), .threads = &threads_};
    if (structure != nullptr) options.tuning.set("marlin.fc2", structure);
    return backend_.prepare(moe.weights, options);
  }
  static MoeProblem problem(int64_t hidden, int64_t intermediate, int64_t experts, int64_t top_k) {
    return {.hidden_size = hidden,
            .intermediate_size = intermediate,
            .num_experts = experts,
            .num_local_experts = experts,
            .top_k = top_k};
  }

  MarlinBackend backend_;
  ThreadPool threads_{0};
};

bool same_bits(const std::vector<Bf16>& a, const std::vector<Bf16>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(Bf16)) == 0;
}

TEST_F(MarlinOnGpu, BothStructuresOfFc2GiveTheSameBits) {
  for (const auto& [hidden, intermediate] :
       std::vector<std::pair<int64_t, int64_t>>{{256, 128}, {2048, 768}, {2880, 640}, {512, 256}}) {
    const RandomMoe moe =
        make_random_moe({.problem = problem(hidden, intermediate, 16, 4),
                         .scheme = intermediate % 256 == 0 ? kMxfp4W4A16 : kW4A4});
    const auto rows = prepare(moe, "rows");
    const auto experts = prepare(moe, "experts");
    for (const int64_t tokens : {1, 3, 8, 16, 40}) {
      const HostInput input =
          make_input(moe.weights.problem, tokens, RoutingCase::kWithMissing, tokens);
      DeviceCall a(*rows, input), b(*experts, input);
      a.apply();
      b.apply();
      EXPECT_TRUE(same_bits(a.output(), b.output())) << hidden << ", " << tokens << " tokens";
    }
  }
}

// Kernels and their shared memory follow the number of pairs: every one up to what FC1 takes with
// two blocks a multiprocessor, and a few beyond.
TEST_F(MarlinOnGpu, EveryNumberOfTokensHasTheBitsThatItsTokensHaveAlone) {
  for (const int64_t experts : {8, 128}) {
    const MoeProblem p = problem(2048, 128, experts, 8);
    const RandomMoe moe = make_random_moe({.problem = p, .scheme = kW4A4});
    const auto prepared = prepare(moe);
    const HostInput all = make_input(p, 36, RoutingCase::kUniform, 5);
    DeviceCall most(*prepared, all);
    most.apply();
    const std::vector<Bf16> expected = most.output();
    for (int64_t tokens = 1; tokens < 36; ++tokens) {
      HostInput input = all;
      input.hidden_states.resize(static_cast<size_t>(tokens * p.hidden_size));
      input.routing.ids.resize(static_cast<size_t>(tokens * p.top_k));
      input.routing.weights.resize(static_cast<size_t>(tokens * p.top_k));
      input.num_tokens = tokens;
      DeviceCall call(*prepared, input);
      call.apply();
      const std::vector<Bf16> first(expected.begin(),
                                    expected.begin() + static_cast<ptrdiff_t>(tokens * 2048));
      EXPECT_TRUE(same_bits(call.output(), first))
          << experts << " experts, " << tokens << " tokens";
    }
  }
}

// A forced structure takes one token through the kernels of larger batches.
TEST_F(MarlinOnGpu, OneTokenGetsTheSameBitsFromItsOwnKernels) {
  const std::vector<ActivationParams> activations = {
      {.kind = ActivationKind::kSilu, .limit = 0.7f},
      {.kind = ActivationKind::kSwigluOai, .limit = 1.1f},
      {.kind = ActivationKind::kGeluTanh},
      {.kind = ActivationKind::kSiluLateClamp, .limit = 0.4f},
      {.kind = ActivationKind::kRelu2},
  };
  for (const ActivationParams& activation : activations) {
    for (const int64_t intermediate : {512, 768, 1280}) {
      MoeProblem p = problem(2048, intermediate, 12, 6);
      p.activation = activation;
      p.weight_on_input = activation.kind == ActivationKind::kGeluTanh;
      const bool biases = activation.kind != ActivationKind::kSilu;
      const bool mxfp4 = (intermediate == 512) == biases;
      const RandomMoe moe =
          make_random_moe({.problem = p, .scheme = mxfp4 ? kMxfp4W4A16 : kW4A4, .biases = biases});
      const auto own = prepare(moe), general = prepare(moe, "experts");
      for (const auto routing : {RoutingCase::kUniform, RoutingCase::kDuplicates}) {
        HostInput input = make_input(p, 1, routing, 3);
        input.routing.ids[1] = -1;
        input.routing.ids[4] = 12;
        DeviceCall a(*own, input), b(*general, input);
        a.apply();
        b.apply();
        EXPECT_TRUE(same_bits(a.output(), b.output()))
            << to_string(activation) << ", I " << intermediate << ", " << to_string(routing);
      }
    }
  }
}

// What the routed experts leave of the multiprocessors is for them: several steps a block, or one.
TEST_F(MarlinOnGpu, OneTokenGetsTheSameBitsFromExpertsThatEveryTokenTakes) {
  struct Shape {
    int64_t intermediate, slots, shared;
  };
  for (const auto& [intermediate, slots, shared] :
       std::vector<Shape>{{512, 9, 1}, {512, 5, 1}, {512, 6, 2}, {768, 8, 2}, {1536, 5, 1}}) {
    MoeProblem p = problem(2048, intermediate, 12, slots);
    p.num_shared = shared;
    const RandomMoe moe = make_random_moe({.problem = p, .scheme = kW4A16});
    const auto own = prepare(moe), general = prepare(moe, "experts");
    for (const bool padding : {false, true}) {
      HostInput input = make_input(p, 1, RoutingCase::kUniform, 3);
      for (int64_t s = 0; s < slots; ++s) {
        int32_t& id = input.routing.ids[s];
        id = s < slots - shared ? id % static_cast<int32_t>(12 - shared)
                                : static_cast<int32_t>(12 - slots + s);
        if (padding) id = -1;
      }
      DeviceCall a(*own, input), b(*general, input);
      a.apply();
      b.apply();
      EXPECT_TRUE(same_bits(a.output(), b.output())) << intermediate << ", " << shared;
    }
  }
}

// Shapes that straight-line code has no room for: Nemotron-3-Nano, gpt-oss, Gemma-4,
// Mistral-Small-4 and small ones with fewer runs than warps, a tile of padding and units that are
// not whole.
TEST_F(MarlinOnGpu, OneTokenGetsTheSameBitsFromTilesOfWideLayers) {
  struct Shape {
    int64_t hidden, intermediate, slots, shared;
    ActivationKind activation;
    bool mxfp4;
  };
  for (const Shape& shape : std::vector<Shape>{{2688, 1856, 8, 2, ActivationKind::kRelu2, false},
                                               {2880, 2880, 4, 0, ActivationKind::kSwigluOai, true},
                                               {2816, 704, 8, 0, ActivationKind::kGeluTanh, false},
                                               {4096, 2048, 5, 1, ActivationKind::kSilu, false},
                                               {7168, 512, 6, 1, ActivationKind::kSilu, true},
                                               {208, 336, 3, 0, ActivationKind::kRelu2, false},
                                               {64, 16, 6, 1, ActivationKind::kSilu, false}}) {
    MoeProblem p = problem(shape.hidden, shape.intermediate, 12, shape.slots);
    p.activation.kind = shape.activation;
    p.num_shared = shape.shared;
    p.weight_on_input = shape.activation == ActivationKind::kGeluTanh;
    const RandomMoe moe = make_random_moe(
        {.problem = p, .scheme = shape.mxfp4 ? kMxfp4W4A16 : kW4A16, .biases = shape.mxfp4});
    const auto own = prepare(moe), general = prepare(moe, "experts");
    for (const bool padding : {false, true}) {
      HostInput input = make_input(p, 1, RoutingCase::kUniform, 3);
      for (int64_t s = 0; s < shape.slots; ++s) {
        int32_t& id = input.routing.ids[s];
        id = s < shape.slots - shape.shared ? id % static_cast<int32_t>(12 - shape.shared)
                                            : static_cast<int32_t>(12 - shape.slots + s);
        if (padding || s == 1) id = -1;
      }
      DeviceCall a(*own, input), b(*general, input);
      a.apply();
      b.apply();
      EXPECT_TRUE(same_bits(a.output(), b.output())) << shape.hidden << ", " << shape.intermediate;
    }
  }
}

TEST_F(MarlinOnGpu, FourHundredThousandTokensGoThroughInChunks) {
  const RandomMoe moe = make_random_moe({.problem = problem(64, 16, 4, 2)});
  const auto layer = prepare(moe);
  const int64_t tokens = 400000;
  const HostInput input = make_input(moe.weights.problem, tokens, RoutingCase::kUniform, 3);
  DeviceCall call(*layer, input);
  call.apply();
  const std::vector<float> y = call.output_float();
  HostInput part = input;
  part.num_tokens = 200;
  const int64_t begin = tokens - 200;
  part.hidden_states.assign(input.hidden_states.begin() + begin * 64, input.hidden_states.end());
  part.routing.ids.assign(input.routing.ids.begin() + begin * 2, input.routing.ids.end());
  part.routing.weights.assign(input.routing.weights.begin() + begin * 2,
                              input.routing.weights.end());
  const LayerError error =
      compare_outputs({y.begin() + begin * 64, y.end()},
                      reference_output(moe.weights, ActivationPrecision::kBf16, part), 64);
  EXPECT_LE(error.frobenius, 3e-3);
  for (const float value : y) ASSERT_TRUE(std::isfinite(value));
}

TEST_F(MarlinOnGpu, RefusesASmallWorkspaceAndFloat32BeforeTouchingTheOutput) {
  const RandomMoe moe = make_random_moe({.problem = problem(64, 16, 4, 2)});
  const auto layer = prepare(moe);
  ExpertsArgs args{.num_tokens = 4};
  EXPECT_THROW(layer->apply(args), Error);
  args.hidden_dtype = DType::kF32;
  EXPECT_THROW(layer->apply(args), Error);
}

TEST_F(MarlinOnGpu, ANanBlockScaleIsRefusedByName) {
  RandomMoe moe = make_random_moe({.problem = problem(64, 32, 4, 2)});
  moe.block_scale(2, Projection::kDown, 7, 1) = 0x7f;
  try {
    prepare(moe);
    FAIL() << "prepared a NaN scale";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kBadInput);
    EXPECT_THAT(error.what(), ::testing::HasSubstr("experts.2.down_proj"));
  }
}

}  // namespace
}  // namespace moe4::testing
