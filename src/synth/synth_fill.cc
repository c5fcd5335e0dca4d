// Table-driven fills: a random byte picks one of 256 quantiles of the wanted distribution.
#include "synth/synth_fill.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "numerics/bf16.h"
#include "numerics/e2m1.h"
#include "numerics/e4m3.h"

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
  static const auto kCodes =
      make_table<uint8_t>([](int i) { return e2m1_from_float(3.0f * normal_quantile(i)); });
  static const auto kScales = make_table<uint8_t>(
      [](int i) { return e4m3_from_float(64.0f + 384.0f * static_cast<float>(i) / 255.0f); });
  static const auto kFp8 =
      make_table<uint8_t>([](int i) { return e4m3_from_float(96.0f * normal_quantile(i)); });

  const auto for_words = [&](auto&& make) {
    for (size_t at = 0; at < piece.size(); at += 8) {
      const uint64_t word = make(next());
      std::memcpy(piece.data() + at, &word, std::min<size_t>(8, piece.size() - at));
    }
  };
  const auto bytes_from = [](const std::array<uint8_t, 256>& table) {
    return [&table](uint64_t random) {
      uint64_t word = 0;
      for (int b = 0; b < 64; b += 8) word |= uint64_t{table[(random >> b) & 255]} << b;
      return word;
    };
  };
  const auto bf16_from = [&](auto&& value) {
    return [&](uint64_t random) {
      uint64_t word = 0;
      for (int b = 0; b < 4; ++b)
        word |= uint64_t{to_bf16(value((random >> (16 * b)) & 255)).bits} << (16 * b);
      return word;
    };
  };
  switch (tensor_.fill) {
    case Fill::kNormal: {
      std::array<uint16_t, 256> table;
      for (int i = 0; i < 256; ++i) table[i] = to_bf16(tensor_.param * kNormal[i]).bits;
      for_words([&](uint64_t random) {
        uint64_t word = 0;
        for (int b = 0; b < 64; b += 16) word |= uint64_t{table[(random >> b) & 255]} << b;
        return word;
      });
      return;
    }
    case Fill::kUniform:
      for_words(bf16_from([&](uint64_t i) {
        return tensor_.param + (tensor_.param2 - tensor_.param) * static_cast<float>(i) / 255.0f;
      }));
      return;
    case Fill::kConstant:
      if (tensor_.dtype == DType::kF32) {
        for (size_t at = 0; at < piece.size(); at += 4)
          std::memcpy(piece.data() + at, &tensor_.param, 4);
      } else {
        for_words(bf16_from([&](uint64_t) { return tensor_.param; }));
      }
      return;
    case Fill::kNvfp4Codes:
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
      return;
    case Fill::kBlockScales:
      for_words(bytes_from(kScales));
      return;
    case Fill::kFp8Normal:
      for_words(bytes_from(kFp8));
      return;
  }
}

}  // namespace moe4
