// Linears in every weight format on every instruction set, against exact float64 sums.
#include "layers/linear.h"

#include <gtest/gtest.h>

#include <cstring>

#include "base/error.h"
#include "layers/embedding.h"
#include "moe/activation_quant.h"
#include "moe/dequantize.h"
#include "support/random_moe.h"
#include "support/relative_error.h"

namespace moe4 {
namespace {

using testing::Random;
using testing::RandomMoe;
using testing::RandomMoeOptions;
using testing::relative_error;

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
  return testing::internal::random_linear(memory, options, random, "linear", n, k, 1.0f);
}

// Rows of `tokens` inputs, padded with zeros.
std::vector<float> make_inputs(int64_t tokens, int64_t k) {
  Random random(99);
  std::vector<float> x(tokens * padded_row(k));
  for (int64_t t = 0; t < tokens; ++t) {
    for (int64_t i = 0; i < k; ++i) x[t * padded_row(k) + i] = random.normal();
  }
  return x;
}

// The definition: float64 sums over exactly decoded weights and inputs quantised as asked.
std::vector<float> expected(const LinearWeights& w, const std::vector<float>& x, int64_t tokens,
                            const Linear& linear) {
  std::vector<float> y(tokens * w.out_features), row(w.in_features), in(w.in_features);
  for (int64_t n = 0; n < w.out_features; ++n) {
    dequantize_row(w, n, row.data());
    float bias = 0;
    if (!w.bias.empty()) {
      convert_to_float(static_cast<const std::byte*>(w.bias.data) + 2 * n, w.bias.dtype, 1, &bias);
    }
    for (int64_t t = 0; t < tokens; ++t) {
      std::copy_n(x.data() + t * padded_row(w.in_features), w.in_features, in.data());
      if (linear.quantizes_input()) linear.quantize_input(in.data(), in.data());
      double sum = bias;
      for (int64_t k = 0; k < w.in_features; ++k) sum += static_cast<double>(row[k]) * in[k];
      y[t * w.out_features + n] = static_cast<float>(sum);
    }
  }
  return y;
}

std::vector<float> run(const Linear& linear, const std::vector<float>& x, int64_t tokens,
                       CpuIsa isa, int num_threads) {
  ThreadPool threads(num_threads);
  Scratch scratch;
  LayerContext context{threads, layer_kernels(isa), scratch};
  std::vector<float> y(tokens * linear.out_features(), -7.0f);
  apply_linear(
      context,
      {&linear, x.data(), padded_row(linear.in_features()), y.data(), linear.out_features()},
      tokens);
  return y;
}

class LinearOn : public ::testing::TestWithParam<CpuIsa> {};

TEST_P(LinearOn, EveryFormatEqualsTheExactSum) {
  for (const Format& format : kFormats) {
    // 272 is no multiple of the row padding nor of 128; 67 rows end inside a tile.
    for (const auto& [n, k] : {std::pair<int64_t, int64_t>{67, 272}, {1, 32}, {200, 16}}) {
      RandomMoe memory;
      const LinearWeights weights = make_linear(memory, format, n, k);
      const Linear linear(weights, format.options);
      const int64_t tokens = 15;
      const std::vector<float> x = make_inputs(tokens, k);
      EXPECT_LT(relative_error(run(linear, x, tokens, GetParam(), 2),
                               expected(weights, x, tokens, linear)),
                format.tolerance)
          << format.name << " " << n << " x " << k;
    }
  }
}

TEST_P(LinearOn, ATokenHasTheSameBitsInAnyBatchOnAnyNumberOfThreads) {
  constexpr int64_t n = 300, k = 512, tokens = 29;  // more than two tiles
  for (const Format& format : kFormats) {
    RandomMoe memory;
    const Linear linear(make_linear(memory, format, n, k), format.options);
    const std::vector<float> x = make_inputs(tokens, k);
    const std::vector<float> all = run(linear, x, tokens, GetParam(), 1);
    EXPECT_EQ(run(linear, x, tokens, GetParam(), 3), all) << format.name;
    for (int64_t batch : {1, 2, 5, 14}) {
      for (int64_t t = 0; t + batch <= tokens; t += batch) {
        const std::vector<float> part(x.begin() + t * k, x.begin() + (t + batch) * k);
        const std::vector<float> y = run(linear, part, batch, GetParam(), 2);
        ASSERT_EQ(std::memcmp(y.data(), all.data() + t * n, y.size() * sizeof(float)), 0)
            << format.name << " batch " << batch << " token " << t;
      }
    }
  }
}

TEST_P(LinearOn, QuantisedActivationsFollowTheirKey) {
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
  for (const Mode& mode : modes) {
    RandomMoe memory;
    const LinearWeights weights = make_linear(memory, mode.format, 40, 272);
    const Linear linear(weights, mode.options);
    ASSERT_TRUE(linear.quantizes_input()) << mode.format.name;
    const std::vector<float> x = make_inputs(9, 272);
    const std::vector<float> y = run(linear, x, 9, GetParam(), 2);
    EXPECT_LT(relative_error(y, expected(weights, x, 9, linear)), 5e-7) << mode.format.name;
    // And it is not what unquantised inputs give.
    const Linear plain(weights, {});
    EXPECT_GT(relative_error(y, expected(weights, x, 9, plain)), 1e-3) << mode.format.name;
  }
}

TEST_P(LinearOn, SeveralLinearsRunAsOne) {
  RandomMoe memory;
  const Linear a(make_linear(memory, kFormats[0], 100, 64), {});
  const Linear b(make_linear(memory, kFormats[3], 70, 64), {});
  const Linear c(make_linear(memory, kFormats[6], 1, 64), {});
  const std::vector<float> x = make_inputs(4, 64);
  ThreadPool threads(2);
  Scratch scratch;
  LayerContext context{threads, layer_kernels(GetParam()), scratch};
  std::vector<float> ya(400), yb(280), yc(4);
  const LinearCall calls[] = {{&a, x.data(), 64, ya.data(), 100},
                              {&b, x.data(), 64, yb.data(), 70},
                              {&c, x.data(), 64, yc.data(), 1}};
  apply_linears(context, calls, 4);
  EXPECT_EQ(ya, run(a, x, 4, GetParam(), 1));
  EXPECT_EQ(yb, run(b, x, 4, GetParam(), 1));
  EXPECT_EQ(yc, run(c, x, 4, GetParam(), 1));
}

INSTANTIATE_TEST_SUITE_P(Isa, LinearOn, ::testing::ValuesIn(available_cpu_isas()),
                         [](const auto& info) { return std::string(to_string(info.param)); });

TEST(Linear, DecodesRowsExactly) {
  for (const Format& format : kFormats) {
    RandomMoe memory;
    const LinearWeights weights = make_linear(memory, format, 130, 272);
    const Linear linear(weights, {});
    std::vector<float> row(272), expected_row(272);
    for (int64_t n : {0, 1, 31, 32, 129}) {
      linear.decode_row(n, row.data());
      dequantize_row(weights, n, expected_row.data());
      EXPECT_EQ(row, expected_row) << format.name << " row " << n;
    }
  }
}

// Kernels with extra instructions (VBMI, i8mm) against those of the plain level.
TEST(Linear, ExtraInstructionsGiveTheSameBits) {
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
  const std::vector<float> x = make_inputs(tokens, k);
  for (const bool fp4 : {false, true}) {
    // Any bytes but NaN; scales of FP8 groups, and of FP4 blocks, are bytes of ordinary numbers.
    for (size_t i = 0; i < panel.size(); ++i) {
      panel.data()[i] = static_cast<std::byte>(random.below(0x7f) | (fp4 ? 0 : i % 2 << 7));
    }
    std::vector<std::vector<std::byte>> rows;
    std::vector<const std::byte*> pointers;
    for (int64_t t = 0; t < tokens; ++t) {
      const float* in = x.data() + t * padded_row(k);
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

TEST(Embedding, LooksRowsUpExactlyAndKeepsItsOwnCopy) {
  ThreadPool threads(2);
  for (const Format& format : kFormats) {
    RandomMoe memory;
    const LinearWeights weights = make_linear(memory, format, 130, 272);
    std::vector<float> expected_row(272), row(272);
    dequantize_row(weights, 129, expected_row.data());
    const Embedding table(weights, threads);
    memory.storage.clear();
    table.look_up(129, row.data());
    EXPECT_EQ(row, expected_row) << format.name;
  }
}

TEST(Embedding, NanInFp8WeightsIsAnErrorThatNamesTheTensor) {
  ThreadPool threads(1);
  RandomMoe memory;
  LinearWeights weights = make_linear(memory, kFormats[4], 4, 32);
  static_cast<uint8_t*>(const_cast<void*>(weights.weight.data))[5] = 0x7f;
  try {
    const Embedding table(weights, threads);
    FAIL() << "a NaN was taken";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("linear.weight"), std::string::npos);
  }
}

TEST(Linear, NanInFp8WeightsOrScalesIsAnErrorThatNamesTheTensor) {
  for (const Format& format : {kFormats[3], kFormats[4]}) {
    RandomMoe memory;
    LinearWeights weights = make_linear(memory, format, 4, 32);
    const bool nvfp4 = format.scheme.is_nvfp4();
    const TensorView& view = nvfp4 ? weights.scale : weights.weight;
    static_cast<uint8_t*>(const_cast<void*>(view.data))[5] = 0x7f;
    try {
      const Linear linear(weights, {});
      FAIL() << "a NaN was taken";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kBadInput);
      EXPECT_NE(std::string(error.what()).find(nvfp4 ? "linear.weight_scale" : "linear.weight"),
                std::string::npos);
    }
  }
}

TEST(Linear, AStaticInputScaleThatIsMissingIsAnError) {
  RandomMoe memory;
  LinearWeights weights = make_linear(memory, kFormats[4], 4, 32);
  weights.input_scale.reset();
  EXPECT_NO_THROW(Linear(weights, {}));
  EXPECT_THROW(Linear(weights, {.fp8_activations = true}), Error);
}

TEST(Scratch, AllocatesNothingOnceItIsWarm) {
  Scratch scratch;
  std::byte* first = nullptr;
  for (int round = 0; round < 3; ++round) {
    Scratch::Frame frame(scratch);
    std::byte* a = scratch.bytes(1000);
    std::byte* big = scratch.bytes(5 << 20);
    {
      Scratch::Frame inner(scratch);
      scratch.bytes(3 << 20);
    }
    std::byte* after = scratch.bytes(16);
    EXPECT_NE(after, big);
    if (round == 1) first = a;
    if (round == 2) {
      EXPECT_EQ(a, first);
    }
    EXPECT_EQ(reinterpret_cast<uintptr_t>(a) % 256, 0u);
  }
}

}  // namespace
}  // namespace moe4
