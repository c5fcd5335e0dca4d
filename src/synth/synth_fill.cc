// Table-driven fills: a random byte picks one of 256 quantiles of the wanted distribution.
#include "synth/synth_fill.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>

#include "numerics/bf16.h"
#include "numerics/e2m1.h"
#include "numerics/e4m3.h"
#include "numerics/e8m0.h"
#include "numerics/f16.h"

namespace moe4 {
namespace {

// Quantile (i + 0.5) / 256 of the standard normal distribution, by bisection of its distribution
// function.
float normal_quantile(int i) {
  const double p = (i + 0.5) / 256.0;
  double low = -6, high = 6;
  for (int step = 0; step < 60; ++step) {
    const double middle = (low + high) / 2;
    (0.5 * std::erfc(-middle / std::sqrt(2.0)) < p ? low : high) = middle;
  }
  return static_cast<float>(low);
}

template <typename T, typename F>
std::array<T, 256> make_table(F value) {
  std::array<T, 256> table;
  for (int i = 0; i < 256; ++i) table[i] = value(i);
  return table;
}

uint16_t half_bits(DType dtype, float value) {
  return dtype == DType::kF16 ? to_f16(value).bits : to_bf16(value).bits;
}

}  // namespace

TensorFiller::TensorFiller(const SynthTensor& tensor, uint64_t seed)
    : tensor_(tensor), state_(seed) {
  for (char c : tensor.name)
    state_ = (state_ ^ static_cast<unsigned char>(c)) * 0x100000001b3ull;  // FNV-1a
}

// splitmix64 (Steele, Lea, Flood 2014).
uint64_t TensorFiller::next() {
  uint64_t z = (state_ += 0x9e3779b97f4a7c15ull);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return z ^ (z >> 31);
}

void TensorFiller::fill(std::span<std::byte> piece) {
  static const auto kNormal = make_table<float>(normal_quantile);
  // Three sigma-units a code: the largest of 16 values then sits near 6, as in a quantised tensor.
  static const auto kCodes = make_table<uint8_t>(
      [](int i) { return e2m1_from_float(kCodeDeviation * normal_quantile(i)); });
  static const auto kScales = make_table<uint8_t>(
      [](int i) { return e4m3_from_float(64.0f + 384.0f * static_cast<float>(i) / 255.0f); });
  static const auto kFp8 = make_table<uint8_t>(
      [](int i) { return e4m3_from_float(kFp8Deviation * normal_quantile(i)); });

  const auto for_words = [&](auto&& make) {
    for (size_t at = 0; at < piece.size(); at += 8) {
      const uint64_t word = make(next());
      std::memcpy(piece.data() + at, &word, std::min<size_t>(8, piece.size() - at));
    }
  };
  // As many elements of `bits` bits as a word holds, each by one of its random bytes.
  const auto from_table = [&](const auto& table, int bits) {
    for_words([&table, bits](uint64_t random) {
      uint64_t word = 0;
      for (int b = 0; b < 64; b += bits) word |= uint64_t{table[(random >> b) & 255]} << b;
      return word;
    });
  };
  const auto floats = [&](auto&& value) {
    if (tensor_.dtype == DType::kF32) {
      from_table(make_table<uint32_t>([&](int i) { return std::bit_cast<uint32_t>(value(i)); }),
                 32);
    } else {
      from_table(make_table<uint16_t>([&](int i) { return half_bits(tensor_.dtype, value(i)); }),
                 16);
    }
  };
  switch (tensor_.fill) {
    case Fill::kNormal:
      floats([&](int i) { return tensor_.param * kNormal[i]; });
      break;
    case Fill::kUniform:
      floats([&](int i) {
        return tensor_.param + (tensor_.param2 - tensor_.param) * static_cast<float>(i) / 255.0f;
      });
      break;
    case Fill::kConstant: {
      const uint16_t half = half_bits(tensor_.dtype, tensor_.param);
      const bool wide = tensor_.dtype == DType::kF32;
      const size_t size = wide ? 4 : 2;
      const void* from = wide ? static_cast<const void*>(&tensor_.param) : &half;
      for (size_t at = 0; at < piece.size(); at += size) {
        std::memcpy(piece.data() + at, from, size);
      }
      break;
    }
    case Fill::kCodes:
      for_words([](uint64_t random) {
        const uint64_t other =
            random * 0xd6e8feb86659fd93ull;  // independent high bits for the second nibbles
        uint64_t word = 0;
        for (int b = 0; b < 64; b += 8) {
          const uint64_t high = (other >> (56 - b)) & 255;
          word |= uint64_t{static_cast<uint8_t>(kCodes[(random >> b) & 255] | (kCodes[high] << 4))}
                  << b;
        }
        return word;
      });
      break;
    case Fill::kBlockScales:
      from_table(kScales, 8);
      break;
    case Fill::kPowersOfTwo: {
      // The mean of 4^e and 4^(e + 1) is 2.5 * 4^e.
      const int e = static_cast<int>(std::lround(std::log2(tensor_.param / std::sqrt(2.5f))));
      const int low = std::clamp(e + kE8m0Bias, 1, kE8m0Nan - 2);
      from_table(make_table<uint8_t>([&](int i) { return static_cast<uint8_t>(low + i % 2); }), 8);
      break;
    }
    case Fill::kFp8Normal:
      from_table(kFp8, 8);
      break;
    case Fill::kExpertIds: {
      const int64_t size = size_of(tensor_.dtype), experts = std::llround(tensor_.param);
      for (int64_t at = 0; at < static_cast<int64_t>(piece.size()); at += size) {
        const int64_t id = (done_ + at) / size % experts;  // little-endian: the low bytes first
        std::memcpy(piece.data() + at, &id, static_cast<size_t>(size));
      }
      break;
    }
  }
  done_ += static_cast<int64_t>(piece.size());
}

}  // namespace moe4
