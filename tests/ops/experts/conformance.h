// What every expert backend must do, as tests that a backend instantiates with an adapter of its
// own; the judge is the float64 reference.
//
// A backend's test file includes this header (one file a test binary) and says, for example,
//
//   INSTANTIATE_TEST_SUITE_P(Cpu, ExpertsConformance,
//                            testing::Values(ConformanceTarget{"cpu", make_cpu_adapter}));
//
// Device memory, streams and workspaces stay behind BackendAdapter.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "base/aligned_buffer.h"
#include "base/checked_math.h"
#include "moe/experts.h"
#include "ops/experts/reference/reference_backend.h"
#include "support/random_moe.h"

namespace moe4::testing {

/// One call of a layer with everything in host memory and in float32.
struct HostInput {
  int64_t num_tokens = 0;
  int64_t top_k = 0;
  int64_t hidden_size = 0;
  std::vector<float> hidden_states;  ///< [T, H], values representable in BF16
  Routing routing;
  bool float32 = false;  ///< pass hidden states as kF32 (accepts_float32() backends only)
};

/// Runs a backend on its own device.
class BackendAdapter {
 public:
  virtual ~BackendAdapter() = default;
  virtual const ExpertsBackend& backend() const = 0;
  virtual Device device() const = 0;
  virtual ThreadPool& threads() = 0;
  /// Copies the input to the device, applies the layer, returns the output [T, H] as float32. The
  /// output is float32 where the backend has it, else BF16. The workspace given to apply() starts
  /// out full of 0xff bytes: a kernel must not count on zeros.
  virtual std::vector<float> apply(const PreparedExperts& layer, const HostInput& input) = 0;
};

/// Host memory, a pool of `num_threads`; enough for `reference` and for CPU backends.
class HostAdapter : public BackendAdapter {
 public:
  explicit HostAdapter(std::shared_ptr<const ExpertsBackend> backend, int num_threads = 2)
      : backend_(std::move(backend)), threads_(num_threads) {}
  const ExpertsBackend& backend() const override { return *backend_; }
  Device device() const override { return Device::cpu(); }
  ThreadPool& threads() override { return threads_; }
  std::vector<float> apply(const PreparedExperts& layer, const HostInput& input) override {
    AlignedBuffer workspace(layer.workspace_size(input.num_tokens));
    std::memset(workspace.data(), 0xff, workspace.size());
    std::vector<Bf16> bf16(input.hidden_states.size());
    for (size_t i = 0; i < bf16.size(); ++i) bf16[i] = to_bf16(input.hidden_states[i]);
    std::vector<float> output(input.hidden_states.size(), -7.0f);
    ExpertsArgs args{
        .num_tokens = input.num_tokens,
        .hidden_states = input.float32 ? static_cast<const void*>(input.hidden_states.data())
                                       : static_cast<const void*>(bf16.data()),
        .hidden_dtype = input.float32 ? DType::kF32 : DType::kBF16,
        .topk_ids = input.routing.ids.data(),
        .topk_weights = input.routing.weights.data(),
        .output = output.data(),
        .output_dtype = DType::kF32,
        .workspace = {workspace.data(), workspace.size()},
    };
    std::vector<Bf16> bf16_output;
    if (!layer.accepts_float32()) {
      bf16_output.resize(output.size());
      args.output = bf16_output.data();
      args.output_dtype = DType::kBF16;
    }
    layer.apply(args);
    for (size_t i = 0; i < bf16_output.size(); ++i) output[i] = to_float(bf16_output[i]);
    return output;
  }

 private:
  std::shared_ptr<const ExpertsBackend> backend_;
  ThreadPool threads_;
};

/// Relative errors of y against the reference.
struct LayerError {
  double frobenius = 0;      ///< ||y - ref|| / ||ref||
  double worst_row = 0;      ///< the largest ||y_t - ref_t|| / ||ref_t|| over tokens
  double cosine = 1;         ///< the smallest cosine of y_t and ref_t
  bool finite_alike = true;  ///< NaN or infinite in the same rows; such rows are left out above
};

inline LayerError compare_outputs(const std::vector<float>& y, const std::vector<float>& reference,
                                  int64_t hidden) {
  LayerError error;
  double total_diff = 0, total = 0;
  for (size_t begin = 0; begin < y.size(); begin += hidden) {
    double diff = 0, yy = 0, rr = 0, yr = 0;
    bool finite_y = true, finite_r = true;
    for (int64_t h = 0; h < hidden; ++h) {
      const double a = y[begin + h], b = reference[begin + h];
      finite_y = finite_y && std::isfinite(a);
      finite_r = finite_r && std::isfinite(b);
      diff += (a - b) * (a - b);
      yy += a * a;
      rr += b * b;
      yr += a * b;
    }
    if (finite_y != finite_r) error.finite_alike = false;
    if (!finite_y || !finite_r) continue;
    total_diff += diff;
    total += rr;
    if (rr > 0) {
      error.worst_row = std::max(error.worst_row, std::sqrt(diff / rr));
      error.cosine = std::min(error.cosine, yy > 0 ? yr / std::sqrt(yy * rr) : 0.0);
    } else if (diff > 0) {
      error.worst_row = std::numeric_limits<double>::infinity();
    }
  }
  error.frobenius = total > 0 ? std::sqrt(total_diff / total)
                              : (total_diff > 0 ? std::numeric_limits<double>::infinity() : 0.0);
  return error;
}

/// Bounds on LayerError, from the arithmetic: BF16 intermediates and outputs cost 2^-9 / sqrt(3) of
/// a value each. With FP4 activations both sides quantise alike, but a value within float32 noise
/// of a rounding boundary may fall to the other side and moves its row by up to a few per cent.
struct Tolerance {
  double frobenius;
  double worst_row;
};
inline Tolerance default_tolerance(ActivationPrecision precision) {
  switch (precision) {
    case ActivationPrecision::kBf16:
      return {4e-3, 8e-3};
    case ActivationPrecision::kFp4:
    case ActivationPrecision::kFp4Static:
      return {1e-2, 5e-2};
    case ActivationPrecision::kFp8:
      return {5e-3, 2e-2};
  }
  return {0, 0};
}

struct ConformanceTarget {
  std::string name;  ///< letters and digits: part of the test's name
  std::function<std::shared_ptr<BackendAdapter>()> make;
  /// Why the tests cannot run here ("no CUDA device"); empty: they can.
  std::function<std::string()> skip_reason = [] { return std::string(); };
  std::function<Tolerance(ActivationPrecision)> tolerance = default_tolerance;
  QuantScheme scheme = kW4A4;  ///< of the weights, where a test does not say otherwise
};
inline void PrintTo(const ConformanceTarget& target, std::ostream* out) { *out << target.name; }

inline HostInput make_input(const MoeProblem& problem, int64_t num_tokens, RoutingCase routing,
                            uint64_t seed) {
  HostInput input{
      .num_tokens = num_tokens, .top_k = problem.top_k, .hidden_size = problem.hidden_size};
  input.hidden_states = make_hidden_states(num_tokens, problem.hidden_size, seed);
  input.routing = make_routing(routing, num_tokens, problem.num_experts, problem.top_k, seed + 1);
  return input;
}

inline std::vector<float> reference_output(const MoeLayerWeights& weights,
                                           ActivationPrecision precision, const HostInput& input) {
  static HostAdapter adapter(std::make_shared<ReferenceBackend>());
  const auto layer = adapter.backend().prepare(
      weights, {.precision = precision, .device = Device::cpu(), .threads = &adapter.threads()});
  return adapter.apply(*layer, input);
}

class ExpertsConformance : public ::testing::TestWithParam<ConformanceTarget> {
 protected:
  void SetUp() override {
    const std::string reason = GetParam().skip_reason();
    if (!reason.empty()) GTEST_SKIP() << reason;
    adapter_ = GetParam().make();
  }
  /// A test that neither ran the backend nor says why it did not has compared nothing.
  void TearDown() override {
    if (adapter_ != nullptr && !IsSkipped() && applied_ == 0) {
      ADD_FAILURE() << "no layer of " << GetParam().name << " was run: nothing was compared";
    }
  }
  /// The end of a test of what a backend may refuse as a whole.
  void skip_unless_run(const char* what) const {
    if (applied_ == 0) GTEST_SKIP() << GetParam().name << " takes no " << what;
  }

  Support supports(const MoeLayerWeights& weights, ActivationPrecision precision) const {
    return adapter_->backend().supports({.problem = weights.problem,
                                         .scheme = weights.scheme,
                                         .precision = precision,
                                         .device = adapter_->device()});
  }
  std::unique_ptr<PreparedExperts> prepare(const MoeLayerWeights& weights,
                                           ActivationPrecision precision) {
    return adapter_->backend().prepare(
        weights,
        {.precision = precision, .device = adapter_->device(), .threads = &adapter_->threads()});
  }
  std::vector<float> run(const MoeLayerWeights& weights, ActivationPrecision precision,
                         const HostInput& input) {
    return apply(*prepare(weights, precision), input);
  }
  std::vector<float> apply(const PreparedExperts& layer, const HostInput& input) {
    ++applied_;
    return adapter_->apply(layer, input);
  }
  /// Precisions of this scheme that the backend takes.
  std::vector<ActivationPrecision> precisions(const MoeLayerWeights& weights) const {
    std::vector<ActivationPrecision> all;
    for (const auto p : {ActivationPrecision::kBf16, ActivationPrecision::kFp4,
                         ActivationPrecision::kFp4Static, ActivationPrecision::kFp8}) {
      const bool fp4 = p == ActivationPrecision::kFp4 || p == ActivationPrecision::kFp4Static;
      if (fp4 && !weights.scheme.is_nvfp4()) continue;
      if (p == ActivationPrecision::kFp8 && !weights.scheme.is_fp8()) continue;
      if (!supports(weights, p)) all.push_back(p);
    }
    return all;
  }
  void expect_close(const std::vector<float>& y, const std::vector<float>& reference,
                    int64_t hidden, ActivationPrecision precision, const std::string& label) {
    const LayerError error = compare_outputs(y, reference, hidden);
    const Tolerance tolerance = GetParam().tolerance(precision);
    EXPECT_LE(error.frobenius, tolerance.frobenius) << label;
    EXPECT_LE(error.worst_row, tolerance.worst_row) << label;
    EXPECT_TRUE(error.finite_alike) << label;
  }
  /// Every precision the backend takes, against the reference.
  void check(const RandomMoe& moe, const HostInput& input, const std::string& label) {
    for (const auto precision : precisions(moe.weights)) {
      expect_close(run(moe.weights, precision, input),
                   reference_output(moe.weights, precision, input), input.hidden_size, precision,
                   label + ", activations " + std::string(to_string(precision)));
    }
  }
  /// Weights of the target's scheme.
  static RandomMoe random_moe(RandomMoeOptions options) {
    options.scheme = GetParam().scheme;
    return make_random_moe(options);
  }
  static bool is_mxfp4() { return GetParam().scheme.is_mxfp4(); }
  static MoeProblem problem(int64_t hidden, int64_t intermediate, int64_t experts, int64_t top_k) {
    return {.hidden_size = hidden,
            .intermediate_size = intermediate,
            .num_experts = experts,
            .num_local_experts = experts,
            .top_k = top_k};
  }

  std::shared_ptr<BackendAdapter> adapter_;
  int64_t applied_ = 0;  // layers run by this test
};

using Projection = RandomMoe::Projection;

TEST_P(ExpertsConformance, MatchesTheReferenceOverTokensAndRoutings) {
  const RandomMoe moe = random_moe({.problem = problem(256, 128, 8, 4)});
  ASSERT_FALSE(precisions(moe.weights).empty());
  for (const int64_t tokens : {1, 2, 3, 5, 7, 8, 13, 16, 33, 64, 130}) {
    for (const auto routing : {RoutingCase::kUniform, RoutingCase::kSkewed, RoutingCase::kAllOnOne,
                               RoutingCase::kDuplicates, RoutingCase::kWithMissing}) {
      check(moe, make_input(moe.weights.problem, tokens, routing, tokens),
            std::to_string(tokens) + " tokens, " + to_string(routing));
    }
  }
}

TEST_P(ExpertsConformance, MatchesTheReferenceOnShapesOfRealModels) {
  // H and I of Nemotron, gpt-oss, Gemma and others, cut down in experts.
  for (const auto& [hidden, intermediate] : std::vector<std::pair<int64_t, int64_t>>{{2880, 352},
                                                                                     {2816, 704},
                                                                                     {2688, 1856},
                                                                                     {2048, 512},
                                                                                     {64, 640},
                                                                                     {160, 2880},
                                                                                     {128, 16},
                                                                                     {48, 144}}) {
    const RandomMoe moe = random_moe({.problem = problem(hidden, intermediate, 3, 2)});
    if (supports(moe.weights, ActivationPrecision::kBf16)) continue;  // said so with a reason
    for (const int64_t tokens : {1, 21}) {
      check(moe, make_input(moe.weights.problem, tokens, RoutingCase::kUniform, 5),
            "H " + std::to_string(hidden) + ", I " + std::to_string(intermediate));
    }
  }
}

TEST_P(ExpertsConformance, TopKMayBeOneOrEveryExpert) {
  for (const int64_t top_k : {1, 6}) {
    const RandomMoe moe = random_moe({.problem = problem(128, 64, 6, top_k)});
    for (const int64_t tokens : {1, 20}) {
      check(moe, make_input(moe.weights.problem, tokens, RoutingCase::kUniform, 3),
            "top_k " + std::to_string(top_k));
    }
  }
}

TEST_P(ExpertsConformance, MatchesTheReferenceForEveryActivationItTakes) {
  std::vector<ActivationParams> activations = {
      {.kind = ActivationKind::kSilu},
      {.kind = ActivationKind::kSilu, .limit = 0.7f},
      {.kind = ActivationKind::kSwigluOai, .limit = 1.1f},
      {.kind = ActivationKind::kSwigluOai, .alpha = 1.0f, .beta = 0.0f},
      {.kind = ActivationKind::kGeluTanh},
      {.kind = ActivationKind::kSiluLateClamp, .limit = 0.4f},
      {.kind = ActivationKind::kRelu2},
  };
  for (const ActivationParams& activation : activations) {
    MoeProblem p = problem(256, 128, 4, 2);
    p.activation = activation;
    const RandomMoe moe = random_moe({.problem = p});
    for (const int64_t tokens : {1, 19}) {
      check(moe, make_input(p, tokens, RoutingCase::kUniform, 11), to_string(activation));
    }
  }
}

TEST_P(ExpertsConformance, ActivationsOfLargeMagnitudeSaturateInsteadOfOverflowing) {
  MoeProblem p = problem(128, 64, 4, 2);
  const RandomMoe moe = random_moe({.problem = p, .gain = 60.0f});
  check(moe, make_input(p, 9, RoutingCase::kUniform, 12), "large pre-activations");
}

TEST_P(ExpertsConformance, RoutingWeightMayMultiplyTheInput) {
  MoeProblem p = problem(256, 128, 8, 2);
  p.weight_on_input = true;
  const RandomMoe moe = random_moe({.problem = p});
  if (supports(moe.weights, ActivationPrecision::kBf16)) GTEST_SKIP() << "rejected with a reason";
  for (const int64_t tokens : {1, 33}) {
    check(moe, make_input(p, tokens, RoutingCase::kUniform, 13), "weight on input");
  }
}

TEST_P(ExpertsConformance, BiasesAreAdded) {
  const RandomMoe moe = random_moe({.problem = problem(128, 64, 4, 2), .biases = true});
  if (supports(moe.weights, ActivationPrecision::kBf16)) GTEST_SKIP() << "rejected with a reason";
  check(moe, make_input(moe.weights.problem, 9, RoutingCase::kUniform, 14), "biases");
}

TEST_P(ExpertsConformance, ExpertsOfOtherRanksAndIdsOutOfRangeContributeNothing) {
  MoeProblem p = problem(128, 64, 8, 3);
  p.num_local_experts = 3;
  RandomMoe moe = random_moe({.problem = p});
  moe.weights.expert_map = {-1, 2, -1, 0, -1, -1, 1, -1};
  HostInput input = make_input(p, 40, RoutingCase::kUniform, 15);
  input.routing.ids[5] = 8;
  input.routing.ids[17] = 1000000;
  input.routing.ids[20] = -5;
  check(moe, input, "expert map");
}

TEST_P(ExpertsConformance, NoTokensIsNoWork) {
  const RandomMoe moe = random_moe({.problem = problem(128, 64, 4, 2)});
  const HostInput input = make_input(moe.weights.problem, 0, RoutingCase::kUniform, 1);
  for (const auto precision : precisions(moe.weights)) {
    EXPECT_TRUE(run(moe.weights, precision, input).empty());
  }
}

TEST_P(ExpertsConformance, ATokenWithoutExpertsGetsZeros) {
  const RandomMoe moe = random_moe({.problem = problem(128, 64, 4, 2)});
  HostInput input = make_input(moe.weights.problem, 3, RoutingCase::kUniform, 1);
  input.routing.ids[2] = input.routing.ids[3] = -1;
  for (const auto precision : precisions(moe.weights)) {
    const std::vector<float> y = run(moe.weights, precision, input);
    for (int64_t h = 0; h < 128; ++h) ASSERT_EQ(y[128 + h], 0.0f);
  }
}

TEST_P(ExpertsConformance, BlockScalesOfZeroSubnormalAndExtremeSizeAreExact) {
  const RandomMoe moe = random_moe({.problem = problem(256, 128, 4, 2), .awkward_scales = true});
  check(moe, make_input(moe.weights.problem, 9, RoutingCase::kUniform, 16), "awkward scales");
}

TEST_P(ExpertsConformance, GateAndUpKeepTheirOwnGlobalScales) {
  const RandomMoe moe = random_moe({.problem = problem(256, 128, 4, 2), .up_global_ratio = 10.0f});
  check(moe, make_input(moe.weights.problem, 9, RoutingCase::kUniform, 17), "up 10x gate");
}

TEST_P(ExpertsConformance, WeightsTooSmallForFoldedScalesAreExact) {
  // Folding these global scales (about 2^-40 of the usual) into E4M3 would make every weight zero.
  const RandomMoe moe = random_moe({.problem = problem(256, 128, 4, 2),
                                    .up_global_ratio = 0x1p-40f,
                                    .down_global_ratio = 0x1p-20f});
  HostInput input = make_input(moe.weights.problem, 9, RoutingCase::kUniform, 18);
  // FP4 activations with a global scale of 1 cannot hold an intermediate of 2^-40: BF16 only.
  expect_close(run(moe.weights, ActivationPrecision::kBf16, input),
               reference_output(moe.weights, ActivationPrecision::kBf16, input), 256,
               ActivationPrecision::kBf16, "tiny weights");
}

TEST_P(ExpertsConformance, OneOutlierActivationLeavesTheRestOfItsRowAlive) {
  const RandomMoe moe = random_moe({.problem = problem(256, 128, 4, 2)});
  HostInput input = make_input(moe.weights.problem, 6, RoutingCase::kUniform, 19);
  for (float& x : input.hidden_states) x = round_to_bf16(x * 0.01f);
  input.hidden_states[2 * 256 + 77] = 1e4f;
  check(moe, input, "outlier");
}

TEST_P(ExpertsConformance, ANanPoisonsItsOwnTokenOnly) {
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  const RandomMoe moe = random_moe({.problem = problem(128, 64, 4, 2)});
  for (const int64_t tokens : {1, 3, 40}) {
    const int64_t token = std::min<int64_t>(tokens - 1, 1);
    const HostInput input = make_input(moe.weights.problem, tokens, RoutingCase::kAllOnOne, 20);
    HostInput state = input, weight = input;
    state.hidden_states[token * 128 + 5] = kNan;
    // As routers mark a token whose logits are no numbers.
    weight.routing.ids[2 * token] = 0;
    weight.routing.weights[2 * token] = kNan;
    weight.routing.ids[2 * token + 1] = -1;
    for (const auto precision : precisions(moe.weights)) {
      const std::vector<float> clean = run(moe.weights, precision, input);
      for (const HostInput* poisoned : {&state, &weight}) {
        const std::vector<float> y = run(moe.weights, precision, *poisoned);
        for (int64_t i = 0; i < tokens * 128; ++i) {
          if (i / 128 == token) {
            ASSERT_TRUE(std::isnan(y[i])) << "element " << i;
          } else {
            ASSERT_EQ(y[i], clean[i]) << "element " << i;
          }
        }
      }
    }
  }
}

TEST_P(ExpertsConformance, ExpertsThatEveryTokenTakesGiveTheSameBitsAnnouncedOrNot) {
  constexpr int64_t kExperts = 6, kSlots = 4, kShared = 2, kChosen = kSlots - kShared;
  const RandomMoe moe = random_moe({.problem = problem(2048, 64, kExperts, kSlots)});
  MoeLayerWeights announced = moe.weights;
  announced.problem.num_shared = kShared;
  for (const auto precision : precisions(moe.weights)) {
    const auto plain = prepare(moe.weights, precision), layer = prepare(announced, precision);
    for (const int64_t tokens : {1, 9}) {
      HostInput input = make_input(moe.weights.problem, tokens, RoutingCase::kUniform, 23);
      for (int64_t t = 0; t < tokens; ++t) {
        int32_t* ids = &input.routing.ids[t * kSlots];
        for (int64_t s = 0; s < kChosen; ++s) ids[s] %= kExperts - kShared;
        for (int64_t s = kChosen; s < kSlots; ++s) {
          ids[s] = static_cast<int32_t>(kExperts - kSlots + s);
        }
      }
      EXPECT_EQ(apply(*layer, input), apply(*plain, input)) << tokens << " tokens";
      for (int64_t s = 0; s < kSlots; ++s) input.routing.ids[(tokens - 1) * kSlots + s] = -1;
      EXPECT_EQ(apply(*layer, input), apply(*plain, input)) << tokens << " tokens, one padding";
    }
  }
}

TEST_P(ExpertsConformance, ATokenGetsTheSameBitsAloneAndInAnyBatch) {
  for (const auto& [hidden, intermediate] :
       std::vector<std::pair<int64_t, int64_t>>{{256, 128}, {512, 320}}) {
    const RandomMoe moe = random_moe({.problem = problem(hidden, intermediate, 4, 2)});
    if (supports(moe.weights, ActivationPrecision::kBf16)) continue;
    const HostInput whole = make_input(moe.weights.problem, 100, RoutingCase::kSkewed, 21);
    for (const auto precision : precisions(moe.weights)) {
      const auto layer = prepare(moe.weights, precision);
      if (layer->batch_invariant() != BatchInvariance::kFull) {
        GTEST_SKIP() << "it does not say so: " << to_string(layer->batch_invariant());
      }
      const std::vector<float> expected = apply(*layer, whole);
      for (const int64_t size : {1, 2, 3, 5, 8, 13, 30}) {
        for (const int64_t begin : {int64_t{0}, int64_t{41}, 100 - size}) {
          HostInput part = whole;
          part.num_tokens = size;
          const auto cut = [&](auto& values, int64_t width) {
            values.assign(values.begin() + begin * width, values.begin() + (begin + size) * width);
          };
          cut(part.hidden_states, hidden);
          cut(part.routing.ids, 2);
          cut(part.routing.weights, 2);
          const std::vector<float> y = apply(*layer, part);
          for (int64_t i = 0; i < size * hidden; ++i) {
            ASSERT_EQ(y[i], expected[begin * hidden + i])
                << "batch of " << size << " at " << begin << ", activations "
                << to_string(precision);
          }
        }
      }
    }
  }
}

// What a plan says before there is a layer, the layer says too.
TEST_P(ExpertsConformance, APreparedLayerIsAsBatchInvariantAsItsBackendSays) {
  const RandomMoe moe = random_moe({.problem = problem(256, 128, 4, 2)});
  for (const auto precision : precisions(moe.weights)) {
    const auto layer = prepare(moe.weights, precision);
    const BatchBehavior says = adapter_->backend().batch_behavior({.problem = moe.weights.problem,
                                                                   .scheme = moe.weights.scheme,
                                                                   .precision = precision,
                                                                   .device = adapter_->device()});
    EXPECT_GE(layer->batch_invariant(), says.invariance);
    EXPECT_EQ(says.why.empty(), says.invariance == BatchInvariance::kFull);
    apply(*layer, make_input(moe.weights.problem, 1, RoutingCase::kUniform, 1));
  }
}

TEST_P(ExpertsConformance, TwentyRunsGiveTheSameBits) {
  const RandomMoe moe = random_moe({.problem = problem(256, 128, 8, 4)});
  const HostInput input = make_input(moe.weights.problem, 37, RoutingCase::kSkewed, 22);
  for (const auto precision : precisions(moe.weights)) {
    const auto layer = prepare(moe.weights, precision);
    const std::vector<float> first = apply(*layer, input);
    for (int i = 1; i < 20; ++i) ASSERT_EQ(apply(*layer, input), first);
  }
}

// The comparison itself must be able to fail: one wrong number in one expert is seen.
TEST_P(ExpertsConformance, OneWrongScaleInOneExpertFailsTheComparison) {
  const auto make = [] {
    RandomMoe moe = random_moe({.problem = problem(256, 128, 4, 2)});
    moe.block_scale(1, Projection::kGate, 5, 3) = 0x38;
    moe.block_scale(2, Projection::kDown, 100, 3) = 0x38;
    return moe;
  };
  const RandomMoe good = make();
  const HostInput input = make_input(good.weights.problem, 24, RoutingCase::kUniform, 23);
  std::vector<std::function<void(RandomMoe&)>> damages = {
      // One block scale of 448 instead of 1; of MXFP4 1/2 instead of 2^-71.
      [](RandomMoe& m) { m.block_scale(1, Projection::kGate, 5, 3) = 0x7e; },
      [](RandomMoe& m) { m.block_scale(2, Projection::kDown, 100, 3) = 0x7e; },
      // Gate and up exchanged.
      [](RandomMoe& m) { std::swap(*m.weights.experts[1].gate, m.weights.experts[1].up); },
  };
  if (is_mxfp4()) {
    // One scale byte off by one.
    damages.push_back([](RandomMoe& m) { ++m.block_scale(3, Projection::kDown, 17, 0); });
    damages.push_back([](RandomMoe& m) { ++m.block_scale(0, Projection::kUp, 60, 7); });
  } else {
    // A global scale off by a quarter.
    damages.push_back(
        [](RandomMoe& m) { m.linear(3, Projection::kDown).global_scale.value *= 1.25f; });
    damages.push_back(
        [](RandomMoe& m) { m.linear(0, Projection::kUp).global_scale.value *= 1.25f; });
  }
  for (const auto precision : precisions(good.weights)) {
    const std::vector<float> reference = reference_output(good.weights, precision, input);
    const Tolerance tolerance = GetParam().tolerance(precision);
    for (size_t i = 0; i < damages.size(); ++i) {
      RandomMoe bad = make();
      damages[i](bad);
      const LayerError error = compare_outputs(run(bad.weights, precision, input), reference, 256);
      EXPECT_TRUE(error.frobenius > tolerance.frobenius || error.worst_row > tolerance.worst_row)
          << "damage " << i << ", activations " << to_string(precision) << ": " << error.frobenius
          << ", " << error.worst_row;
    }
  }
}

TEST_P(ExpertsConformance, FoldingTheGlobalScaleIntoBlockScalesWouldChangeTheResult) {
  if (is_mxfp4()) GTEST_SKIP() << "MXFP4 has no global scale";
  const RandomMoeOptions options{.problem = problem(256, 128, 4, 2)};
  const RandomMoe good = random_moe(options);
  RandomMoe folded = random_moe(options);
  for (ExpertWeights& expert : folded.weights.experts) {
    for (LinearWeights* l : {&*expert.gate, &expert.up, &expert.down}) {
      auto* scales = const_cast<uint8_t*>(static_cast<const uint8_t*>(l->scale.data));
      for (int64_t i = 0; i < l->scale.num_elements(); ++i) {
        scales[i] = e4m3_from_float(e4m3_to_float(scales[i]) * l->global_scale.value);
      }
      l->global_scale = DecodeScale{1.0f};
    }
  }
  const HostInput input = make_input(good.weights.problem, 8, RoutingCase::kUniform, 24);
  const auto precision = ActivationPrecision::kBf16;
  const LayerError error = compare_outputs(run(folded.weights, precision, input),
                                           reference_output(good.weights, precision, input), 256);
  EXPECT_GT(error.frobenius, 3 * GetParam().tolerance(precision).frobenius);
}

TEST_P(ExpertsConformance, InputScalesMatterToStaticActivationsOnly) {
  const RandomMoeOptions options{.problem = problem(256, 128, 4, 2)};
  const RandomMoe calibrated = random_moe(options);
  RandomMoe perturbed = random_moe(options);
  RandomMoe absent = random_moe(options);
  for (ExpertWeights& expert : perturbed.weights.experts) {
    for (LinearWeights* l : {&*expert.gate, &expert.up, &expert.down})
      l->input_scale->value *= 1.3f;
  }
  for (ExpertWeights& expert : absent.weights.experts) {
    for (LinearWeights* l : {&*expert.gate, &expert.up, &expert.down}) l->input_scale.reset();
  }
  const HostInput input = make_input(calibrated.weights.problem, 9, RoutingCase::kUniform, 25);
  for (const auto precision : precisions(calibrated.weights)) {
    const std::vector<float> y = run(calibrated.weights, precision, input);
    if (precision == ActivationPrecision::kFp4Static) {
      EXPECT_NE(run(perturbed.weights, precision, input), y);
    } else {
      EXPECT_EQ(run(perturbed.weights, precision, input), y);
      EXPECT_EQ(run(absent.weights, precision, input), y);
    }
  }
}

TEST_P(ExpertsConformance, W4A16AndW4A4SchemesOfTheSameNumbersGiveTheSameBits) {
  const RandomMoe w4a4 = make_random_moe({.problem = problem(256, 128, 4, 2), .scheme = kW4A4});
  const RandomMoe w4a16 = make_random_moe({.problem = problem(256, 128, 4, 2), .scheme = kW4A16});
  const HostInput input = make_input(w4a4.weights.problem, 9, RoutingCase::kUniform, 26);
  for (const auto precision : {ActivationPrecision::kBf16, ActivationPrecision::kFp4}) {
    if (supports(w4a4.weights, precision) || supports(w4a16.weights, precision)) continue;
    EXPECT_EQ(run(w4a4.weights, precision, input), run(w4a16.weights, precision, input));
  }
}

// gpt-oss stores rows of gate and up in turn, biases too: views with a stride.
TEST_P(ExpertsConformance, RowsOfGateAndUpMayAlternate) {
  RandomMoe apart = random_moe({.problem = problem(128, 64, 3, 2), .biases = true});
  RandomMoe together = random_moe({.problem = problem(128, 64, 3, 2), .biases = true});
  for (ExpertWeights& expert : together.weights.experts) {
    const auto alternate = [&](TensorView& gate, TensorView& up) {
      const int64_t rows = gate.dim(0), bytes = gate.num_bytes() / rows;
      std::byte* both = together.allocate(2 * rows * bytes);
      for (int64_t r = 0; r < rows; ++r) {
        std::memcpy(both + 2 * r * bytes, gate.row(r), bytes);
        std::memcpy(both + (2 * r + 1) * bytes, up.row(r), bytes);
      }
      gate.data = both;
      up.data = both + bytes;
      gate.row_stride = up.row_stride = 2 * bytes / size_of(gate.dtype);
    };
    alternate(expert.gate->weight, expert.up.weight);
    alternate(expert.gate->scale, expert.up.scale);
    alternate(expert.gate->bias, expert.up.bias);
  }
  const HostInput input = make_input(apart.weights.problem, 7, RoutingCase::kUniform, 29);
  for (const auto precision : precisions(apart.weights)) {
    EXPECT_EQ(run(together.weights, precision, input), run(apart.weights, precision, input));
  }
}

// Exponents at both ends of E8M0, next to which the others make a result of a usual size.
TEST_P(ExpertsConformance, Mxfp4ScalesAtTheEndsOfTheirRangeAreExact) {
  if (!is_mxfp4()) GTEST_SKIP() << "of MXFP4";
  struct Case {
    ActivationKind activation;
    float up, down, x;  // factors of the weights and the hidden states
  };
  for (const auto& [activation, up, down, x] :
       {Case{ActivationKind::kSilu, 0x1p-90f, 0x1p118f, 1.0f},
        Case{ActivationKind::kSilu, 0x1p100f, 0x1p-118f, 1.0f},
        Case{ActivationKind::kRelu2, 0x1p-118f, 0x1p36f, 0x1p100f},
        Case{ActivationKind::kRelu2, 0x1p118f, 0x1p-118f, 0x1p-100f}}) {
    MoeProblem p = problem(256, 128, 4, 2);
    p.activation.kind = activation;
    const RandomMoe moe =
        random_moe({.problem = p, .up_global_ratio = up, .down_global_ratio = down});
    HostInput input = make_input(p, 9, RoutingCase::kUniform, 30);
    for (float& value : input.hidden_states) value *= x;
    check(moe, input, "up times 2^" + std::to_string(std::ilogb(up)));
  }
}

TEST_P(ExpertsConformance, Mxfp4BlocksOfZerosMayHaveAnyScale) {
  if (!is_mxfp4()) GTEST_SKIP() << "of MXFP4";
  RandomMoe moe = random_moe({.problem = problem(128, 64, 3, 2)});
  const HostInput input = make_input(moe.weights.problem, 7, RoutingCase::kUniform, 31);
  std::vector<float> expected;
  for (const uint8_t scale : {127, 0, 1, 253, 254}) {
    for (int64_t e = 0; e < 3; ++e) {
      for (const auto projection : {Projection::kGate, Projection::kUp, Projection::kDown}) {
        LinearWeights& linear = moe.linear(e, projection);
        for (int64_t r = 0; r < linear.out_features; r += 3) {
          moe.block_scale(e, projection, r, r % linear.scale.dim(1)) = scale;
          auto* codes = const_cast<std::byte*>(linear.weight.row(r));
          std::memset(codes + r % linear.scale.dim(1) * 16, 0x80, 16);  // -0 and 0
        }
      }
    }
    const std::vector<float> y = run(moe.weights, ActivationPrecision::kBf16, input);
    if (expected.empty()) {
      expected = y;
      check(moe, input, "blocks of zeros");
    }
    EXPECT_EQ(y, expected) << int{scale};
  }
}

TEST_P(ExpertsConformance, Mxfp4ScalesThatAreNoNumberOrTooLargeAreRefusedByName) {
  if (!is_mxfp4()) GTEST_SKIP() << "of MXFP4";
  const auto refusal = [&](const RandomMoe& moe) -> std::string {
    try {
      prepare(moe.weights, ActivationPrecision::kBf16);
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  };
  using ::testing::HasSubstr;
  RandomMoe nan = random_moe({.problem = problem(64, 32, 4, 2)});
  nan.block_scale(2, Projection::kDown, 7, 0) = 255;
  EXPECT_THAT(refusal(nan), AllOf(HasSubstr("experts.2.down_proj"), HasSubstr("NaN")));
  RandomMoe large = random_moe({.problem = problem(64, 32, 4, 2)});
  large.block_scale(1, Projection::kGate, 7, 1) = 253;  // its largest code is 4 or 6: 2^128
  EXPECT_THAT(refusal(large), AllOf(HasSubstr("experts.1.gate_proj"), HasSubstr("float32")));
  const RandomMoe good = random_moe({.problem = problem(64, 32, 4, 2)});
  check(good, make_input(good.weights.problem, 3, RoutingCase::kUniform, 32), "good scales");
}

TEST_P(ExpertsConformance, MixedCheckpointsFormatsMatchWhereTaken) {
  const QuantKey fp8_tensor{QuantFormat::kFp8Tensor, false};
  const QuantKey fp8_channel{QuantFormat::kFp8Channel, false};
  const QuantKey fp8_block{QuantFormat::kFp8Block128, false};
  const std::vector<QuantScheme> schemes = {kUnquantized,
                                            {fp8_tensor, QuantKey{QuantFormat::kFp8Tensor, false}},
                                            {fp8_channel, QuantKey{QuantFormat::kFp8Token, true}},
                                            {fp8_block, QuantKey{QuantFormat::kFp8Block128, true}},
                                            {fp8_channel, std::nullopt}};
  for (const QuantScheme& scheme : schemes) {
    for (const DType dtype : {DType::kBF16, DType::kF16, DType::kF32}) {
      const RandomMoe moe =
          make_random_moe({.problem = problem(200, 136, 4, 2),
                           .scheme = scheme,
                           .float_dtype = dtype,
                           .fp8_scale_dtype = dtype == DType::kF16 ? DType::kF32 : dtype});
      for (const int64_t tokens : {1, 15}) {
        const HostInput input = make_input(moe.weights.problem, tokens, RoutingCase::kUniform, 27);
        check(moe, input, to_string(scheme));
      }
      if (scheme.weight.format != QuantFormat::kFloat && dtype == DType::kBF16) break;
    }
  }
  skip_unless_run("unquantised or FP8 weights");
}

TEST_P(ExpertsConformance, Float32InputsWhereAcceptedSkipTheRoundingOfTheIntermediate) {
  const RandomMoe moe = random_moe({.problem = problem(256, 128, 4, 2)});
  for (const auto precision : precisions(moe.weights)) {
    const auto layer = prepare(moe.weights, precision);
    if (!layer->accepts_float32()) continue;
    HostInput input = make_input(moe.weights.problem, 12, RoutingCase::kUniform, 28);
    Random random(9);
    for (float& x : input.hidden_states) x = random.normal();
    input.float32 = true;
    expect_close(apply(*layer, input), reference_output(moe.weights, precision, input), 256,
                 precision, "float32 input, " + std::string(to_string(precision)));
  }
  skip_unless_run("float32 inputs");
}

}  // namespace moe4::testing
