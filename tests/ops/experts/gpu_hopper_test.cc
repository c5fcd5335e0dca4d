// hopper on a real GPU: the conformance suite on each tile configuration, then determinism, the
// switch between the two paths, capture and slicing.
#include <gtest/gtest.h>

#include <array>
#include <chrono>
#include <cstring>

#include "ops/experts/gpu/sum_order.h"
#include "ops/experts/gpu_adapter.h"
#include "ops/experts/held_multiprocessors.h"
#include "ops/experts/hopper/hopper_backend.h"

namespace moe4::testing {
namespace {

// wgmma for every call, with the given tiles.
class ForcedHopper final : public ExpertsBackend {
 public:
  explicit ForcedHopper(std::string tiles) : tiles_(std::move(tiles)) {}
  const std::string& tiles() const { return tiles_; }
  std::string_view name() const override { return backend_.name(); }
  Support supports(const ExpertsQuery& query) const override { return backend_.supports(query); }
  Support runnable(const Device& device) const override { return backend_.runnable(device); }
  BatchBehavior batch_behavior(const ExpertsQuery&) const override { return {}; }
  std::unique_ptr<PreparedExperts> prepare(const MoeLayerWeights& weights,
                                           const PrepareOptions& options) const override {
    PrepareOptions forced = options;
    forced.tuning = {{"hopper.min_tokens", "0"}, {"hopper.tiles", tiles_}};
    return backend_.prepare(weights, forced);
  }

 private:
  HopperBackend backend_;
  std::string tiles_;
};

std::string no_hopper_reason() { return no_gpu_reason(90); }

ConformanceTarget target(const std::string& tiles, const QuantScheme& scheme = kW4A4) {
  return {
      .name = tiles + (scheme.is_mxfp4() ? "_mxfp4_tiles" : "_tiles"),
      .make = [=] { return std::make_shared<GpuAdapter>(std::make_shared<ForcedHopper>(tiles)); },
      .skip_reason = no_hopper_reason,
      .tolerance = gpu_tolerance,
      .scheme = scheme};
}
INSTANTIATE_TEST_SUITE_P(Hopper, ExpertsConformance,
                         ::testing::Values(target("16"), target("40"), target("small"),
                                           target("large"), target("16", kMxfp4W4A16),
                                           target("40", kMxfp4W4A16), target("small", kMxfp4W4A16),
                                           target("large", kMxfp4W4A16)));

class HopperOnGpu : public ::testing::Test {
 protected:
  void SetUp() override {
    const std::string reason = no_hopper_reason();
    if (!reason.empty()) GTEST_SKIP() << reason;
  }
  std::unique_ptr<PreparedExperts> prepare(const RandomMoe& moe, const ExpertsBackend& backend) {
    return backend.prepare(moe.weights, {.device = cuda::describe_device(0), .threads = &threads_});
  }
  static MoeProblem problem(int64_t hidden, int64_t intermediate, int64_t experts, int64_t top_k) {
    return {.hidden_size = hidden,
            .intermediate_size = intermediate,
            .num_experts = experts,
            .num_local_experts = experts,
            .top_k = top_k};
  }

  const ForcedHopper tiles_[5] = {ForcedHopper("16"), ForcedHopper("24"), ForcedHopper("40"),
                                  ForcedHopper("small"), ForcedHopper("large")};
  const HopperBackend automatic_;
  ThreadPool threads_{0};
};

bool same_bits(const std::vector<Bf16>& a, const std::vector<Bf16>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(Bf16)) == 0;
}

HostInput slice(const HostInput& whole, int64_t begin, int64_t size) {
  HostInput part = whole;
  part.num_tokens = size;
  const auto cut = [&](auto& values, int64_t width) {
    values.assign(values.begin() + begin * width, values.begin() + (begin + size) * width);
  };
  cut(part.hidden_states, whole.hidden_size);
  cut(part.routing.ids, whole.top_k);
  cut(part.routing.weights, whole.top_k);
  return part;
}

TEST_F(HopperOnGpu, ATokensBitsDependNeitherOnTheBatchNorOnTheTiles) {
  for (const QuantScheme& scheme : {kW4A4, kMxfp4W4A16}) {
    const RandomMoe moe = make_random_moe({.problem = problem(2048, 512, 32, 8), .scheme = scheme});
    const HostInput whole = make_input(moe.weights.problem, 1024, RoutingCase::kUniform, 7);
    std::vector<Bf16> expected;
    for (const ForcedHopper& tiles : tiles_) {
      const auto layer = prepare(moe, tiles);
      DeviceCall all(*layer, whole);
      all.apply();
      if (expected.empty()) expected = all.output();
      EXPECT_TRUE(same_bits(all.output(), expected)) << tiles.tiles();
      for (const int64_t size : {1, 8, 64, 512}) {
        for (const int64_t begin : {int64_t{0}, int64_t{129}, 1024 - size}) {
          const HostInput part = slice(whole, begin, size);
          DeviceCall call(*layer, part);
          call.apply();
          EXPECT_TRUE(same_bits(call.output(), {expected.begin() + begin * 2048,
                                                expected.begin() + (begin + size) * 2048}))
              << tiles.tiles() << ", batch of " << size << " at " << begin;
        }
      }
    }
  }
}

TEST_F(HopperOnGpu, EveryNumberOfTokensInATileGivesTheSameBits) {
  const RandomMoe moe = make_random_moe({.problem = problem(384, 80, 1, 1)});
  const int64_t most = 170;  // more than the widest tile has
  const HostInput whole = make_input(moe.weights.problem, most, RoutingCase::kUniform, 11);
  std::vector<Bf16> expected;
  for (const ForcedHopper& tiles : tiles_) {
    const auto layer = prepare(moe, tiles);
    DeviceCall all(*layer, whole);
    all.apply();
    if (expected.empty()) {
      expected = all.output();
      const LayerError error =
          compare_outputs(all.output_float(),
                          reference_output(moe.weights, ActivationPrecision::kBf16, whole), 384);
      EXPECT_LE(error.frobenius, 3e-3);
    }
    for (int64_t size = 1; size <= most; ++size) {
      DeviceCall call(*layer, slice(whole, 0, size));
      call.apply();
      EXPECT_TRUE(same_bits(call.output(), {expected.begin(), expected.begin() + size * 384}))
          << tiles.tiles() << ", " << size << " tokens";
    }
  }
}

TEST_F(HopperOnGpu, TheThresholdSendsSmallCallsToMarlinAndLargeOnesToWgmma) {
  const RandomMoe moe = make_random_moe({.problem = problem(512, 256, 16, 4)});
  const auto automatic = prepare(moe, automatic_), forced = prepare(moe, tiles_[0]);
  // 16 experts, top-4, a mean of 3 tokens an expert: 12 tokens.
  for (const int64_t tokens : {11, 12, 500}) {
    const HostInput input = make_input(moe.weights.problem, tokens, RoutingCase::kUniform, tokens);
    DeviceCall a(*automatic, input), b(*forced, input);
    a.apply();
    b.apply();
    const LayerError error = compare_outputs(
        a.output_float(), reference_output(moe.weights, ActivationPrecision::kBf16, input), 512);
    EXPECT_LE(error.frobenius, 3e-3) << tokens;
    if (tokens >= 12) {
      EXPECT_TRUE(same_bits(a.output(), b.output())) << tokens;
    }
  }
}

// The kernels of few tokens and wgmma with each narrow tile, for every activation and ending.
TEST_F(HopperOnGpu, GeneratedTokensGetTheSameBitsFromMarlinAndWgmma) {
  const std::vector<ActivationParams> activations = {
      {.kind = ActivationKind::kSilu},
      {.kind = ActivationKind::kSilu, .limit = 0.7f},
      {.kind = ActivationKind::kSwigluOai, .limit = 1.1f},
      {.kind = ActivationKind::kGeluTanh},
      {.kind = ActivationKind::kRelu2},
  };
  // The second is summed in single chains (by wgmma alone), the third in runs of three units.
  for (const auto& [hidden, width, experts, top_k] : std::vector<std::array<int64_t, 4>>{
           {2048, 512, 8, 4}, {1024, 256, 64, 64}, {2880, 320, 4, 2}}) {
    for (const ActivationParams& activation : activations) {
      MoeProblem p = problem(hidden, width, experts, top_k);
      p.activation = activation;
      p.weight_on_input = activation.kind == ActivationKind::kGeluTanh;
      const bool few = activation.kind == ActivationKind::kSilu && !activation.has_limit();
      const RandomMoe moe = make_random_moe(
          {.problem = p, .scheme = few ? kMxfp4W4A16 : kW4A4, .biases = !activation.has_limit()});
      PrepareOptions options{.device = cuda::describe_device(0), .threads = &threads_};
      options.tuning.set("hopper.min_tokens", "1000");
      const auto never = automatic_.prepare(moe.weights, options);
      const HostInput input = make_input(p, 70, RoutingCase::kWithMissing, 12);
      DeviceCall expected(*never, input);
      expected.args().num_decode_tokens = 70;
      expected.apply();
      for (const ForcedHopper& tiles : tiles_) {
        const auto layer = prepare(moe, tiles);
        DeviceCall call(*layer, input);
        call.args().num_decode_tokens = 70;
        call.apply();
        EXPECT_TRUE(same_bits(call.output(), expected.output()))
            << "H " << hidden << ", " << to_string(activation) << ", tiles " << tiles.tiles();
      }
    }
  }
}

// One token of a layer summed in single chains has kernels of its own. K that is no multiple of
// their units, slots without an expert, and more slots of one expert than a tile has.
TEST_F(HopperOnGpu, OneTokenOfALargeLayerGetsTheSameBitsFromItsKernelsAndWgmma) {
  const std::vector<ActivationParams> activations = {
      {.kind = ActivationKind::kSilu},
      {.kind = ActivationKind::kSwigluOai, .limit = 1.1f},
      {.kind = ActivationKind::kRelu2},
  };
  for (const ActivationParams& activation : activations) {
    const bool gated = activation.is_gated();
    MoeProblem p = problem(1840, gated ? 944 : 1840, 16, 16);
    p.activation = activation;
    const bool mxfp4 = activation.kind == ActivationKind::kSwigluOai;
    if (mxfp4) p.hidden_size = 1856, p.intermediate_size = 928;  // whole blocks of 32
    ASSERT_TRUE(cuda::decode_order(p).single_chains()) << to_string(activation);
    const RandomMoe moe = make_random_moe(
        {.problem = p, .scheme = mxfp4 ? kMxfp4W4A16 : kW4A4, .biases = !activation.has_limit()});
    const auto own = prepare(moe, automatic_), wgmma = prepare(moe, tiles_[0]);
    for (const RoutingCase routing : {RoutingCase::kUniform, RoutingCase::kWithMissing,
                                      RoutingCase::kDuplicates, RoutingCase::kAllOnOne}) {
      const HostInput input = make_input(p, 2, routing, 5);
      for (const int64_t decode : {0, 2}) {
        DeviceCall expected(*wgmma, input);
        expected.args().num_decode_tokens = decode;
        expected.apply();
        for (const int64_t begin : {0, 1, 2}) {  // the first, the second, both
          DeviceCall call(*own, begin == 2 ? input : slice(input, begin, 1));
          call.args().num_decode_tokens = begin == 2 ? decode : decode / 2;
          call.apply();
          const std::vector<Bf16> all = expected.output();
          const std::vector<Bf16> of_these(all.begin() + begin % 2 * p.hidden_size,
                                           begin == 0 ? all.begin() + p.hidden_size : all.end());
          EXPECT_TRUE(same_bits(call.output(), of_these))
              << to_string(activation) << ", " << to_string(routing) << ", tokens " << begin << ", "
              << decode << " generated";
        }
      }
    }
  }
}

TEST_F(HopperOnGpu, RefusesTuningItDoesNotKnow) {
  const RandomMoe moe = make_random_moe({.problem = problem(64, 16, 4, 2)});
  for (const auto& [name, value] : std::vector<std::pair<std::string, std::string>>{
           {"hopper.min_tokens", "many"}, {"hopper.min_tokens", "-1"}, {"hopper.tiles", "17"}}) {
    PrepareOptions options{.device = cuda::describe_device(0), .threads = &threads_};
    options.tuning.set(name, value);
    EXPECT_THROW(automatic_.prepare(moe.weights, options), Error) << name << "=" << value;
  }
}

TEST_F(HopperOnGpu, SaysThatTheBatchMattersUnlessEveryCallTakesWgmma) {
  const RandomMoe moe = make_random_moe({.problem = problem(64, 16, 8, 2)});
  EXPECT_EQ(prepare(moe, automatic_)->batch_invariant(), BatchInvariance::kNone);
  EXPECT_EQ(prepare(moe, tiles_[0])->batch_invariant(), BatchInvariance::kFull);
}

TEST_F(HopperOnGpu, FourHundredThousandTokensGoThroughInSlices) {
  const RandomMoe moe = make_random_moe({.problem = problem(512, 16, 4, 2)});
  const auto layer = prepare(moe, automatic_);
  const int64_t tokens = 400000;
  const HostInput input = make_input(moe.weights.problem, tokens, RoutingCase::kUniform, 3);
  DeviceCall call(*layer, input);
  call.apply();
  const std::vector<float> y = call.output_float();
  const int64_t begin = tokens - 100;
  const LayerError error = compare_outputs(
      {y.begin() + begin * 512, y.end()},
      reference_output(moe.weights, ActivationPrecision::kBf16, slice(input, begin, 100)), 512);
  EXPECT_LE(error.frobenius, 3e-3);
  for (const float value : y) ASSERT_TRUE(std::isfinite(value));
}

// FC2's tiles wait for FC1's in one kernel: that must not need all of its CTAs to run at once.
TEST_F(HopperOnGpu, ACallEndsThoughAnotherKernelHoldsMostOfTheGpu) {
  const RandomMoe moe = make_random_moe({.problem = problem(1024, 512, 16, 4)});
  const HostInput input = make_input(moe.weights.problem, 250, RoutingCase::kUniform, 11);
  int multiprocessors = 0;
  MOE4_CUDA_CHECK(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, 0));
  cudaStream_t stream = nullptr;
  MOE4_CUDA_CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  for (const ForcedHopper& tiles : tiles_) {
    const auto layer = prepare(moe, tiles);
    DeviceCall alone(*layer, input), beside(*layer, input);
    alone.apply();
    const std::vector<Bf16> expected = alone.output();
    {
      const HeldMultiprocessors held(multiprocessors - 8);
      beside.apply(stream);
      const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(30);
      while (cudaStreamQuery(stream) == cudaErrorNotReady &&
             std::chrono::steady_clock::now() < deadline) {
      }
      EXPECT_EQ(cudaStreamQuery(stream), cudaSuccess) << tiles.tiles();
    }
    EXPECT_TRUE(same_bits(beside.output(), expected)) << tiles.tiles();
  }
  cudaStreamDestroy(stream);
}

}  // namespace
}  // namespace moe4::testing
