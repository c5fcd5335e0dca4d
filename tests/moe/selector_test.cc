// Which backend takes which layer on which device, with which activations, and what is said about
// the others.
#include "moe/selector.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "ops/experts/registry.h"

namespace moe4 {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr QuantScheme kFp8Static{{QuantFormat::kFp8Tensor, false},
                                 QuantKey{QuantFormat::kFp8Tensor, false}};
constexpr QuantScheme kFp8WeightOnly{{QuantFormat::kFp8Channel, false}, std::nullopt};
constexpr QuantScheme kW4A8{kNvfp4Static, QuantKey{QuantFormat::kFp8Tensor, true}};

MoeProblem qwen3_6() {
  return {.hidden_size = 2048,
          .intermediate_size = 512,
          .num_experts = 256,
          .num_local_experts = 256,
          .top_k = 8};
}

SelectorOptions on(const Device& device, const std::string& backend = "",
                   ActivationMode mode = ActivationMode::kAuto) {
  return {.device = device, .activations = mode, .backend = backend};
}

std::string name_of(const Selection& selection) { return std::string(selection.backend->name()); }

// The verdict on one backend of a selection.
Support verdict(const Selection& selection, std::string_view name) {
  for (const Candidate& candidate : selection.candidates) {
    if (candidate.backend->name() == name) return candidate.verdict;
  }
  ADD_FAILURE() << name << " is not registered";
  return std::nullopt;
}

std::string error_of(const MoeProblem& problem, const QuantScheme& scheme,
                     const SelectorOptions& options, ErrorCode code = ErrorCode::kUnavailable) {
  try {
    select_backend(problem, scheme, options);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code) << error.what();
    return error.what();
  }
  ADD_FAILURE() << "nothing was thrown";
  return "";
}

class SelectorTest : public ::testing::Test {
 protected:
  void SetUp() override { register_builtin_backends(); }
};

TEST_F(SelectorTest, EachDeviceClassHasItsFirstChoice) {
  const struct {
    Device device;
    const char* name;
  } cases[] = {
      {Device::cpu(), "cpu"},          {Device::cuda_sm(80), "marlin"},
      {Device::cuda_sm(86), "marlin"}, {Device::cuda_sm(89), "marlin"},
      {Device::cuda_sm(90), "hopper"}, {Device::cuda_sm(100), "marlin"},
      {Device::cuda_sm(120), "b12x"},  {Device::cuda_sm(121), "b12x"},
  };
  for (const auto& [device, name] : cases) {
    for (const QuantScheme& scheme : {kW4A4, kW4A16}) {
      const Selection selection = select_backend(qwen3_6(), scheme, on(device));
      EXPECT_EQ(name_of(selection), name) << to_string(device) << " " << to_string(scheme);
    }
  }
}

TEST_F(SelectorTest, MarlinAndB12xBothAcceptBothSchemesWhereTheDeviceFits) {
  for (int sm : {80, 86, 89, 90, 100, 103, 120, 121}) {
    for (const QuantScheme& scheme : {kW4A4, kW4A16}) {
      for (const char* name : {"marlin", "b12x"}) {
        const Selection selection =
            select_backend(qwen3_6(), scheme, on(Device::cuda_sm(sm), name));
        EXPECT_EQ(name_of(selection), name) << "sm_" << sm << " " << to_string(scheme);
      }
    }
  }
}

TEST_F(SelectorTest, OnSm12xNeitherBackendIsRejectedForEitherScheme) {
  for (int sm : {120, 121}) {
    for (const QuantScheme& scheme : {kW4A4, kW4A16}) {
      const Selection selection = select_backend(qwen3_6(), scheme, on(Device::cuda_sm(sm)));
      EXPECT_FALSE(verdict(selection, "b12x"));
      EXPECT_FALSE(verdict(selection, "marlin"));
    }
  }
}

TEST_F(SelectorTest, EveryRegisteredBackendGetsAVerdictWithAReason) {
  const Selection selection = select_backend(qwen3_6(), kW4A16, on(Device::cuda_sm(90)));
  EXPECT_EQ(selection.candidates.size(), registered_backends().size());
  EXPECT_EQ(verdict(selection, "cpu")->kind, Rejection::Kind::kDevice);
  EXPECT_EQ(verdict(selection, "reference")->kind, Rejection::Kind::kDevice);
  EXPECT_EQ(verdict(selection, "b12x")->kind, Rejection::Kind::kNotSelected);
  EXPECT_THAT(verdict(selection, "b12x")->message, HasSubstr("emulated"));
  for (const Candidate& candidate : selection.candidates) {
    if (candidate.verdict) {
      EXPECT_FALSE(candidate.verdict->message.empty());
    }
  }
}

TEST_F(SelectorTest, B12xIsNeverChosenByItselfOffSm12x) {
  for (int sm : {80, 89, 90, 100}) {
    const Selection selection =
        select_backend(qwen3_6(), kW4A4, on(Device::cuda_sm(sm), "", ActivationMode::kBf16));
    EXPECT_NE(name_of(selection), "b12x");
    EXPECT_THAT(error_of(qwen3_6(), kW4A4, on(Device::cuda_sm(sm), "", ActivationMode::kFp4)),
                HasSubstr("b12x (only by name)"));
  }
}

TEST_F(SelectorTest, AutoQuantisesActivationsOnlyForW4A4OnFp4TensorCores) {
  using enum ActivationPrecision;
  const struct {
    Device device;
    QuantScheme scheme;
    ActivationPrecision precision;
  } cases[] = {
      {Device::cpu(), kW4A4, kBf16},         {Device::cpu(), kW4A16, kBf16},
      {Device::cuda_sm(90), kW4A4, kBf16},   {Device::cuda_sm(90), kW4A16, kBf16},
      {Device::cuda_sm(121), kW4A4, kFp4},   {Device::cuda_sm(121), kW4A16, kBf16},
      {Device::cuda_sm(100), kW4A4, kBf16},  // marlin, the only one there, keeps BF16
      {Device::cuda_sm(100), kW4A16, kBf16},
  };
  for (const auto& [device, scheme, precision] : cases) {
    const Selection selection = select_backend(qwen3_6(), scheme, on(device));
    EXPECT_EQ(selection.precision, precision) << to_string(device) << " " << to_string(scheme);
  }
}

TEST_F(SelectorTest, B12xOnW4A16KeepsBf16UnlessFp4IsAsked) {
  const Device spark = Device::cuda_sm(121);
  EXPECT_EQ(select_backend(qwen3_6(), kW4A16, on(spark, "b12x")).precision,
            ActivationPrecision::kBf16);
  const Selection fp4 = select_backend(qwen3_6(), kW4A16, on(spark, "b12x", ActivationMode::kFp4));
  EXPECT_EQ(fp4.precision, ActivationPrecision::kFp4);
  EXPECT_THAT(fp4.reason, AllOf(HasSubstr("as asked"), HasSubstr("loss of accuracy")));
  EXPECT_EQ(to_string(fp4.precision), "fp4 (in-kernel)");
}

TEST_F(SelectorTest, Bf16ActivationsCanBeAskedOfB12xOnW4A4) {
  const Selection selection =
      select_backend(qwen3_6(), kW4A4, on(Device::cuda_sm(121), "b12x", ActivationMode::kBf16));
  EXPECT_EQ(selection.precision, ActivationPrecision::kBf16);
  EXPECT_THAT(selection.reason, HasSubstr("as asked"));
}

TEST_F(SelectorTest, MarlinRejectsFp4ActivationsAndNamesWhoQuantises) {
  const Selection selection =
      select_backend(qwen3_6(), kW4A16, on(Device::cuda_sm(121), "", ActivationMode::kFp4));
  EXPECT_EQ(name_of(selection), "b12x");
  EXPECT_EQ(verdict(selection, "marlin")->kind, Rejection::Kind::kPrecision);
  EXPECT_THAT(verdict(selection, "marlin")->message, AllOf(HasSubstr("b12x"), HasSubstr("cpu")));
}

TEST_F(SelectorTest, StaticFp4NeedsCalibratedScales) {
  const ActivationMode mode = ActivationMode::kFp4Static;
  EXPECT_EQ(select_backend(qwen3_6(), kW4A4, on(Device::cpu(), "", mode)).precision,
            ActivationPrecision::kFp4Static);
  const std::string message = error_of(qwen3_6(), kW4A16, on(Device::cpu(), "", mode));
  EXPECT_THAT(message, AllOf(HasSubstr("calibrated"), HasSubstr("--activations bf16")));
  EXPECT_EQ(name_of(select_backend(qwen3_6(), kW4A4, on(Device::cuda_sm(121), "", mode))), "b12x");
  EXPECT_THAT(error_of(qwen3_6(), kW4A4, on(Device::cuda_sm(90), "", mode)),
              AllOf(HasSubstr("marlin since"), HasSubstr("b12x (only by name)")));
}

TEST_F(SelectorTest, AliasesResolve) {
  EXPECT_EQ(resolve_backend_name("flashinfer_b12x"), "b12x");
  EXPECT_EQ(resolve_backend_name("emulation"), "reference");
  EXPECT_EQ(resolve_backend_name("auto"), "");
  EXPECT_EQ(name_of(select_backend(qwen3_6(), kW4A16, on(Device::cuda_sm(121), "flashinfer_b12x"))),
            "b12x");
  EXPECT_EQ(name_of(select_backend(qwen3_6(), kW4A16, on(Device::cpu(), "emulation"))),
            "reference");
}

TEST_F(SelectorTest, AnUnknownBackendNameIsAUsageErrorThatListsTheKnown) {
  EXPECT_THAT(error_of(qwen3_6(), kW4A16, on(Device::cpu(), "trtllm"), ErrorCode::kUsage),
              AllOf(HasSubstr("trtllm"), HasSubstr("marlin"), HasSubstr("flashinfer_b12x")));
}

TEST_F(SelectorTest, AForcedImpossibleBackendNamesReasonAndAlternatives) {
  EXPECT_THAT(error_of(qwen3_6(), kW4A16, on(Device::cuda_sm(121), "hopper")),
              AllOf(HasSubstr("'hopper'"), HasSubstr("since wgmma"),
                    HasSubstr("backends that can: b12x, marlin")));
  EXPECT_THAT(error_of(qwen3_6(), kW4A16, on(Device::cpu(), "marlin")),
              AllOf(HasSubstr("needs an NVIDIA GPU"), HasSubstr("reference")));
}

TEST_F(SelectorTest, AForcedPrecisionNobodyHasNamesTheWayOut) {
  EXPECT_THAT(error_of(qwen3_6(), kW4A16, on(Device::cuda_sm(80), "marlin", ActivationMode::kFp4)),
              AllOf(HasSubstr("BF16 activations"), HasSubstr("b12x (only by name)")));
}

TEST_F(SelectorTest, TooOldAGpuIsRejectedByEveryGpuBackend) {
  const std::string message = error_of(qwen3_6(), kW4A16, on(Device::cuda_sm(75)));
  EXPECT_THAT(message, AllOf(HasSubstr("marlin since"), HasSubstr("b12x since"),
                             HasSubstr("hopper since"), HasSubstr("--device cpu")));
}

TEST_F(SelectorTest, AForcedNvfp4BackendNeverReachesFp8OrBf16Layers) {
  for (const char* forced : {"marlin", "b12x"}) {
    for (const QuantScheme& scheme : {kFp8Static, kFp8WeightOnly, kUnquantized}) {
      const Selection selection =
          select_backend(qwen3_6(), scheme, on(Device::cuda_sm(121), forced));
      EXPECT_NE(name_of(selection), forced);
      EXPECT_TRUE(selection.device.is_cpu());
      EXPECT_THAT(selection.reason, AllOf(HasSubstr(forced), HasSubstr("does not reach this layer"),
                                          HasSubstr("on the host")));
      EXPECT_EQ(verdict(selection, forced)->kind, Rejection::Kind::kScheme);
    }
  }
}

TEST_F(SelectorTest, ABackendThatTakesEveryFormatIsForcedOnAllLayers) {
  for (const QuantScheme& scheme : {kW4A4, kW4A16, kFp8Static, kUnquantized}) {
    EXPECT_EQ(name_of(select_backend(qwen3_6(), scheme, on(Device::cpu(), "reference"))),
              "reference");
  }
}

TEST_F(SelectorTest, Fp8ActivationsAreOnlyForLayersThatAskForThem) {
  SelectorOptions options = on(Device::cpu(), "reference");
  EXPECT_EQ(select_backend(qwen3_6(), kFp8Static, options).precision, ActivationPrecision::kBf16);
  options.fp8_activations = true;
  EXPECT_EQ(select_backend(qwen3_6(), kFp8Static, options).precision, ActivationPrecision::kFp8);
  EXPECT_EQ(select_backend(qwen3_6(), kFp8WeightOnly, options).precision,
            ActivationPrecision::kBf16);
  EXPECT_EQ(select_backend(qwen3_6(), kW4A4, options).precision, ActivationPrecision::kBf16);
}

TEST_F(SelectorTest, AskingForFp4LeavesFp8LayersAlone) {
  const Selection selection =
      select_backend(qwen3_6(), kFp8Static, on(Device::cpu(), "", ActivationMode::kFp4));
  EXPECT_EQ(selection.precision, ActivationPrecision::kBf16);
}

TEST_F(SelectorTest, MarlinDropsAnFp8ActivationKeyAndB12xRejectsIt) {
  const Selection selection = select_backend(qwen3_6(), kW4A8, on(Device::cuda_sm(121)));
  EXPECT_EQ(name_of(selection), "marlin");
  EXPECT_EQ(selection.precision, ActivationPrecision::kBf16);
  EXPECT_EQ(verdict(selection, "b12x")->kind, Rejection::Kind::kScheme);
}

TEST_F(SelectorTest, GpuBackendsTakeEveryNonLinearityExpertMapsAndOddShards) {
  for (ActivationKind kind : {ActivationKind::kSilu, ActivationKind::kSwigluOai,
                              ActivationKind::kGeluTanh, ActivationKind::kRelu2}) {
    for (int64_t width : {640, 704, 1856}) {
      MoeProblem problem = qwen3_6();
      problem.activation.kind = kind;
      problem.intermediate_size = width;
      problem.num_local_experts = 64;
      SelectorOptions options = on(Device::cuda_sm(121));
      options.parallel = {.tp_size = 2, .tp_rank = 1, .ep_size = 4, .ep_rank = 3};
      const Selection selection = select_backend(problem, kW4A16, options);
      EXPECT_FALSE(verdict(selection, "b12x"));
      EXPECT_FALSE(verdict(selection, "marlin"));
    }
  }
}

TEST_F(SelectorTest, AShardThatCutsABlockOf16IsRejectedByShape) {
  MoeProblem problem = qwen3_6();
  problem.intermediate_size = 712;
  EXPECT_THAT(error_of(problem, kW4A16, on(Device::cuda_sm(121), "marlin")),
              HasSubstr("multiples of 16"));
}

TEST_F(SelectorTest, ARankOutsideItsGroupIsRejected) {
  SelectorOptions options = on(Device::cuda_sm(90), "marlin");
  options.parallel = {.tp_size = 2, .tp_rank = 2};
  EXPECT_THAT(error_of(qwen3_6(), kW4A16, options), HasSubstr("TP rank 2 of 2"));
}

// A backend that supports everything but is not in this build.
class AbsentBackend final : public ExpertsBackend {
 public:
  std::string_view name() const override { return "absent"; }
  Support supports(const ExpertsQuery&) const override { return std::nullopt; }
  Support runnable(const Device&) const override {
    return Rejection{Rejection::Kind::kBuild, "it is not built in"};
  }
  BatchBehavior batch_behavior(const ExpertsQuery&) const override { return {}; }
  std::unique_ptr<PreparedExperts> prepare(const MoeLayerWeights&,
                                           const PrepareOptions&) const override {
    return nullptr;
  }
};

TEST_F(SelectorTest, WhatCannotRunHereIsPassedOverOnlyWhenItMustRun) {
  const AbsentBackend absent;
  std::vector<const ExpertsBackend*> backends = registered_backends();
  backends.insert(backends.begin(), &absent);
  set_registered_backends(backends);
  SelectorOptions options = on(Device::cpu());
  EXPECT_EQ(name_of(select_backend(qwen3_6(), kW4A16, options)), "absent");
  options.must_run = true;
  const Selection selection = select_backend(qwen3_6(), kW4A16, options);
  EXPECT_NE(name_of(selection), "absent");
  EXPECT_EQ(verdict(selection, "absent")->kind, Rejection::Kind::kBuild);
  options.backend = "absent";
  EXPECT_THAT(error_of(qwen3_6(), kW4A16, options),
              AllOf(HasSubstr("not built in"), HasSubstr("reference")));
}

TEST_F(SelectorTest, ReasonsSayWhyActivationsStayBf16) {
  EXPECT_THAT(select_backend(qwen3_6(), kW4A16, on(Device::cuda_sm(121))).reason,
              HasSubstr("since the checkpoint is W4A16"));
  EXPECT_THAT(select_backend(qwen3_6(), kW4A4, on(Device::cuda_sm(90))).reason,
              HasSubstr("sm_90 has no FP4 tensor cores"));
  EXPECT_THAT(select_backend(qwen3_6(), kW4A4, on(Device::cuda_sm(100))).reason,
              AllOf(HasSubstr("marlin does not quantise"), Not(HasSubstr("as asked"))));
}

TEST_F(SelectorTest, BatchInvarianceWhenAskedForRejectsHopperAndTakesMarlin) {
  SelectorOptions options = on(Device::cuda_sm(90));
  const Selection usual = select_backend(qwen3_6(), kW4A16, options);
  EXPECT_EQ(name_of(usual), "hopper");
  EXPECT_EQ(usual.batch.invariance, BatchInvariance::kNone);
  EXPECT_THAT(usual.batch.why, HasSubstr("wgmma"));
  EXPECT_THAT(usual.batch.cost, HasSubstr("marlin"));

  options.batch_invariant = true;
  const Selection invariant = select_backend(qwen3_6(), kW4A16, options);
  EXPECT_EQ(name_of(invariant), "marlin");
  EXPECT_EQ(invariant.batch.invariance, BatchInvariance::kFull);
  EXPECT_EQ(verdict(invariant, "hopper")->kind, Rejection::Kind::kBatch);
  EXPECT_THAT(verdict(invariant, "hopper")->message, HasSubstr("depend on its batch"));

  options.backend = "hopper";
  EXPECT_THAT(error_of(qwen3_6(), kW4A16, options),
              AllOf(HasSubstr("since a token's bits depend on its batch"), HasSubstr("marlin")));
}

TEST_F(SelectorTest, HopperIsInvariantByPhaseForWhoSaysThePhaseAndNamesWhatThatCosts) {
  SelectorOptions options = on(Device::cuda_sm(90));
  options.says_phase = true;
  options.batch_invariant = true;
  const Selection selection = select_backend(qwen3_6(), kW4A16, options);
  EXPECT_EQ(name_of(selection), "hopper");
  EXPECT_EQ(selection.batch.invariance, BatchInvariance::kByPhase);
  EXPECT_THAT(selection.batch.why, HasSubstr("generated tokens"));
  EXPECT_THAT(selection.batch.cost, HasSubstr("1.6 %"));
}

TEST_F(SelectorTest, BackendsOfTheCpuAndB12xAreBatchInvariantAsTheyAre) {
  for (const auto& [device, name] : std::vector<std::pair<Device, std::string>>{
           {Device::cpu(), "cpu"}, {Device::cpu(), "reference"}, {Device::cuda_sm(121), "b12x"}}) {
    SelectorOptions options = on(device, name);
    options.batch_invariant = true;
    const Selection selection = select_backend(qwen3_6(), kW4A4, options);
    EXPECT_EQ(name_of(selection), name);
    EXPECT_EQ(selection.batch.invariance, BatchInvariance::kFull);
    EXPECT_TRUE(selection.batch.why.empty());
  }
}

// A backend whose order of sums follows the phase of a token, not its batch.
class ByPhaseBackend final : public ExpertsBackend {
 public:
  std::string_view name() const override { return "by_phase"; }
  Support supports(const ExpertsQuery&) const override { return std::nullopt; }
  Support runnable(const Device&) const override { return std::nullopt; }
  BatchBehavior batch_behavior(const ExpertsQuery&) const override {
    return {BatchInvariance::kByPhase, "prompts take other kernels", ""};
  }
  std::unique_ptr<PreparedExperts> prepare(const MoeLayerWeights&,
                                           const PrepareOptions&) const override {
    return nullptr;
  }
};

TEST_F(SelectorTest, InvarianceByPhaseIsInvariance) {
  const ByPhaseBackend by_phase;
  set_registered_backends({&by_phase});
  SelectorOptions options = on(Device::cpu());
  options.batch_invariant = true;
  const Selection selection = select_backend(qwen3_6(), kW4A16, options);
  EXPECT_EQ(name_of(selection), "by_phase");
  EXPECT_EQ(selection.batch.invariance, BatchInvariance::kByPhase);
}

TEST_F(SelectorTest, TuningIsCheckedByName) {
  const Tuning tuning = parse_tuning({"hopper.tiles=16", "marlin.fc2=rows=x"});
  EXPECT_EQ(tuning.find("hopper.tiles"), "16");
  EXPECT_EQ(tuning.find("marlin.fc2"), "rows=x");  // the backend refuses the value
  EXPECT_EQ(tuning.find("hopper.min_tokens"), std::nullopt);
  EXPECT_TRUE(parse_tuning({}).empty());
  for (const std::string setting : {"hopper.tile=16", "hopper.tiles", "=16", "", "tiles=16"}) {
    try {
      parse_tuning({setting});
      ADD_FAILURE() << setting;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kUsage);
      EXPECT_THAT(error.what(), AllOf(HasSubstr("'" + setting + "'"),
                                      HasSubstr("hopper.tiles (16, 24, 40, small or large)")));
    }
  }
}

}  // namespace
}  // namespace moe4
