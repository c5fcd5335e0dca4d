// LinearGroup in every weight format on every instruction set, against exact float64 sums.
#include <gtest/gtest.h>

#include <cstring>

#include "moe/dequantize.h"
#include "ops/conformance.h"
#include "ops/linear/cpu/packed_linear.h"
#include "ops/linear/linear_group.h"

namespace moe4 {
namespace {

using namespace moe4::testing;

struct Format {
  const char* name;
  QuantScheme scheme;
  DType float_dtype = DType::kBF16;
  LinearOptions options = {};
  double tolerance = 5e-7;
};

const Format kFormats[] = {
    {"bf16", kUnquantized, DType::kBF16},
    {"f16", kUnquantized, DType::kF16},
    {"f32", kUnquantized, DType::kF32},
    {"nvfp4, inputs as integers of 15 bits", kW4A4, DType::kBF16, {}, 1e-4},
    {"fp8_tensor", {{QuantFormat::kFp8Tensor, false}, QuantKey{QuantFormat::kFp8Tensor, false}}},
    {"fp8_channel", {{QuantFormat::kFp8Channel, false}, QuantKey{QuantFormat::kFp8Token, true}}},
    {"fp8_block", {{QuantFormat::kFp8Block128, false}, QuantKey{QuantFormat::kFp8Block128, true}}},
    {"nvfp4, FP4 inputs", kW4A4, DType::kBF16, {.activations = ActivationMode::kFp4}},
    {"nvfp4, exact inputs", kW4A4, DType::kBF16, {.exact_inputs = true}},
};

LinearWeights make_linear(RandomMoe& memory, const Format& format, int64_t n, int64_t k,
                          bool bias = true) {
  Random random(static_cast<uint64_t>(n * 1000 + k));
  RandomMoeOptions options{.scheme = format.scheme, .awkward_scales = true, .biases = bias};
  options.float_dtype = format.float_dtype;
  return moe4::testing::internal::random_linear(memory, options, random, "linear", n, k, 1.0f);
}

OwnedRows make_inputs(int64_t tokens, int64_t k) { return OwnedRows(tokens, k, 99, 1.0f); }

// One linear, or several of the same inputs.
struct Group {
  LinearGroup::Weights weights;
  std::vector<LinearOptions> options;

  LinearGroup::Problem problem() const { return LinearGroup::problem_of(weights, options); }
};

Group one(const LinearWeights& weights, const LinearOptions& options) {
  return {{{weights}}, {options}};
}

// Outputs of all members, one after the other.
std::vector<std::vector<float>> run(const Prepared<LinearGroup>& op, OwnedRows x,
                                    ThreadPool& threads) {
  std::vector<OwnedRows> y;
  std::vector<Rows> views;
  for (const LinearGroup::Member& member : op.problem().members) {
    y.emplace_back(x.rows, member.out_features, -7.0f);
  }
  for (OwnedRows& rows : y) views.push_back(rows.view());
  run_op(op, {.x = x.view(), .y = views}, threads);
  std::vector<std::vector<float>> results;
  for (OwnedRows& rows : y) results.push_back(rows.dense());
  return results;
}

std::vector<std::vector<float>> expected(const Group& group, const OwnedRows& x) {
  ThreadPool threads(1);
  return run(*reference_of<LinearGroup>().prepare(group.problem(), group.weights, {}), x, threads);
}

TEST(LinearGroup, EveryFormatEqualsTheExactSum) {
  ThreadPool threads(2);
  for (const Format& format : kFormats) {
    // 272 is no multiple of the row padding nor of 128; 67 rows end inside a tile.
    for (const auto& [n, k] : {std::pair<int64_t, int64_t>{67, 272}, {1, 32}, {200, 16}}) {
      SCOPED_TRACE(std::string(format.name) + " " + std::to_string(n) + " x " + std::to_string(k));
      RandomMoe memory;
      const Group group = one(make_linear(memory, format, n, k), format.options);
      for (const int64_t tokens : {15, 1}) {
        const OwnedRows x = make_inputs(tokens, k);
        const auto exact = expected(group, x);
        each_implementation<LinearGroup>(
            group.problem(),
            [&](const Implementation<LinearGroup>& implementation, const OpOptions& options) {
              const auto op = implementation.prepare(group.problem(), group.weights, options);
              EXPECT_LT(relative_error(run(*op, x, threads)[0], exact[0]), format.tolerance);
            },
            threads);
      }
    }
  }
}

TEST(LinearGroup, ATokenHasTheSameBitsInAnyBatchOnAnyNumberOfThreads) {
  constexpr int64_t n = 300, k = 512, tokens = 29;  // more than two tiles
  ThreadPool single(1), three(3);
  for (const Format& format : kFormats) {
    SCOPED_TRACE(format.name);
    RandomMoe memory;
    const Group group = one(make_linear(memory, format, n, k), format.options);
    OwnedRows x = make_inputs(tokens, k);
    each_implementation<LinearGroup>(
        group.problem(),
        [&](const Implementation<LinearGroup>& implementation, const OpOptions& options) {
          const auto op = implementation.prepare(group.problem(), group.weights, options);
          ASSERT_EQ(op->batch_invariant(), BatchInvariance::kFull);
          const std::vector<float> all = run(*op, x, single)[0];
          EXPECT_TRUE(same_bits(run(*op, x, three)[0], all));
          for (int64_t batch : {1, 2, 5, 14}) {
            for (int64_t t = 0; t + batch <= tokens; t += batch) {
              OwnedRows part(batch, k);
              std::copy_n(x.view().row(t), batch * part.view().stride, part.view().row(0));
              ASSERT_TRUE(
                  same_bits(run(*op, part, three)[0], std::span(all).subspan(t * n, batch * n)))
                  << "batch " << batch << " token " << t;
            }
          }
        },
        three);
  }
}

TEST(LinearGroup, QuantisedActivationsFollowTheirKey) {
  struct Mode {
    Format format;
    LinearOptions options;
  };
  const Mode modes[] = {
      {kFormats[3], {.activations = ActivationMode::kFp4}},
      {kFormats[3], {.activations = ActivationMode::kFp4Static}},
      {kFormats[4], {.fp8_activations = true}},
      {kFormats[5], {.fp8_activations = true}},
      {kFormats[6], {.fp8_activations = true}},
  };
  ThreadPool threads(2);
  for (const Mode& mode : modes) {
    SCOPED_TRACE(mode.format.name);
    RandomMoe memory;
    const LinearWeights weights = make_linear(memory, mode.format, 40, 272);
    const Group group = one(weights, mode.options);
    const OwnedRows x = make_inputs(9, 272);
    const auto exact = expected(group, x);
    each_implementation<LinearGroup>(
        group.problem(),
        [&](const Implementation<LinearGroup>& implementation, const OpOptions& options) {
          const auto op = implementation.prepare(group.problem(), group.weights, options);
          EXPECT_LT(relative_error(run(*op, x, threads)[0], exact[0]), 5e-7);
        },
        threads);
    // And it is not what unquantised inputs give.
    EXPECT_GT(relative_error(exact[0], expected(one(weights, {}), x)[0]), 1e-3);
  }
}

TEST(LinearGroup, MembersGiveTheBitsThatTheyGiveAlone) {
  RandomMoe memory;
  const LinearWeights members[] = {
      make_linear(memory, kFormats[0], 100, 64), make_linear(memory, kFormats[3], 70, 64),
      make_linear(memory, kFormats[6], 1, 64), make_linear(memory, kFormats[3], 70, 64)};
  // Two NVFP4 linears share their rows, the third takes them as they are.
  const std::vector<LinearOptions> settings = {{}, {}, {}, {.exact_inputs = true}};
  ThreadPool threads(2);
  const OwnedRows x = make_inputs(4, 64);
  const Group group{{{std::begin(members), std::end(members)}}, settings};
  each_implementation<LinearGroup>(
      group.problem(),
      [&](const Implementation<LinearGroup>& implementation, const OpOptions& options) {
        const auto op = implementation.prepare(group.problem(), group.weights, options);
        const auto together = run(*op, x, threads);
        for (size_t i = 0; i < settings.size(); ++i) {
          const Group alone = one(members[i], settings[i]);
          const auto single = implementation.prepare(alone.problem(), alone.weights, options);
          EXPECT_TRUE(same_bits(run(*single, x, threads)[0], together[i])) << i;
        }
      },
      threads);
}

TEST(LinearGroup, AWrongScaleOfOneBlockIsSeen) {
  ThreadPool threads(1);
  RandomMoe memory;
  const LinearWeights weights = make_linear(memory, kFormats[3], 64, 256);
  const Group group = one(weights, {});
  const OwnedRows x = make_inputs(5, 256);
  const auto exact = expected(group, x);
  static_cast<uint8_t*>(const_cast<void*>(weights.scale.data))[17] ^= 0x10;
  const auto op = prepare<LinearGroup>(group.problem(), group.weights, {.threads = &threads});
  EXPECT_GT(relative_error(run(*op, x, threads)[0], exact[0]), kFormats[3].tolerance);
}

TEST(PackedLinear, DecodesRowsExactly) {
  for (const Format& format : kFormats) {
    RandomMoe memory;
    const LinearWeights weights = make_linear(memory, format, 130, 272);
    const PackedLinear linear(weights, {});
    std::vector<float> row(272), expected_row(272);
    for (int64_t n : {0, 1, 31, 32, 129}) {
      linear.decode_row(n, row.data());
      dequantize_row(weights, n, expected_row.data());
      EXPECT_EQ(row, expected_row) << format.name << " row " << n;
    }
  }
}

// Kernels with extra instructions (VBMI, i8mm) against those of the plain level.
TEST(PackedLinear, ExtraInstructionsGiveTheSameBits) {
  if (cpu_isa() == CpuIsa::kPortable || cpu_isa() == CpuIsa::kAvx2) {
    GTEST_SKIP() << "no kernels with extra instructions for " << to_string(cpu_isa());
  }
#if defined(__x86_64__)
  const cpu::Kernels &plain = cpu::avx512vnni_kernels(), &best = cpu::kernels_for(CpuIsa::kAvx512);
#elif defined(__aarch64__)
  const cpu::Kernels &plain = cpu::neon_dotprod_kernels(), &best = cpu::kernels_for(CpuIsa::kNeon);
#endif
  constexpr int64_t k = 288, tokens = 15;
  Random random(7);
  AlignedBuffer panel(static_cast<size_t>(cpu::panel_bytes(cpu::PanelFormat::kFp8Groups, k)));
  AlignedBuffer scratch(cpu::kScratchBytes), sums(2 * tokens * cpu::kPanelRows * sizeof(float));
  OwnedRows x = make_inputs(tokens, k);
  for (const bool fp4 : {false, true}) {
    // Any bytes but NaN; scales of FP8 groups, and of FP4 blocks, are bytes of ordinary numbers.
    for (size_t i = 0; i < panel.size(); ++i) {
      panel.data()[i] = static_cast<std::byte>(random.below(0x7f) | (fp4 ? 0 : i % 2 << 7));
    }
    std::vector<std::vector<std::byte>> rows;
    std::vector<const std::byte*> pointers;
    for (int64_t t = 0; t < tokens; ++t) {
      const float* in = x.view().row(t);
      rows.emplace_back(cpu::row_bytes(fp4 ? cpu::RowFormat::kFp4 : cpu::RowFormat::kFloat, k));
      if (fp4) {
        plain.quantize_fp4(in, k, 1.0f, rows.back().data());
      } else {
        std::memcpy(rows.back().data(), in, k * sizeof(float));
      }
    }
    for (const auto& row : rows) pointers.push_back(row.data());
    auto* a = reinterpret_cast<float*>(sums.data());
    for (int64_t n = 1; n <= tokens; ++n) {
      cpu::PanelArgs args{.panel = panel.data(),
                          .in_features = k,
                          .rows = pointers.data(),
                          .num_tokens = n,
                          .sums = a,
                          .scratch = scratch.data()};
      (fp4 ? plain.nvfp4_fp4 : plain.dense_fp8)(args);
      args.sums = a + tokens * cpu::kPanelRows;
      (fp4 ? best.nvfp4_fp4 : best.dense_fp8)(args);
      ASSERT_EQ(std::memcmp(a, args.sums, n * cpu::kPanelRows * sizeof(float)), 0)
          << (fp4 ? "FP4 rows, " : "FP8 panel, ") << n << " tokens";
    }
  }
}

TEST(PackedLinear, NanInFp8WeightsOrScalesIsAnErrorThatNamesTheTensor) {
  for (const Format& format : {kFormats[3], kFormats[4]}) {
    RandomMoe memory;
    LinearWeights weights = make_linear(memory, format, 4, 32);
    const bool nvfp4 = format.scheme.is_nvfp4();
    const TensorView& view = nvfp4 ? weights.scale : weights.weight;
    static_cast<uint8_t*>(const_cast<void*>(view.data))[5] = 0x7f;
    try {
      const PackedLinear linear(weights, {});
      FAIL() << "a NaN was taken";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kBadInput);
      EXPECT_NE(std::string(error.what()).find(nvfp4 ? "linear.weight_scale" : "linear.weight"),
                std::string::npos);
    }
  }
}

TEST(PackedLinear, AStaticInputScaleThatIsMissingIsAnError) {
  RandomMoe memory;
  LinearWeights weights = make_linear(memory, kFormats[4], 4, 32);
  weights.input_scale.reset();
  EXPECT_NO_THROW(PackedLinear(weights, {}));
  EXPECT_THROW(PackedLinear(weights, {.fp8_activations = true}), Error);
}

}  // namespace
}  // namespace moe4
