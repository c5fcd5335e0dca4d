// LinearGroup in every weight format, against exact float64 sums.
#include <gtest/gtest.h>

#include "moe/dequantize.h"
#include "ops/linear_formats.h"

namespace moe4 {
namespace {

using namespace moe4::testing;

// All of a call's rows are prompts', or all are generated.
std::vector<int64_t> phases(int64_t tokens) { return {-1, tokens}; }

TEST(LinearGroup, EveryFormatEqualsTheExactSum) {
  ThreadPool threads(2);
  for (const LinearFormat& format : kLinearFormats) {
    // 272 is no multiple of the row padding nor of 128; 67 rows end inside a tile.
    for (const auto& [n, k] :
         {std::pair<int64_t, int64_t>{67, 272}, {1, 32}, {200, 16}, {131, 1088}}) {
      if (k % block_inputs(format) != 0) continue;
      SCOPED_TRACE(std::string(format.name) + " " + std::to_string(n) + " x " + std::to_string(k));
      RandomMoe memory;
      const LinearCase group = one_linear(make_linear(memory, format, n, k), format.options);
      if (format.options.activations != ActivationMode::kAuto && activation_formats().size() > 1) {
        continue;
      }
      for (const int64_t tokens : {37, 15, 1}) {
        const OwnedRows x = linear_inputs(tokens, k);
        const auto exact = exact_linears(group, x);
        each_implementation<LinearGroup>(
            group.problem(),
            [&, k = k](const Implementation<LinearGroup>& implementation,
                       const OpOptions& options) {
              const auto op = implementation.prepare(group.problem(), group.weights, options);
              for (const int64_t decodes : phases(tokens)) {
                for (const RowFormat in : activation_formats()) {
                  for (const RowFormat out : activation_formats()) {
                    OwnedRows rows = x;
                    const auto y = run_linears(*op, rows.as(in), threads, decodes, out)[0];
                    EXPECT_LT(
                        relative_error(y, exact[0]),
                        out == RowFormat::kF32 ? linear_tolerance(format, options, k) : 0x1p-8)
                        << tokens << " tokens, " << (decodes < 0 ? "prompt" : "decode") << ", in "
                        << element_bytes(in) << " bytes, out " << element_bytes(out);
                  }
                }
              }
            },
            threads);
      }
    }
  }
}

TEST(LinearGroup, ATokenHasTheSameBitsInAnyBatchOfItsPhaseOnAnyNumberOfThreads) {
  constexpr int64_t n = 300, k = 512, tokens = 75;  // more than two tiles
  ThreadPool single(1), three(3);
  for (const LinearFormat& format : kLinearFormats) {
    SCOPED_TRACE(format.name);
    RandomMoe memory;
    const LinearCase group = one_linear(make_linear(memory, format, n, k), format.options);
    if (format.options.activations != ActivationMode::kAuto && activation_formats().size() > 1) {
      continue;
    }
    const OwnedRows x = linear_inputs(tokens, k);
    each_implementation<LinearGroup>(
        group.problem(),
        [&](const Implementation<LinearGroup>& implementation, const OpOptions& options) {
          const auto op = implementation.prepare(group.problem(), group.weights, options);
          ASSERT_EQ(op->batch_invariant(),
                    options.device.is_cpu() ? BatchInvariance::kFull : BatchInvariance::kByPhase);
          std::vector<float> of_phase[2];
          for (const bool decode : {false, true}) {
            std::vector<float>& all = of_phase[decode];
            all = run_linears(*op, x, single, decode ? tokens : -1)[0];
            EXPECT_TRUE(same_bits(run_linears(*op, x, three, decode ? tokens : 0)[0], all));
            for (const int64_t batch : {1, 2, 5, 14, 35}) {
              for (int64_t t = 0; t + batch <= tokens; t += batch) {
                const OwnedRows part = some_rows(x, t, batch);
                ASSERT_TRUE(same_bits(run_linears(*op, part, three, decode ? batch : 0)[0],
                                      std::span(all).subspan(t * n, batch * n)))
                    << (decode ? "decode" : "prompt") << " batch " << batch << " token " << t;
              }
            }
          }
          // Both phases in one call.
          constexpr int64_t kDecodes = 9;
          const std::vector<float> mixed = run_linears(*op, x, three, kDecodes)[0];
          EXPECT_TRUE(same_bits(std::span(mixed).first(kDecodes * n),
                                std::span(of_phase[1]).first(kDecodes * n)));
          EXPECT_TRUE(same_bits(std::span(mixed).subspan(kDecodes * n),
                                std::span(of_phase[0]).subspan(kDecodes * n)));
        },
        three);
  }
}

TEST(LinearGroup, ManyGeneratedTokensHaveTheBitsOfAFewOnAGpu) {
  constexpr int64_t tokens = 256, few = 8;
  ThreadPool threads(2);
  if (std::ranges::all_of(op_options(threads), [](auto& o) { return o.device.is_cpu(); })) {
    GTEST_SKIP() << "no GPU";
  }
  const LinearFormat *bf16 = &kLinearFormats[0], *nvfp4 = &kLinearFormats[3],
                     *fp8 = &kLinearFormats[4], *fp8_block = &kLinearFormats[6];
  struct Shape {
    int64_t rows, k, bf16_rows;
  };
  // Tiles that SMs share, several for each of them, and long rows in shares.
  for (const Shape& shape :
       {Shape{10300, 1088, 0}, {10300, 1088, 40}, {26000, 1088, 40}, {600, 4096, 40}}) {
    for (const LinearFormat* format : {fp8, nvfp4, fp8_block}) {
      SCOPED_TRACE(std::string(format->name) + " " + std::to_string(shape.rows));
      RandomMoe memory;
      LinearCase group = one_linear(make_linear(memory, *format, shape.rows, shape.k), {});
      if (shape.bf16_rows > 0) {
        group.weights.members.push_back(make_linear(memory, *bf16, shape.bf16_rows, shape.k));
        group.options.emplace_back();
      }
      each_implementation<LinearGroup>(
          group.problem(),
          [&](const Implementation<LinearGroup>& implementation, const OpOptions& options) {
            if (options.device.is_cpu()) return;
            const OwnedRows x = linear_inputs(tokens, shape.k);
            const auto op = implementation.prepare(group.problem(), group.weights, options);
            std::vector<std::vector<float>> expected(group.options.size());
            for (int64_t t = 0; t < tokens; t += few) {
              const auto y = run_linears(*op, some_rows(x, t, few), threads, few);
              for (size_t i = 0; i < y.size(); ++i) {
                expected[i].insert(expected[i].end(), y[i].begin(), y[i].end());
              }
            }
            for (const int64_t count : {9, 17, 32, 33, 64, 70, 128, 130, 200, 256}) {
              const RowFormat in = count % 2 == 0 ? RowFormat::kBf16 : RowFormat::kF32;
              const auto y = run_linears(*op, some_rows(x, 0, count).as(in), threads, count);
              for (size_t i = 0; i < y.size(); ++i) {
                EXPECT_TRUE(same_bits(y[i], std::span(expected[i]).first(y[i].size())))
                    << "member " << i << ", " << count << " tokens";
              }
            }
          },
          threads);
    }
  }
}

TEST(LinearGroup, MembersGiveTheBitsThatTheyGiveAlone) {
  RandomMoe memory;
  const LinearFormat *bf16 = &kLinearFormats[0], *nvfp4 = &kLinearFormats[3],
                     *fp8 = &kLinearFormats[4], *fp8_block = &kLinearFormats[6];
  const LinearWeights members[] = {
      make_linear(memory, *bf16, 100, 64),     make_linear(memory, *nvfp4, 70, 64),
      make_linear(memory, *fp8_block, 1, 64),  make_linear(memory, *nvfp4, 70, 64),
      make_linear(memory, *bf16, 1, 64),       make_linear(memory, *fp8, 33, 64),
      make_linear(memory, *fp8_block, 50, 64), make_linear(memory, *fp8, 16, 64)};
  // Two NVFP4 linears share their rows, the third takes them as they are.
  std::vector<LinearOptions> settings(std::size(members));
  settings[3].exact_inputs = true;
  ThreadPool threads(2);
  const OwnedRows x = linear_inputs(4, 64);
  const LinearCase group{{{std::begin(members), std::end(members)}}, settings};
  each_implementation<LinearGroup>(
      group.problem(),
      [&](const Implementation<LinearGroup>& implementation, const OpOptions& options) {
        const auto op = implementation.prepare(group.problem(), group.weights, options);
        for (const int64_t decodes : {-1, 1, 4}) {
          const auto together = run_linears(*op, x, threads, decodes);
          for (size_t i = 0; i < settings.size(); ++i) {
            const LinearCase alone = one_linear(members[i], settings[i]);
            const auto single = implementation.prepare(alone.problem(), alone.weights, options);
            EXPECT_TRUE(same_bits(run_linears(*single, x, threads, decodes)[0], together[i]))
                << i << " with " << decodes << " decodes";
          }
        }
      },
      threads);
}

TEST(LinearGroup, RowsOfWeightsMayBeApart) {
  ThreadPool threads(2);
  RandomMoe memory;
  LinearWeights weights = make_linear(memory, kLinearFormats[0], 60, 96);
  // Every other row, columns 32 to 95 of them.
  weights.out_features = 30;
  weights.in_features = 64;
  weights.weight.row_stride = int64_t{2} * 96;
  weights.weight.shape = {30, 64};
  weights.weight.data = weights.weight.as<Bf16>() + 32;
  weights.bias.row_stride = 2;
  weights.bias.shape = {30};
  const LinearCase group = one_linear(weights, {});
  const OwnedRows x = linear_inputs(5, 64);
  const auto exact = exact_linears(group, x);
  each_implementation<LinearGroup>(
      group.problem(),
      [&](const Implementation<LinearGroup>& implementation, const OpOptions& options) {
        const auto op = implementation.prepare(group.problem(), group.weights, options);
        for (const int64_t decodes : phases(5)) {
          EXPECT_LT(relative_error(run_linears(*op, x, threads, decodes)[0], exact[0]),
                    linear_tolerance(kLinearFormats[0], options, 64));
        }
      },
      threads);
}

TEST(LinearGroup, AWrongScaleOfOneBlockIsSeen) {
  ThreadPool threads(1);
  RandomMoe memory;
  const LinearFormat& nvfp4 = kLinearFormats[3];
  const double tolerance = nvfp4.cpu_tolerance;
  const LinearWeights weights = make_linear(memory, nvfp4, 64, 256);
  const LinearCase group = one_linear(weights, {});
  const OwnedRows x = linear_inputs(5, 256);
  const auto exact = exact_linears(group, x);
  static_cast<uint8_t*>(const_cast<void*>(weights.scale.data))[17] ^= 0x10;
  each_implementation<LinearGroup>(
      group.problem(),
      [&](const Implementation<LinearGroup>& implementation, const OpOptions& options) {
        const auto op = implementation.prepare(group.problem(), group.weights, options);
        for (const int64_t decodes : phases(5)) {
          EXPECT_GT(relative_error(run_linears(*op, x, threads, decodes)[0], exact[0]), tolerance);
        }
      },
      threads);
}

// The numbers and their order are those of an F32 linear of the decoded weights.
TEST(LinearGroup, BlocksOfGgmlGiveTheBitsOfTheirFloat32Weights) {
  ThreadPool threads(2);
  for (const LinearFormat& format : kLinearFormats) {
    if (!format.scheme.is_ggml()) continue;
    // The second has as many rows as no panel, the last group of inputs is short.
    for (const auto& [n, k] : {std::pair<int64_t, int64_t>{64, 256}, {75, 1056}}) {
      if (k % block_inputs(format) != 0) continue;
      SCOPED_TRACE(std::string(format.name) + " " + std::to_string(n) + " x " + std::to_string(k));
      RandomMoe memory;
      const LinearCase blocks = one_linear(make_linear(memory, format, n, k), {});
      LinearCase floats = blocks;
      LinearWeights& decoded = floats.weights.members.front();
      std::vector<float> values(static_cast<size_t>(n * k));
      for (int64_t r = 0; r < n; ++r) {
        dequantize_row(blocks.weights.members.front(), r, values.data() + r * k);
      }
      decoded.scheme = kUnquantized;
      decoded.weight = {.data = values.data(), .dtype = DType::kF32, .shape = {n, k}};
      each_implementation<LinearGroup>(
          blocks.problem(),
          [&, k = k](const Implementation<LinearGroup>& implementation, const OpOptions& options) {
            const auto op = implementation.prepare(blocks.problem(), blocks.weights, options);
            const auto same = implementation.prepare(floats.problem(), floats.weights, options);
            for (const int64_t tokens : {1, 2, 5, 12, 13, 40}) {
              const OwnedRows x = linear_inputs(tokens, k);
              for (const int64_t decodes : phases(tokens)) {
                EXPECT_TRUE(same_bits(run_linears(*op, x, threads, decodes)[0],
                                      run_linears(*same, x, threads, decodes)[0]))
                    << tokens << " tokens, " << (decodes < 0 ? "prompt" : "decode");
              }
            }
          },
          threads);
    }
  }
}

// Of each block's factors, too.
TEST(LinearGroup, AWrongFactorOfOneBlockOfGgmlIsSeen) {
  ThreadPool threads(1);
  for (const LinearFormat& format : kLinearFormats) {
    if (!format.scheme.is_ggml()) continue;
    SCOPED_TRACE(format.name);
    RandomMoe memory;
    LinearFormat plain = format;
    const LinearWeights weights = make_linear(memory, plain, 64, 256, /*bias=*/false);
    const LinearCase group = one_linear(weights, {});
    const OwnedRows x = linear_inputs(5, 256);
    const auto exact = exact_linears(group, x);
    for (const int64_t byte : ggml_factor_bytes(format)) {
      auto* at = static_cast<uint8_t*>(const_cast<void*>(weights.weight.data)) +
                 17 * weights.weight.dim(1) + byte;
      *at ^= 0x11;
      each_implementation<LinearGroup>(
          group.problem(),
          [&](const Implementation<LinearGroup>& implementation, const OpOptions& options) {
            const auto op = implementation.prepare(group.problem(), group.weights, options);
            for (const int64_t decodes : phases(5)) {
              EXPECT_GT(relative_error(run_linears(*op, x, threads, decodes)[0], exact[0]), 1e-4)
                  << "byte " << byte;
            }
          },
          threads);
      *at ^= 0x11;
    }
  }
}

TEST(LinearGroup, NanInFp8WeightsOrScalesIsAnErrorThatNamesTheTensor) {
  ThreadPool threads(1);
  for (const LinearFormat& format : {kLinearFormats[3], kLinearFormats[4]}) {
    RandomMoe memory;
    const LinearWeights weights = make_linear(memory, format, 4, 32);
    const bool nvfp4 = format.scheme.is_nvfp4();
    const TensorView& view = nvfp4 ? weights.scale : weights.weight;
    static_cast<uint8_t*>(const_cast<void*>(view.data))[5] = 0x7f;
    const LinearCase group = one_linear(weights, {});
    each_implementation<LinearGroup>(
        group.problem(),
        [&](const Implementation<LinearGroup>& implementation, const OpOptions& options) {
          try {
            implementation.prepare(group.problem(), group.weights, options);
            FAIL() << "a NaN was taken";
          } catch (const Error& error) {
            EXPECT_EQ(error.code(), ErrorCode::kBadInput);
            EXPECT_NE(
                std::string(error.what()).find(nvfp4 ? "linear.weight_scale" : "linear.weight"),
                std::string::npos);
          }
        },
        threads);
  }
}

}  // namespace
}  // namespace moe4
