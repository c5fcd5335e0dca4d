// The CPU's LinearGroup: packed rows, kernels with extra instructions, quantised inputs.
#include "ops/linear/cpu/packed_linear.h"

#include <gtest/gtest.h>

#include <cstring>

#include "moe/dequantize.h"
#include "ops/linear_formats.h"

namespace moe4 {
namespace {

using namespace moe4::testing;

TEST(LinearGroup, QuantisedActivationsFollowTheirKey) {
  struct Mode {
    LinearFormat format;
    LinearOptions options;
  };
  const Mode modes[] = {
      {kLinearFormats[3], {.activations = ActivationMode::kFp4}},
      {kLinearFormats[3], {.activations = ActivationMode::kFp4Static}},
      {kLinearFormats[4], {.fp8_activations = true}},
      {kLinearFormats[5], {.fp8_activations = true}},
      {kLinearFormats[6], {.fp8_activations = true}},
  };
  ThreadPool threads(2);
  for (const Mode& mode : modes) {
    SCOPED_TRACE(mode.format.name);
    RandomMoe memory;
    const LinearWeights weights = make_linear(memory, mode.format, 40, 272);
    const LinearCase group = one_linear(weights, mode.options);
    const OwnedRows x = linear_inputs(9, 272);
    const auto exact = exact_linears(group, x);
    each_implementation<LinearGroup>(
        group.problem(),
        [&](const Implementation<LinearGroup>& implementation, const OpOptions& options) {
          const auto op = implementation.prepare(group.problem(), group.weights, options);
          EXPECT_LT(relative_error(run_linears(*op, x, threads)[0], exact[0]), 5e-7);
        },
        threads);
    // And it is not what unquantised inputs give.
    EXPECT_GT(relative_error(exact[0], exact_linears(one_linear(weights, {}), x)[0]), 1e-3);
  }
}

TEST(PackedLinear, DecodesRowsExactly) {
  for (const LinearFormat& format : kLinearFormats) {
    RandomMoe memory;
    const LinearWeights weights = make_linear(memory, format, 130, 288);
    const PackedLinear linear(weights, {});
    std::vector<float> row(288), expected_row(288);
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
  OwnedRows x = linear_inputs(tokens, k);
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

TEST(PackedLinear, AStaticInputScaleThatIsMissingIsAnError) {
  RandomMoe memory;
  LinearWeights weights = make_linear(memory, kLinearFormats[4], 4, 32);
  weights.input_scale.reset();
  EXPECT_NO_THROW(PackedLinear(weights, {}));
  EXPECT_THROW(PackedLinear(weights, {.fp8_activations = true}), Error);
}

}  // namespace
}  // namespace moe4
