// What only the cpu backend promises: no allocation in apply(), the same bits for every number of
// threads, accuracy below BF16's own rounding, clear messages.
#include "ops/experts/cpu/cpu_backend.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <new>

#include "base/aligned_buffer.h"
#include "ops/experts/reference/reference_backend.h"
#include "panels/kernels.h"
#include "support/fp4_ties.h"
#include "support/random_moe.h"

namespace {
std::atomic<int64_t> allocations{0};
}  // namespace

// Every heap allocation of this program passes here. (GCC 12 does not see that the two belong
// together once it has inlined one of them.)
#pragma GCC diagnostic ignored "-Wmismatched-new-delete"
void* operator new(size_t bytes) {
  allocations.fetch_add(1, std::memory_order_relaxed);
  void* p = std::malloc(bytes == 0 ? 1 : bytes);
  if (p == nullptr) throw std::bad_alloc();
  return p;
}
void operator delete(void* p) noexcept { std::free(p); }
void operator delete(void* p, size_t) noexcept { std::free(p); }

namespace moe4::testing {
namespace {

MoeProblem problem(int64_t hidden, int64_t intermediate, int64_t experts, int64_t top_k) {
  return {.hidden_size = hidden,
          .intermediate_size = intermediate,
          .num_experts = experts,
          .num_local_experts = experts,
          .top_k = top_k};
}

struct Call {
  std::vector<float> x;
  Routing routing;
  std::vector<float> y;
  AlignedBuffer workspace;
  ExpertsArgs args;

  Call(const PreparedExperts& layer, const MoeProblem& p, int64_t tokens, bool poison = false)
      : x(make_hidden_states(tokens, p.hidden_size, 3)),
        routing(make_routing(RoutingCase::kUniform, tokens, p.num_experts, p.top_k, 4)),
        y(x.size()),
        workspace(layer.workspace_size(tokens)) {
    if (poison) std::memset(workspace.data(), 0xff, workspace.size());
    args = {.num_tokens = tokens,
            .hidden_states = x.data(),
            .hidden_dtype = DType::kF32,
            .topk_ids = routing.ids.data(),
            .topk_weights = routing.weights.data(),
            .output = y.data(),
            .output_dtype = DType::kF32,
            .workspace = {workspace.data(), workspace.size()}};
  }
};

constexpr ActivationPrecision kNvfp4Precisions[] = {
    ActivationPrecision::kBf16, ActivationPrecision::kFp4, ActivationPrecision::kFp4Static};

TEST(CpuBackend, ApplyAllocatesNothing) {
  ThreadPool threads(2);
  const RandomMoe nvfp4 = make_random_moe({.problem = problem(256, 128, 8, 4)});
  const RandomMoe fp8 = make_random_moe(
      {.problem = problem(256, 128, 8, 4),
       .scheme = {{QuantFormat::kFp8Channel, false}, QuantKey{QuantFormat::kFp8Token, true}}});
  for (const RandomMoe* moe : {&nvfp4, &fp8}) {
    for (const auto precision : {ActivationPrecision::kBf16, ActivationPrecision::kFp4,
                                 ActivationPrecision::kFp4Static, ActivationPrecision::kFp8}) {
      const CpuBackend backend;
      if (backend.supports({.problem = moe->weights.problem,
                            .scheme = moe->weights.scheme,
                            .precision = precision})) {
        continue;
      }
      const auto layer =
          backend.prepare(moe->weights, {.precision = precision, .threads = &threads});
      for (const int64_t tokens : {0, 1, 7, 64, 1000}) {
        Call call(*layer, moe->weights.problem, tokens);
        const int64_t before = allocations.load();
        layer->apply(call.args);
        EXPECT_EQ(allocations.load(), before) << tokens << " tokens, " << to_string(precision);
      }
    }
  }
}

TEST(CpuBackend, AnyNumberOfThreadsGivesTheSameBits) {
  const RandomMoe moe = make_random_moe({.problem = problem(512, 320, 16, 4)});
  for (const CpuIsa isa : available_cpu_isas()) {
    for (const auto precision : kNvfp4Precisions) {
      for (const int64_t tokens : {1, 6, 90}) {
        std::vector<float> first;
        for (int n = 1; n <= 4; ++n) {
          ThreadPool threads(n);
          const auto layer =
              CpuBackend(isa).prepare(moe.weights, {.precision = precision, .threads = &threads});
          Call call(*layer, moe.weights.problem, tokens, true);
          layer->apply(call.args);
          if (n == 1) first = call.y;
          ASSERT_EQ(call.y, first) << n << " threads, " << tokens << " tokens";
        }
      }
    }
  }
}

// Chunks bound the workspace: a batch beyond one chunk gives every token the bits it gets alone.
TEST(CpuBackend, BatchesBeyondOneChunkAreCutWithoutTrace) {
  ThreadPool threads(2);
  const RandomMoe moe = make_random_moe({.problem = problem(2048, 16, 8, 8)});
  const auto layer = CpuBackend().prepare(moe.weights, {.threads = &threads});
  Call whole(*layer, moe.weights.problem, 2100);
  EXPECT_LT(whole.workspace.size(), size_t{200} << 20);
  layer->apply(whole.args);
  for (const int64_t token : {0, 1023, 1024, 2047, 2099}) {
    ExpertsArgs one = whole.args;
    std::vector<float> y(2048);
    one.num_tokens = 1;
    one.hidden_states = whole.x.data() + token * 2048;
    one.topk_ids += token * 8;
    one.topk_weights += token * 8;
    one.output = y.data();
    layer->apply(one);
    ASSERT_TRUE(std::equal(y.begin(), y.end(), whole.y.begin() + token * 2048)) << token;
  }
}

double layer_error(const std::vector<float>& y, const std::vector<float>& reference) {
  double diff = 0, total = 0;
  for (size_t i = 0; i < y.size(); ++i) {
    diff += (double{y[i]} - reference[i]) * (double{y[i]} - reference[i]);
    total += double{reference[i]} * reference[i];
  }
  return std::sqrt(diff / total);
}

TEST(CpuBackend, Bf16ActivationsAreAFifthOfTheErrorOfRoundingThemToBf16) {
  ThreadPool threads(2);
  const MoeProblem p = problem(1024, 512, 8, 4);
  const RandomMoe moe = make_random_moe({.problem = p});
  const auto reference = ReferenceBackend().prepare(moe.weights, {.threads = &threads});
  Call exact(*reference, p, 24);
  Random random(5);
  for (float& x : exact.x) x = random.normal();  // with all 24 bits
  reference->apply(exact.args);
  Call rounded(*reference, p, 24);
  for (size_t i = 0; i < exact.x.size(); ++i) rounded.x[i] = round_to_bf16(exact.x[i]);
  reference->apply(rounded.args);
  const double bf16_error = layer_error(rounded.y, exact.y);
  for (const CpuIsa isa : available_cpu_isas()) {
    const auto layer = CpuBackend(isa).prepare(moe.weights, {.threads = &threads});
    Call call(*layer, p, 24);
    call.x = exact.x;
    call.args.hidden_states = call.x.data();
    layer->apply(call.args);
    EXPECT_LE(layer_error(call.y, exact.y), bf16_error / 5) << to_string(isa);
    EXPECT_LE(layer_error(call.y, exact.y), 4e-4) << to_string(isa);
  }
}

TEST(CpuBackend, QuantisedRowsAreThoseOfTheFormatForEveryInstructionSet) {
  Random random(6);
  std::vector<float> x(16 * 400);
  for (size_t i = 0; i < x.size(); ++i) {
    // Normal values, exact ties between codes, zeros, tiny and huge blocks.
    constexpr float kTies[] = {0.25f, 0.75f, 1.25f, 1.75f, 2.5f, 3.5f, 5.0f, 6.0f};
    const auto kind = (i / 16) % 5;
    x[i] = kind == 0   ? random.normal()
           : kind == 1 ? kTies[random.below(8)] * (random.below(2) ? 1.0f : -1.0f)
           : kind == 2 ? random.normal() * 1e-4f
           : kind == 3 ? random.normal() * 1e5f
                       : 0.0f;
  }
  for (const CpuIsa isa : available_cpu_isas()) {
    const cpu::Kernels& kernels = cpu::kernels_for(isa);
    for (const float global : {1.0f, 0.0016f, 3.7f}) {
      std::vector<std::byte> row(cpu::row_bytes(cpu::RowFormat::kFp4, x.size()));
      kernels.quantize_fp4(x.data(), static_cast<int64_t>(x.size()), global, row.data());
      for (size_t b = 0; b < x.size() / 16; ++b) {
        uint8_t codes[16];
        const uint8_t scale = nvfp4_quantize_block(&x[16 * b], {global}, codes);
        cpu::Fp4Block block;
        std::memcpy(&block, row.data() + b * sizeof block, sizeof block);
        ASSERT_EQ(block.scale, e4m3_to_float(scale)) << to_string(isa) << " block " << b;
        for (int i = 0; i < 16; ++i) {
          ASSERT_EQ(block.twice[i], 2 * e2m1_to_float(codes[i]))
              << to_string(isa) << " value " << x[16 * b + i];
        }
      }
    }
  }
}

TEST(CpuBackend, RowsOfFp4DivideExactlyWhereATieDecides) {
  for (const CpuIsa isa : available_cpu_isas()) {
    const cpu::Kernels& kernels = cpu::kernels_for(isa);
    for (const Fp4Tie& tie : fp4_ties()) {
      cpu::Fp4Block block;
      std::vector<std::byte> row(cpu::row_bytes(cpu::RowFormat::kFp4, 16));
      kernels.quantize_fp4(tie.x.data(), 16, tie.global, row.data());
      std::memcpy(&block, row.data(), sizeof block);
      ASSERT_EQ(block.scale, e4m3_to_float(tie.scale)) << to_string(isa) << " " << tie.global;
      for (int i = 0; tie.codes_known && i < 16; ++i) {
        ASSERT_EQ(block.twice[i], 2 * tie.values[i])
            << to_string(isa) << " global " << tie.global << " " << tie.x[i];
      }
    }
  }
}

TEST(CpuBackend, InfinityAndNanShowInTheOutput) {
  ThreadPool threads(1);
  const MoeProblem p = problem(64, 32, 2, 1);
  const RandomMoe moe = make_random_moe({.problem = p});
  for (const auto precision : kNvfp4Precisions) {
    const auto layer =
        CpuBackend().prepare(moe.weights, {.precision = precision, .threads = &threads});
    for (const float bad :
         {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
      Call call(*layer, p, 2);
      call.x[3] = bad;
      layer->apply(call.args);
      for (int i = 0; i < 64; ++i) ASSERT_FALSE(std::isfinite(call.y[i]));
      for (int i = 64; i < 128; ++i) ASSERT_TRUE(std::isfinite(call.y[i]));
    }
  }
}

std::string prepare_message(const MoeLayerWeights& weights, ActivationPrecision precision) {
  ThreadPool threads(2);
  try {
    CpuBackend().prepare(weights, {.precision = precision, .threads = &threads});
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kBadInput);
    return error.what();
  }
  return "nothing thrown";
}

TEST(CpuBackend, ABadScaleIsAnErrorThatNamesTheTensor) {
  using Projection = RandomMoe::Projection;
  RandomMoe nan = make_random_moe({.problem = problem(64, 32, 4, 1)});
  nan.block_scale(2, Projection::kDown, 5, 1) = 0x7f;
  EXPECT_THAT(prepare_message(nan.weights, ActivationPrecision::kBf16),
              ::testing::AllOf(::testing::HasSubstr("experts.2.down_proj.weight_scale"),
                               ::testing::HasSubstr("NaN")));
  RandomMoe negative = make_random_moe({.problem = problem(64, 32, 4, 1)});
  negative.block_scale(1, Projection::kUp, 31, 3) = 0x90;
  EXPECT_THAT(prepare_message(negative.weights, ActivationPrecision::kFp4),
              ::testing::HasSubstr("experts.1.up_proj.weight_scale"));
  RandomMoe global = make_random_moe({.problem = problem(64, 32, 4, 1)});
  global.linear(3, Projection::kGate).global_scale.value = NAN;
  EXPECT_THAT(prepare_message(global.weights, ActivationPrecision::kBf16),
              ::testing::HasSubstr("experts.3.gate_proj"));
}

TEST(CpuBackend, StaticActivationsWithoutACalibratedScaleAreAnErrorThatSaysWhatToDo) {
  const RandomMoe moe = make_random_moe({.problem = problem(64, 32, 2, 1), .input_scales = false});
  EXPECT_THAT(prepare_message(moe.weights, ActivationPrecision::kFp4Static),
              ::testing::HasSubstr("--activations fp4"));
}

TEST(CpuBackend, AWorkspaceTooSmallIsRefusedBeforeTheOutputIsTouched) {
  ThreadPool threads(1);
  const RandomMoe moe = make_random_moe({.problem = problem(64, 32, 2, 1)});
  const auto layer = CpuBackend().prepare(moe.weights, {.threads = &threads});
  Call call(*layer, moe.weights.problem, 3);
  call.args.workspace = call.args.workspace.first(call.args.workspace.size() - 1);
  call.y.assign(call.y.size(), 5.0f);
  EXPECT_THROW(layer->apply(call.args), Error);
  EXPECT_THAT(call.y, ::testing::Each(5.0f));
}

TEST(CpuBackend, WeightsTakeNineSixteenthsOfAByteEach) {
  ThreadPool threads(1);
  const RandomMoe moe = make_random_moe({.problem = problem(256, 128, 2, 1)});
  const auto layer = CpuBackend().prepare(moe.weights, {.threads = &threads});
  EXPECT_EQ(layer->weight_bytes(), 2 * 3 * 256 * 128 * 9 / 16);
}

}  // namespace
}  // namespace moe4::testing
