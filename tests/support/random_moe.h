// Random MoE layers in canonical form, routings and inputs for tests of expert backends.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <numbers>
#include <string>
#include <vector>

#include "moe/weights.h"
#include "numerics/bf16.h"
#include "numerics/f16.h"
#include "numerics/mxfp4.h"
#include "numerics/nvfp4.h"

namespace moe4::testing {

/// SplitMix64: the same numbers with every standard library.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t next() {
    uint64_t z = (state_ += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  int64_t below(int64_t n) { return static_cast<int64_t>(next() % static_cast<uint64_t>(n)); }
  double uniform() { return static_cast<double>(next() >> 11) * 0x1p-53; }
  float normal() {
    const double radius = std::sqrt(-2.0 * std::log(1.0 - uniform()));
    return static_cast<float>(radius * std::cos(2.0 * std::numbers::pi * uniform()));
  }

 private:
  uint64_t state_;
};

struct RandomMoeOptions {
  MoeProblem problem;  ///< num_local_experts 0 means num_experts
  QuantScheme scheme = kW4A4;
  uint64_t seed = 1;
  /// Standard deviation of the weights times sqrt(in_features): 1 keeps activations near one.
  float gain = 1.5f;
  float up_global_ratio = 1.0f;  ///< the up half's global scale over the gate half's
  /// Values scale with it: tiny weights, say 1e-30. MXFP4 has block scales only: the nearest power
  /// of two goes there.
  float down_global_ratio = 1.0f;
  /// Sprinkle scale bytes of 0, 1 (2^-9), 0.125, 1, 448 over blocks; of MXFP4 2^-127, 2^-126,
  /// 2^-30, 1, 8.
  bool awkward_scales = false;
  bool biases = false;
  bool input_scales = true;             ///< calibrated, another one for every projection
  bool same_input_scales = false;       ///< one input scale for gate and up of all experts
  DType float_dtype = DType::kBF16;     ///< storage of unquantised weights
  DType fp8_scale_dtype = DType::kF32;  ///< of channel and block scales
};

/// Owns the bytes that `weights` views. Tests may damage the bytes through the accessors.
struct RandomMoe {
  MoeLayerWeights weights;
  std::vector<std::unique_ptr<std::vector<std::byte>>> storage;

  enum class Projection { kGate, kUp, kDown };
  LinearWeights& linear(int64_t expert, Projection projection) {
    ExpertWeights& e = weights.experts.at(expert);
    return projection == Projection::kGate ? e.gate.value()
                                           : (projection == Projection::kUp ? e.up : e.down);
  }
  /// Block scale of row `row`, columns [16 block, 16 block + 16), of MXFP4 32.
  uint8_t& block_scale(int64_t expert, Projection projection, int64_t row, int64_t block) {
    LinearWeights& l = linear(expert, projection);
    return const_cast<uint8_t*>(
        static_cast<const uint8_t*>(l.scale.data))[row * l.scale.dim(1) + block];
  }

  std::byte* allocate(int64_t bytes) {
    storage.push_back(std::make_unique<std::vector<std::byte>>(bytes));
    return storage.back()->data();
  }
};

namespace internal {

// For |value| < 65504; rounds to nearest even.
inline uint16_t f16_bits(float value) {
  const auto sign = static_cast<uint16_t>(std::signbit(value) ? 0x8000 : 0);
  const float a = std::abs(value);
  if (a < 0x1p-14f) return static_cast<uint16_t>(sign | std::lrint(a * 0x1p24f));
  const auto bits = std::bit_cast<uint32_t>(a);
  const uint32_t rounded = bits + 0xfff + ((bits >> 13) & 1);
  return static_cast<uint16_t>(sign | ((rounded >> 13) - (112 << 10)));
}

inline void store_float(std::byte* to, DType dtype, int64_t i, float value) {
  if (dtype == DType::kBF16) {
    const Bf16 x = to_bf16(value);
    std::memcpy(to + 2 * i, &x, 2);
  } else if (dtype == DType::kF16) {
    const uint16_t x = f16_bits(value);
    std::memcpy(to + 2 * i, &x, 2);
  } else {
    std::memcpy(to + 4 * i, &value, 4);
  }
}

/// Rows of whole blocks, one after the other. Awkward factors are 0, the least subnormal, a
/// negative one and 1.
inline void random_ggml_blocks(GgmlTypeId type, Random& random, bool awkward,
                               const std::vector<float>& values, std::byte* blocks) {
  constexpr uint16_t kAwkward[] = {0x0000, 0x0001, 0x9c00, 0x3c00};
  MOE4_CHECK(type == GgmlTypeId::kQ8_0);
  for (size_t i = 0; i < values.size(); i += 32, blocks += 34) {
    float most = 0;
    for (size_t j = i; j < i + 32; ++j) most = std::max(most, std::abs(values[j]));
    uint16_t factor = f16_bits(most / 127);
    const float step = to_float(F16{factor});
    if (awkward && random.below(4) == 0) factor = kAwkward[random.below(4)];
    std::memcpy(blocks, &factor, sizeof factor);
    for (size_t j = 0; j < 32; ++j) {
      const float code = step > 0 ? std::round(values[i + j] / step) : 0;
      blocks[2 + j] =
          static_cast<std::byte>(static_cast<int8_t>(std::clamp(code, -128.0f, 127.0f)));
    }
  }
}

inline LinearWeights random_linear(RandomMoe& moe, const RandomMoeOptions& options, Random& random,
                                   std::string name, int64_t n, int64_t k, float ratio) {
  LinearWeights l;
  l.name = std::move(name);
  l.out_features = n;
  l.in_features = k;
  l.scheme = options.scheme;
  const float std_dev = options.gain / std::sqrt(static_cast<float>(k));
  std::vector<float> values(n * k);
  for (float& v : values) v = std_dev * random.normal();
  float amax = 0;
  for (float v : values) amax = std::max(amax, std::abs(v));
  const auto view = [](void* data, DType dtype, std::vector<int64_t> shape) {
    return TensorView{.data = data, .dtype = dtype, .shape = std::move(shape)};
  };
  switch (options.scheme.weight.format) {
    case QuantFormat::kNvfp4: {
      std::byte* codes = moe.allocate(n * k / 2);
      std::byte* scales = moe.allocate(n * k / 16);
      const float global = amax / (kE2m1Max * kE4m3Max);
      constexpr uint8_t kAwkward[] = {0x00, 0x01, 0x20, 0x38, 0x7e};
      for (int64_t block = 0; block < n * k / 16; ++block) {
        uint8_t q[16];
        uint8_t scale = nvfp4_quantize_block(&values[block * 16], DecodeScale{global}, q);
        if (options.awkward_scales && random.below(4) == 0) scale = kAwkward[random.below(5)];
        scales[block] = static_cast<std::byte>(scale);
        for (int i = 0; i < 8; ++i) {
          codes[block * 8 + i] = static_cast<std::byte>(q[2 * i] | (q[2 * i + 1] << 4));
        }
      }
      l.weight = view(codes, DType::kU8, {n, k / 2});
      l.scale = view(scales, DType::kF8E4M3, {n, k / 16});
      l.global_scale = DecodeScale{global * ratio};
      break;
    }
    case QuantFormat::kMxfp4: {
      std::byte* codes = moe.allocate(n * k / 2);
      std::byte* scales = moe.allocate(n * k / kMxfp4Block);
      const int shift = static_cast<int>(std::lround(std::log2(ratio)));
      constexpr uint8_t kAwkward[] = {0x00, 0x01, 0x61, 0x76, 0x7e};
      for (int64_t block = 0; block < n * k / kMxfp4Block; ++block) {
        const float* from = &values[block * kMxfp4Block];
        float most = 0;
        for (int i = 0; i < kMxfp4Block; ++i) most = std::max(most, std::abs(from[i]));
        // The power of two that brings the largest to 4 .. 8; above 6 saturates.
        const int exponent = std::ilogb(most) - 2;
        auto scale = static_cast<uint8_t>(exponent + kE8m0Bias + shift);
        if (options.awkward_scales && random.below(4) == 0) scale = kAwkward[random.below(5)];
        scales[block] = static_cast<std::byte>(scale);
        for (int i = 0; i < kMxfp4Block / 2; ++i) {
          const auto code = [&](int j) { return e2m1_from_float(std::ldexp(from[j], -exponent)); };
          codes[block * kMxfp4Block / 2 + i] =
              static_cast<std::byte>(code(2 * i) | (code(2 * i + 1) << 4));
        }
      }
      l.weight = view(codes, DType::kU8, {n, k / 2});
      l.scale = view(scales, DType::kU8, {n, k / kMxfp4Block});
      break;
    }
    case QuantFormat::kFp8Tensor:
    case QuantFormat::kFp8Channel:
    case QuantFormat::kFp8Block128: {
      std::byte* bytes = moe.allocate(n * k);
      const bool block = options.scheme.weight.format == QuantFormat::kFp8Block128;
      const bool tensor = options.scheme.weight.format == QuantFormat::kFp8Tensor;
      const int64_t scale_rows = block ? (n + 127) / 128 : n;
      const int64_t scale_columns = block ? (k + 127) / 128 : 1;
      const float base = amax / kE4m3Max * 4.0f;
      std::vector<float> scales(scale_rows * scale_columns, base);
      if (!tensor) {
        std::byte* stored = moe.allocate(scale_rows * scale_columns * 4);
        for (size_t i = 0; i < scales.size(); ++i) {
          scales[i] = round_to_bf16(base * static_cast<float>(0.5 + random.uniform()));
          store_float(stored, options.fp8_scale_dtype, static_cast<int64_t>(i), scales[i]);
        }
        l.scale = view(stored, options.fp8_scale_dtype, {scale_rows, scale_columns});
      } else {
        l.global_scale = DecodeScale{base};
      }
      for (int64_t r = 0; r < n; ++r) {
        for (int64_t c = 0; c < k; ++c) {
          const float scale =
              tensor ? base : (block ? scales[r / 128 * scale_columns + c / 128] : scales[r]);
          bytes[r * k + c] = static_cast<std::byte>(e4m3_from_float(values[r * k + c] / scale));
        }
      }
      l.weight = view(bytes, DType::kF8E4M3, {n, k});
      break;
    }
    case QuantFormat::kQ8_0: {
      const GgmlType& type = *ggml_type_of(options.scheme.weight.format);
      const int64_t row_bytes = k / type.block_elements * type.block_bytes;
      std::byte* blocks = moe.allocate(n * row_bytes);
      random_ggml_blocks(type.id, random, options.awkward_scales, values, blocks);
      l.weight = view(blocks, DType::kU8, {n, row_bytes});
      break;
    }
    default: {
      std::byte* bytes = moe.allocate(n * k * size_of(options.float_dtype));
      for (int64_t i = 0; i < n * k; ++i) store_float(bytes, options.float_dtype, i, values[i]);
      l.weight = view(bytes, options.float_dtype, {n, k});
      break;
    }
  }
  if (options.biases) {
    std::byte* bias = moe.allocate(n * 2);
    for (int64_t i = 0; i < n; ++i) store_float(bias, DType::kBF16, i, 0.3f * random.normal());
    l.bias = view(bias, DType::kBF16, {n});
  }
  if (options.input_scales) {
    // amax/2688 of activations whose largest value is near 4; not a power of two.
    const float wobble =
        options.same_input_scales ? 1.0f : static_cast<float>(0.7 + random.uniform());
    const bool fp8 = options.scheme.is_fp8();
    l.input_scale = DecodeScale{(fp8 ? 6.0f / 448.0f : 4.3f / 2688.0f) * wobble};
  }
  return l;
}

}  // namespace internal

inline RandomMoe make_random_moe(RandomMoeOptions options) {
  MoeProblem& p = options.problem;
  if (p.num_local_experts == 0) p.num_local_experts = p.num_experts;
  RandomMoe moe;
  moe.weights.problem = p;
  moe.weights.scheme = options.scheme;
  Random random(options.seed);
  const int64_t h = p.hidden_size, i = p.intermediate_size;
  for (int64_t e = 0; e < p.num_local_experts; ++e) {
    const std::string name = "model.layers.0.mlp.experts." + std::to_string(e);
    ExpertWeights expert;
    if (p.activation.is_gated()) {
      expert.gate = internal::random_linear(moe, options, random, name + ".gate_proj", i, h, 1.0f);
    }
    expert.up = internal::random_linear(moe, options, random, name + ".up_proj", i, h,
                                        options.up_global_ratio);
    expert.down = internal::random_linear(moe, options, random, name + ".down_proj", h, i,
                                          options.down_global_ratio);
    moe.weights.experts.push_back(std::move(expert));
  }
  return moe;
}

/// How tokens choose experts.
enum class RoutingCase {
  kUniform,
  kSkewed,       ///< most choices fall on a few experts, many experts stay empty
  kAllOnOne,     ///< every slot of every token is expert 0 (or the first local one)
  kDuplicates,   ///< a token names the same expert more than once
  kWithMissing,  ///< some ids are -1, and some tokens have no expert at all
};

inline const char* to_string(RoutingCase c) {
  switch (c) {
    case RoutingCase::kUniform:
      return "Uniform";
    case RoutingCase::kSkewed:
      return "Skewed";
    case RoutingCase::kAllOnOne:
      return "AllOnOne";
    case RoutingCase::kDuplicates:
      return "Duplicates";
    case RoutingCase::kWithMissing:
      return "WithMissing";
  }
  return "?";
}

struct Routing {
  std::vector<int32_t> ids;    ///< [T, k]
  std::vector<float> weights;  ///< [T, k]
};

inline Routing make_routing(RoutingCase kind, int64_t num_tokens, int64_t num_experts,
                            int64_t top_k, uint64_t seed) {
  Random random(seed);
  Routing r;
  r.ids.resize(num_tokens * top_k);
  r.weights.resize(num_tokens * top_k);
  std::vector<int32_t> deck(num_experts);
  for (int64_t t = 0; t < num_tokens; ++t) {
    for (int64_t e = 0; e < num_experts; ++e) deck[e] = static_cast<int32_t>(e);
    float sum = 0;
    for (int64_t s = 0; s < top_k; ++s) {
      int32_t id = 0;
      switch (kind) {
        case RoutingCase::kUniform:
        case RoutingCase::kWithMissing: {
          const int64_t pick = s + random.below(num_experts - s);
          std::swap(deck[s], deck[pick]);
          id = deck[s];
          if (kind == RoutingCase::kWithMissing && (t % 5 == 2 || random.below(3) == 0)) id = -1;
          break;
        }
        case RoutingCase::kSkewed: {
          const int64_t span =
              random.below(8) == 0 ? num_experts : std::max<int64_t>(top_k, num_experts / 8);
          const int64_t limit = std::max(s + 1, span);
          const int64_t pick = s + random.below(limit - s);
          std::swap(deck[s], deck[pick]);
          id = deck[s];
          break;
        }
        case RoutingCase::kAllOnOne:
          id = 0;
          break;
        case RoutingCase::kDuplicates:
          id = static_cast<int32_t>(random.below(std::min<int64_t>(num_experts, 3)));
          break;
      }
      r.ids[t * top_k + s] = id;
      const auto w = static_cast<float>(0.1 + random.uniform());
      r.weights[t * top_k + s] = w;
      sum += w;
    }
    for (int64_t s = 0; s < top_k; ++s) r.weights[t * top_k + s] /= sum;
  }
  return r;
}

/// [T, H] normal values, already representable in BF16.
inline std::vector<float> make_hidden_states(int64_t num_tokens, int64_t hidden, uint64_t seed,
                                             float std_dev = 1.0f) {
  Random random(seed);
  std::vector<float> x(num_tokens * hidden);
  for (float& v : x) v = round_to_bf16(std_dev * random.normal());
  return x;
}

}  // namespace moe4::testing
