// Norms, gates, attention and the delta rule on every instruction set, against plain float64 code.
#include <gtest/gtest.h>

#include <cmath>

#include "ops/cpu/kernels.h"
#include "support/random_moe.h"
#include "support/relative_error.h"

namespace moe4 {
namespace {

using testing::Random;
using testing::relative_error;

std::vector<float> normals(int64_t n, uint64_t seed, float scale = 1.0f) {
  Random random(seed);
  std::vector<float> values(n);
  for (float& v : values) v = scale * random.normal();
  return values;
}

double sigmoid(double x) { return 1.0 / (1.0 + std::exp(-x)); }

class Kernels : public ::testing::TestWithParam<CpuIsa> {
 protected:
  const OpKernels& kernels() const { return op_kernels(GetParam()); }
};

TEST_P(Kernels, RmsNormDividesByTheRootMeanSquare) {
  const std::vector<float> x = normals(96, 1, 3.0f), w = normals(96, 2);
  std::vector<float> out(96), expected(96);
  kernels().rms_norm(x.data(), w.data(), 0.5f, 96, out.data());
  double sum = 0;
  for (float v : x) sum += double{v} * v;
  for (int i = 0; i < 96; ++i) {
    expected[i] = static_cast<float>(x[i] / std::sqrt(sum / 96 + 0.5) * w[i]);
  }
  EXPECT_LT(relative_error(out, expected), 2e-7);
}

TEST_P(Kernels, L2NormScalesToTheFactor) {
  const std::vector<float> x = normals(48, 3);
  std::vector<float> out(48), expected(48);
  kernels().l2_norm(x.data(), 1e-6f, 0.25f, 48, out.data());
  double sum = 1e-6;
  for (float v : x) sum += double{v} * v;
  for (int i = 0; i < 48; ++i) expected[i] = static_cast<float>(x[i] / std::sqrt(sum) * 0.25);
  EXPECT_LT(relative_error(out, expected), 2e-7);
}

TEST_P(Kernels, SiluAndSigmoidAreAccurateOverTheWholeRange) {
  std::vector<float> x, ones;
  for (float v = -120.0f; v <= 120.0f; v += 0.05859375f) x.push_back(v);
  x.resize(x.size() / 16 * 16);
  ones.assign(x.size(), 1.0f);
  std::vector<float> silu(x.size()), gate = ones;
  const auto n = static_cast<int64_t>(x.size());
  kernels().silu_mul(x.data(), ones.data(), n, silu.data());
  kernels().sigmoid_mul(gate.data(), x.data(), n);
  for (size_t i = 0; i < x.size(); ++i) {
    EXPECT_NEAR(gate[i], sigmoid(x[i]), 3e-7 * sigmoid(x[i]) + 1e-37) << x[i];
    EXPECT_NEAR(silu[i], x[i] * sigmoid(x[i]), 3e-7 * std::abs(x[i] * sigmoid(x[i])) + 1e-35)
        << x[i];
  }
}

TEST_P(Kernels, Relu2IsTheSquareOfWhatIsPositive) {
  const std::vector<float> x = {-3.0f, -0.0f, 0.0f,   0.5f,      1.5f, -1e30f, 1e-30f, 1e19f,
                                1e20f, NAN,   -1e-9f, -INFINITY, 2.0f, -2.0f,  3.0f,   INFINITY};
  std::vector<float> out(16);
  kernels().relu2(x.data(), 16, out.data());
  for (int i = 0; i < 16; ++i) {
    if (std::isnan(x[i])) {
      EXPECT_TRUE(std::isnan(out[i]));
    } else {
      EXPECT_EQ(out[i], x[i] > 0 ? x[i] * x[i] : 0.0f) << x[i];
    }
  }
}

TEST_P(Kernels, NanPassesThroughGates) {
  std::vector<float> x(16, 1.0f), ones(16, 1.0f), out(16);
  x[3] = NAN;
  kernels().silu_mul(x.data(), ones.data(), 16, out.data());
  for (int i = 0; i < 16; ++i) EXPECT_EQ(std::isnan(out[i]), i == 3) << i;
}

TEST_P(Kernels, SixteenBitRoundingIsToNearestEven) {
  std::vector<float> x = normals(4096, 5, 100.0f);
  const float special[] = {0.0f,  -0.0f,  1.00390625f, 1.01171875f, 65504.0f, 65519.9f,
                           1e30f, -1e30f, 6.0e-8f,     2.9e-8f,     3.1e-8f,  INFINITY,
                           NAN,   1e-45f, 2049.0f,     0x1p-14f};
  std::copy(std::begin(special), std::end(special), x.begin());
  std::vector<Bf16> bf16(x.size());
  std::vector<F16> f16(x.size());
  kernels().to_bf16(x.data(), static_cast<int64_t>(x.size()), bf16.data());
  kernels().to_f16(x.data(), static_cast<int64_t>(x.size()), f16.data());
  for (size_t i = 0; i < x.size(); ++i) {
    EXPECT_EQ(bf16[i].bits, to_bf16(x[i]).bits) << x[i];
    if (std::isnan(x[i])) {
      EXPECT_TRUE(std::isnan(to_float(f16[i])));
    } else {
      EXPECT_EQ(f16[i].bits, to_f16(x[i]).bits) << x[i];
    }
  }
}

TEST_P(Kernels, ConvolutionIsCausalPerChannel) {
  const int64_t channels = 48, taps = 4;
  const std::vector<float> in = normals(taps * channels, 6), w = normals(taps * channels, 7);
  std::vector<float> out(32), expected(32);
  const float* rows[taps];
  for (int64_t j = 0; j < taps; ++j) rows[j] = in.data() + j * channels + 16;
  // Channels 16 to 47 only.
  const std::vector<float> bias = normals(32, 12);
  kernels().conv_silu(rows, w.data() + 16, channels, bias.data(), taps, 32, out.data());
  for (int64_t c = 0; c < 32; ++c) {
    double sum = bias[c];
    for (int64_t j = 0; j < taps; ++j) {
      sum += double{in[j * channels + 16 + c]} * w[j * channels + 16 + c];
    }
    expected[c] = static_cast<float>(sum * sigmoid(sum));
  }
  EXPECT_LT(relative_error(out, expected), 5e-7);
}

// Softmax attention as its definition says.
std::vector<float> attention(const std::vector<float>& q, const std::vector<int64_t>& positions,
                             const std::vector<float>& k, const std::vector<float>& v, int64_t dim,
                             double scale) {
  std::vector<float> out(q.size());
  for (size_t i = 0; i < positions.size(); ++i) {
    std::vector<double> p;
    double sum = 0;
    for (int64_t j = 0; j <= positions[i]; ++j) {
      double dot = 0;
      for (int64_t d = 0; d < dim; ++d) dot += double{q[i * dim + d]} * k[j * dim + d];
      p.push_back(std::exp(dot * scale));
      sum += p.back();
    }
    for (int64_t d = 0; d < dim; ++d) {
      double value = 0;
      for (size_t j = 0; j < p.size(); ++j) value += p[j] / sum * v[j * dim + d];
      out[i * dim + d] = static_cast<float>(value);
    }
  }
  return out;
}

// Keys and values of one head in pages, handed out back to front.
struct Pages {
  Pages(const std::vector<float>& keys, const std::vector<float>& values, int64_t dim) : dim(dim) {
    const auto count = static_cast<int64_t>(keys.size()) / dim;
    const int64_t pages = (count + kKeyBlock - 1) / kKeyBlock;
    memory.assign(pages * 2 * kKeyBlock * dim, NAN);
    for (int64_t b = 0; b < pages; ++b) blocks.push_back(static_cast<int32_t>(pages - 1 - b));
    for (int64_t j = 0; j < count; ++j) {
      float* page = &memory[blocks[j / kKeyBlock] * 2 * kKeyBlock * dim];
      std::copy_n(&keys[j * dim], dim, page + j % kKeyBlock * dim);
      std::copy_n(&values[j * dim], dim, page + (kKeyBlock + j % kKeyBlock) * dim);
    }
  }
  void set(AttendArgs& args) const {
    args.pages = reinterpret_cast<const std::byte*>(memory.data());
    args.blocks = blocks.data();
    args.page_bytes = 2 * kKeyBlock * dim * 4;
    args.value_offset = kKeyBlock * dim * 4;
    args.kv_dtype = DType::kF32;
    args.key_dim = args.value_dim = args.value_stride = dim;
  }

  int64_t dim;
  std::vector<float> memory;
  std::vector<int32_t> blocks;
};

// x M and x M^T in float64.
std::vector<float> product(const std::vector<float>& m, int64_t columns, bool transposed,
                           const std::vector<float>& x, int64_t tokens) {
  const auto rows = static_cast<int64_t>(m.size()) / columns;
  const int64_t in = transposed ? columns : rows, out = transposed ? rows : columns;
  std::vector<float> y(tokens * out);
  for (int64_t t = 0; t < tokens; ++t) {
    for (int64_t o = 0; o < out; ++o) {
      double sum = 0;
      for (int64_t i = 0; i < in; ++i) {
        sum += double{x[t * in + i]} * m[transposed ? o * columns + i : i * columns + o];
      }
      y[t * out + o] = static_cast<float>(sum);
    }
  }
  return y;
}

TEST_P(Kernels, MatrixProductsHaveTheSameBitsForAnyNumberOfTokens) {
  for (const int64_t columns : {16, 80, 512}) {
    for (const int64_t rows : {1, 7, 24}) {
      std::vector<float> matrix = normals(rows * columns, 21);
      std::vector<Bf16> half;
      for (float& v : matrix) {
        half.push_back(to_bf16(v));
        v = to_float(half.back());
      }
      for (const bool transposed : {false, true}) {
        const int64_t in = transposed ? columns : rows, out = transposed ? rows : columns;
        const std::vector<float> x = normals(13 * in, 22);
        const auto run = [&](DType dtype, int64_t first, int64_t tokens) {
          std::vector<float> y(tokens * out);
          MatrixArgs args{.matrix = matrix.data(),
                          .dtype = dtype,
                          .rows = rows,
                          .columns = columns,
                          .num_tokens = tokens,
                          .x = x.data() + first * in,
                          .y = y.data(),
                          .x_stride = in,
                          .y_stride = out};
          if (dtype == DType::kBF16) args.matrix = half.data();
          (transposed ? kernels().times_transposed : kernels().times_matrix)(args);
          return y;
        };
        const std::vector<float> all = run(DType::kF32, 0, 13);
        EXPECT_LT(relative_error(all, product(matrix, columns, transposed, x, 13)), 5e-7);
        EXPECT_EQ(run(DType::kBF16, 0, 13), all);
        for (int64_t t = 0; t < 13; ++t) {
          const std::vector<float> alone = run(DType::kF32, t, 1);
          EXPECT_TRUE(std::equal(alone.begin(), alone.end(), all.begin() + t * out)) << t;
        }
      }
    }
  }
}

TEST_P(Kernels, AttentionEqualsSoftmaxForAnyMixOfPositions) {
  for (int64_t dim : {16, 64, 80, 128}) {
    const int64_t keys = 150;
    const std::vector<float> q = normals(7 * dim, 8), k = normals(keys * dim, 9),
                             v = normals(keys * dim, 10);
    const std::vector<int64_t> positions = {0, 1, 63, 64, 100, 149, 30};
    const double scale = 1.0 / std::sqrt(static_cast<double>(dim));
    std::vector<float> acc(7 * dim), max_score(7), sum(7);
    const Pages pages(k, v, dim);
    AttendArgs args{.queries = q.data(),
                    .positions = positions.data(),
                    .num_queries = 7,
                    .scale = static_cast<float>(scale),
                    .key_begin = 0,
                    .key_end = keys,
                    .accumulators = acc.data(),
                    .max_score = max_score.data(),
                    .sum = sum.data()};
    pages.set(args);
    kernels().attend(args);
    for (int i = 0; i < 7; ++i) {
      for (int64_t d = 0; d < dim; ++d) acc[i * dim + d] /= sum[i];
    }
    EXPECT_LT(relative_error(acc, attention(q, positions, k, v, dim, scale)), 1e-6) << dim;
  }
}

TEST_P(Kernels, KeysAfterAQueryDoNotReachItEvenWhenTheyAreNan) {
  const int64_t dim = 32;
  const std::vector<float> q = normals(2 * dim, 11);
  std::vector<float> k = normals(20 * dim, 12), v = normals(20 * dim, 13);
  for (int64_t i = 10 * dim; i < 20 * dim; ++i) k[i] = v[i] = NAN;
  const std::vector<int64_t> positions = {9, 15};
  std::vector<float> acc(2 * dim), max_score(2), sum(2);
  const Pages pages(k, v, dim);
  AttendArgs args{.queries = q.data(),
                  .positions = positions.data(),
                  .num_queries = 2,
                  .scale = 0.2f,
                  .key_begin = 0,
                  .key_end = 20,
                  .accumulators = acc.data(),
                  .max_score = max_score.data(),
                  .sum = sum.data()};
  pages.set(args);
  kernels().attend(args);
  for (int64_t d = 0; d < dim; ++d) {
    EXPECT_TRUE(std::isfinite(acc[d] / sum[0]));
    EXPECT_TRUE(std::isnan(acc[dim + d] / sum[1]));
  }
}

TEST_P(Kernels, DeltaRuleEqualsItsRecurrence) {
  const int64_t tokens = 9, key_dim = 32, value_dim = 80, stride = 200, gates = 3;
  std::vector<float> qkv = normals(tokens * stride, 14, 0.3f), gate(tokens * gates);
  std::vector<float> state = normals(key_dim * value_dim, 15), out(tokens * value_dim);
  Random random(16);
  for (float& g : gate) g = static_cast<float>(random.uniform());
  std::vector<double> memory(state.begin(), state.end());
  std::vector<float> expected(out.size());
  for (int64_t t = 0; t < tokens; ++t) {
    const float* q = &qkv[t * stride];
    const float *k = q + key_dim, *v = k + key_dim;
    const double decay = gate[t * gates], beta = gate[t * gates + 1];
    for (int64_t c = 0; c < value_dim; ++c) {
      double known = 0, result = 0;
      for (int64_t i = 0; i < key_dim; ++i) known += k[i] * (memory[i * value_dim + c] *= decay);
      const double delta = (v[c] - known) * beta;
      for (int64_t i = 0; i < key_dim; ++i) {
        result += q[i] * (memory[i * value_dim + c] += k[i] * delta);
      }
      expected[t * value_dim + c] = static_cast<float>(result);
    }
  }
  kernels().delta_rule({.num_tokens = tokens,
                        .key_dim = key_dim,
                        .value_dim = value_dim,
                        .state = state.data(),
                        .query = qkv.data(),
                        .key = qkv.data() + key_dim,
                        .value = qkv.data() + 2 * key_dim,
                        .decay = gate.data(),
                        .beta = gate.data() + 1,
                        .qk_stride = stride,
                        .value_stride = stride,
                        .gate_stride = gates,
                        .out = out.data(),
                        .out_stride = value_dim});
  EXPECT_LT(relative_error(out, expected), 1e-6);
  const std::vector<float> final_state(memory.begin(), memory.end());
  EXPECT_LT(relative_error(state, final_state), 1e-6);
}

INSTANTIATE_TEST_SUITE_P(Isa, Kernels, ::testing::ValuesIn(available_cpu_isas()),
                         [](const auto& info) { return std::string(to_string(info.param)); });

}  // namespace
}  // namespace moe4
