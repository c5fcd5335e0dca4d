// The packed weights and activations of b12x, read as its kernels read them, multiplied by the PTX
// model of the instruction, against the plain matrix product.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <set>
#include <vector>

#include "moe/dequantize.h"
#include "ops/experts/b12x/pack_fp4_weights.h"
#include "ops/experts/b12x_ptx_model.h"
#include "support/random_moe.h"

namespace moe4::b12x {
namespace {

using ::moe4::testing::make_random_moe;
using ::moe4::testing::PtxBlockScaledMma;
using ::moe4::testing::Random;
using ::moe4::testing::RandomMoe;

// CUTLASS states the same layouts as strides: (thread in quad, quad; element, row half, k half) ->
// row + 16 k. Two descriptions by different authors must agree.
TEST(B12xPtxModel, AgreesWithTheStridesCutlassPublishes) {
  for (int lane = 0; lane < 32; ++lane) {
    for (int reg = 0; reg < 4; ++reg) {
      for (int nibble = 0; nibble < 8; ++nibble) {
        const int coordinate =
            128 * (lane % 4) + lane / 4 + 16 * nibble + 8 * (reg % 2) + 512 * (reg / 2);
        PtxBlockScaledMma mma;
        mma.a[lane][reg] = 2u << (4 * nibble);  // 1.0
        EXPECT_EQ(mma.a_element(coordinate % 16, coordinate / 16), 1.0f);
        if (reg >= 2) continue;
        const int b = 64 * (lane % 4) + lane / 4 + 8 * nibble + 256 * reg;
        mma.b[lane][reg] = 2u << (4 * nibble);
        EXPECT_EQ(mma.b_element(b / 8, b % 8), 1.0f);
      }
    }
    // SFA: (2, 2, 8) threads, strides (8, 0, 1); SFB: (4, 8), strides (0, 1).
    PtxBlockScaledMma mma;
    mma.thread_id_a = lane % 4 / 2;
    mma.thread_id_b = lane % 4;
    mma.scale_a[lane] = mma.scale_b[lane] = 0x38;  // 1.0 in byte 0
    EXPECT_EQ(mma.a_scale(8 * (lane % 2) + lane / 4, 0), 1.0);
    EXPECT_EQ(mma.b_scale(0, lane / 4), 1.0);
  }
}

TEST(B12xLayout, EveryByteOfAChunkBelongsToOneLane) {
  std::set<int> bytes;
  for (int lane = 0; lane < 32; ++lane) {
    for (int half = 0; half < 2; ++half) {
      for (int i = 0; i < 16; ++i) bytes.insert(weight_codes_offset(half, lane) + i);
    }
    for (int i = 0; i < 4; ++i) bytes.insert(weight_scales_offset(lane) + i);
    EXPECT_EQ(weight_codes_offset(0, lane) % 16, 0);
  }
  EXPECT_EQ(bytes.size(), static_cast<size_t>(kChunkBytes));
  EXPECT_EQ(*bytes.rbegin(), kChunkBytes - 1);
}

// Eight rows of FP4 activations as the quantiser writes them.
struct TokenRowsOnHost {
  int64_t chunks;
  std::vector<uint8_t> codes, scales;
  std::vector<double> values;  // [8, K]

  TokenRowsOnHost(int64_t k, Random& random)
      : chunks(ceil_div(k, kChunkK)),
        codes(8 * chunks * kTokenChunkBytes),
        scales(8 * token_scale_bytes(chunks)),
        values(8 * k) {
    for (int row = 0; row < 8; ++row) {
      for (int64_t at = 0; at < k; ++at) {
        if (at % kBlock == 0) {
          scales[row * token_scale_bytes(chunks) + at / kBlock] =
              static_cast<uint8_t>(random.below(0x7f));
        }
        const auto code = static_cast<uint32_t>(random.below(16));
        const int64_t chunk = at / kChunkK, word = at % kChunkK / 8, j = at % 8;
        uint8_t* to = &codes[row * chunks * kTokenChunkBytes +
                             token_word_offset(chunk, static_cast<int>(word))];
        uint32_t bits;
        std::memcpy(&bits, to, 4);
        bits |= code << element_shift(static_cast<int>(j));
        std::memcpy(to, &bits, 4);
        values[row * k + at] = e2m1_to_float(static_cast<uint8_t>(code)) *
                               e4m3_to_float(scales[row * token_scale_bytes(chunks) + at / kBlock]);
      }
    }
  }
};

// Half `half` of an m32 tile times eight tokens, lane by lane with the kernels' addresses.
std::vector<double> multiply_half(const PackedMatrix& matrix, const std::vector<uint8_t>& packed,
                                  const TokenRowsOnHost& tokens, int64_t tile, int half) {
  std::vector<double> product(16 * 8);
  for (int64_t chunk = 0; chunk < matrix.chunks; ++chunk) {
    PtxBlockScaledMma mma;
    mma.thread_id_a = half;
    mma.thread_id_b = static_cast<int>(chunk % kSliceChunks);
    const uint8_t* from = &packed[chunk_offset(matrix.tiles, matrix.chunks, 0, tile, chunk)];
    for (int lane = 0; lane < 32; ++lane) {
      const int g = lane / 4, t = lane % 4;
      std::memcpy(mma.a[lane].data(), from + weight_codes_offset(half, lane), 16);
      std::memcpy(&mma.scale_a[lane], from + weight_scales_offset(lane), 4);
      std::memcpy(
          mma.b[lane].data(),
          &tokens.codes[g * matrix.chunks * kTokenChunkBytes + token_codes_offset(chunk, t)], 8);
      const int64_t scale_chunk = chunk / kSliceChunks * kSliceChunks + t;
      std::memcpy(
          &mma.scale_b[lane],
          &tokens.scales[g * token_scale_bytes(matrix.chunks) + scale_chunk * kBlocksPerChunk], 4);
    }
    for (int row = 0; row < 16; ++row) {
      for (int column = 0; column < 8; ++column) {
        product[row * 8 + column] += mma.product(row, column);
      }
    }
  }
  return product;
}

void expect_product(const std::vector<double>& product, int row_in_half, int64_t row,
                    const LinearWeights& linear, const TokenRowsOnHost& tokens) {
  const int64_t k = linear.in_features;
  std::vector<float> weights(k);
  LinearWeights unscaled = linear;
  unscaled.global_scale = DecodeScale{1.0f};
  if (row < linear.out_features) dequantize_row(unscaled, row, weights.data());
  for (int token = 0; token < 8; ++token) {
    double expected = 0;
    for (int64_t i = 0; i < k; ++i) {
      expected += static_cast<double>(weights[i]) * tokens.values[token * k + i];
    }
    // Sums of at most 2^12 exact terms in double: exact enough that any swapped element shows.
    ASSERT_NEAR(product[row_in_half * 8 + token], expected, std::abs(expected) * 1e-12 + 1e-9)
        << "row " << row << ", token " << token;
  }
}

struct Shape {
  int64_t hidden, intermediate;
};

class B12xPacking : public ::testing::TestWithParam<Shape> {
 protected:
  RandomMoe moe(ActivationKind kind) {
    MoeProblem p{.hidden_size = GetParam().hidden,
                 .intermediate_size = GetParam().intermediate,
                 .num_experts = 1,
                 .top_k = 1};
    p.activation.kind = kind;
    return make_random_moe({.problem = p, .awkward_scales = true});
  }
  std::vector<uint8_t> pack(const PackedMatrix& matrix, const LinearWeights& first,
                            const LinearWeights* up) {
    std::vector<uint8_t> packed(matrix.expert_bytes(), 0xff);
    pack_expert(matrix, first, up, threads_, packed.data());
    return packed;
  }
  ThreadPool threads_{1};
};

TEST_P(B12xPacking, GateAndUpHalvesTimesTokensIsTheMatrixProduct) {
  const RandomMoe layer = moe(ActivationKind::kSilu);
  const ExpertWeights& expert = layer.weights.experts[0];
  const PackedMatrix matrix = fc1_matrix(layer.weights.problem);
  const std::vector<uint8_t> packed = pack(matrix, *expert.gate, &expert.up);
  Random random(3);
  const TokenRowsOnHost tokens(matrix.k, random);
  for (const int64_t tile : {int64_t{0}, matrix.tiles / 2, matrix.tiles - 1}) {
    for (int half = 0; half < 2; ++half) {
      const auto product = multiply_half(matrix, packed, tokens, tile, half);
      for (int r = 0; r < 16; ++r) {
        expect_product(product, r, tile * 16 + r, half == 0 ? *expert.gate : expert.up, tokens);
      }
    }
  }
}

TEST_P(B12xPacking, PlainRowsTimesTokensIsTheMatrixProduct) {
  const RandomMoe layer = moe(ActivationKind::kRelu2);
  const ExpertWeights& expert = layer.weights.experts[0];
  for (const bool fc1 : {true, false}) {
    const LinearWeights& linear = fc1 ? expert.up : expert.down;
    const PackedMatrix matrix =
        fc1 ? fc1_matrix(layer.weights.problem) : fc2_matrix(layer.weights.problem);
    const std::vector<uint8_t> packed = pack(matrix, linear, nullptr);
    Random random(4);
    const TokenRowsOnHost tokens(matrix.k, random);
    for (const int64_t tile : {int64_t{0}, matrix.tiles - 1}) {
      for (int half = 0; half < 2; ++half) {
        const auto product = multiply_half(matrix, packed, tokens, tile, half);
        for (int r = 0; r < 16; ++r) {
          expect_product(product, r, tile * 32 + half * 16 + r, linear, tokens);
        }
      }
    }
  }
}

TEST_P(B12xPacking, PaddingIsZeroCodesAndZeroScales) {
  const RandomMoe layer = moe(ActivationKind::kSilu);
  const ExpertWeights& expert = layer.weights.experts[0];
  const PackedMatrix matrix = fc1_matrix(layer.weights.problem);
  const std::vector<uint8_t> packed = pack(matrix, *expert.gate, &expert.up);
  const int64_t tail = matrix.k % kChunkK;
  if (tail == 0) return;  // nothing to pad
  const uint8_t* chunk =
      &packed[chunk_offset(matrix.tiles, matrix.chunks, 0, 0, matrix.chunks - 1)];
  for (int lane = 0; lane < 32; ++lane) {
    for (int64_t block = tail / kBlock; block < kBlocksPerChunk; ++block) {
      EXPECT_EQ(chunk[weight_scales_offset(lane) + block], 0);
    }
    for (int reg = 0; reg < 4; ++reg) {
      if (8 * (lane % 4) + 32 * (reg / 2) < tail) continue;
      for (int i = 0; i < 4; ++i) EXPECT_EQ(chunk[weight_codes_offset(0, lane) + 4 * reg + i], 0);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, B12xPacking,
                         ::testing::Values(Shape{256, 128}, Shape{48, 144}, Shape{128, 16},
                                           Shape{336, 352}, Shape{16, 64}),
                         [](const auto& info) {
                           return "H" + std::to_string(info.param.hidden) + "I" +
                                  std::to_string(info.param.intermediate);
                         });

TEST(B12xPackingOfScales, ANegativeBlockScaleFlipsTheSignsOfItsCodes) {
  RandomMoe layer = make_random_moe(
      {.problem = {.hidden_size = 64, .intermediate_size = 64, .num_experts = 1, .top_k = 1}});
  const ExpertWeights& expert = layer.weights.experts[0];
  layer.block_scale(0, RandomMoe::Projection::kDown, 5, 2) |= 0x80;
  const PackedMatrix matrix = fc2_matrix(layer.weights.problem);
  std::vector<uint8_t> packed(matrix.expert_bytes());
  ThreadPool threads(1);
  pack_expert(matrix, expert.down, nullptr, threads, packed.data());
  Random random(5);
  const TokenRowsOnHost tokens(64, random);
  const auto product = multiply_half(matrix, packed, tokens, 0, 0);
  expect_product(product, 5, 5, expert.down, tokens);
}

RandomMoe two_experts(QuantScheme scheme, bool input_scales) {
  return make_random_moe(
      {.problem = {.hidden_size = 64, .intermediate_size = 64, .num_experts = 2, .top_k = 1},
       .scheme = scheme,
       .up_global_ratio = 10.0f,
       .input_scales = input_scales});
}

TEST(B12xScales, Fc2InputScaleIsOneForEveryExpertWhetherTheCheckpointHasOneOrNot) {
  for (const bool input_scales : {true, false}) {
    for (const QuantScheme& scheme : {kW4A4, kW4A16}) {
      const RandomMoe layer = two_experts(scheme, input_scales);
      const LayerScales scales = make_layer_scales(layer.weights, ActivationPrecision::kFp4);
      EXPECT_EQ(scales.fc2_input_scale, (std::vector<float>{1.0f, 1.0f}));
      EXPECT_EQ(scales.fc1_input_scale, (std::vector<float>(4, 1.0f)));
      EXPECT_FALSE(scales.gate_and_up_inputs_differ);
    }
  }
}

TEST(B12xScales, StaticModeKeepsEveryProjectionsCalibratedScale) {
  const RandomMoe layer = two_experts(kW4A4, true);
  const LayerScales scales = make_layer_scales(layer.weights, ActivationPrecision::kFp4Static);
  for (int e = 0; e < 2; ++e) {
    const ExpertWeights& expert = layer.weights.experts[e];
    EXPECT_EQ(scales.fc1_input_scale[2 * e], expert.gate->input_scale->value);
    EXPECT_EQ(scales.fc1_input_scale[2 * e + 1], expert.up.input_scale->value);
    EXPECT_EQ(scales.fc2_input_scale[e], expert.down.input_scale->value);
    EXPECT_EQ(scales.fc2_alpha[2 * e],
              expert.down.global_scale.value * expert.down.input_scale->value);
  }
  EXPECT_TRUE(scales.gate_and_up_inputs_differ);
}

TEST(B12xScales, StaticModeWithoutACalibratedScaleNamesTheTensor) {
  const RandomMoe layer = two_experts(kW4A16, false);
  try {
    make_layer_scales(layer.weights, ActivationPrecision::kFp4Static);
    FAIL() << "accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kBadInput);
    EXPECT_NE(std::string(error.what()).find("gate_proj.input_scale"), std::string::npos);
  }
}

TEST(B12xScales, GlobalScalesStayFloat32ForEachHalf) {
  const RandomMoe layer = two_experts(kW4A4, true);
  const LayerScales fp4 = make_layer_scales(layer.weights, ActivationPrecision::kFp4);
  const LayerScales bf16 = make_layer_scales(layer.weights, ActivationPrecision::kBf16);
  for (int e = 0; e < 2; ++e) {
    const ExpertWeights& expert = layer.weights.experts[e];
    EXPECT_EQ(fp4.fc1_alpha[2 * e], expert.gate->global_scale.value);
    EXPECT_EQ(fp4.fc1_alpha[2 * e + 1], expert.up.global_scale.value);
    EXPECT_NE(fp4.fc1_alpha[2 * e], fp4.fc1_alpha[2 * e + 1]);
    EXPECT_EQ(bf16.fc1_alpha[2 * e], expert.gate->global_scale.value * 0x1p20f);
  }
}

}  // namespace
}  // namespace moe4::b12x
