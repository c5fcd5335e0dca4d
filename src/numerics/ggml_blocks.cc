// One loop a type; layouts are those of ggml-common.h.
#include "numerics/ggml_blocks.h"

#include <cstring>

#include "base/error.h"
#include "numerics/bf16.h"
#include "numerics/f16.h"

namespace moe4 {
namespace {

template <typename T>
T load(const uint8_t* from) {
  T value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

float load_f16(const uint8_t* from) { return to_float(F16{load<uint16_t>(from)}); }

// f16 d, 32 int8: d * q.
void decode_q8_0(const uint8_t* block, int64_t elements, float* out) {
  for (int64_t i = 0; i < elements; i += 32, block += 34, out += 32) {
    const float d = load_f16(block);
    for (int k = 0; k < 32; ++k) {
      out[k] = d * static_cast<float>(static_cast<int8_t>(block[2 + k]));
    }
  }
}

// f16 d, f16 dmin, eight 6-bit scales and minima in 12 bytes, 128 bytes of nibbles:
// (d * scale) * q - dmin * minimum, a scale for 32 elements.
void decode_q4_k(const uint8_t* block, int64_t elements, float* out) {
  for (int64_t i = 0; i < elements; i += 256, block += 144, out += 256) {
    const float d = load_f16(block), dmin = load_f16(block + 2);
    const uint8_t* packed = block + 4;
    const uint8_t* codes = block + 16;
    for (int64_t group = 0; group < 8; ++group) {
      // The first four stand in the low six bits; the others' upper two bits above those.
      const int scale =
          group < 4 ? packed[group] & 63 : (packed[group + 4] & 15) | (packed[group - 4] >> 6 << 4);
      const int minimum =
          group < 4 ? packed[group + 4] & 63 : (packed[group + 4] >> 4) | (packed[group] >> 6 << 4);
      const float step = d * static_cast<float>(scale);
      const float offset = dmin * static_cast<float>(minimum);
      const uint8_t* bytes = codes + group / 2 * 32;
      const int64_t shift = group % 2 * 4;
      for (int k = 0; k < 32; ++k) {
        out[group * 32 + k] = step * static_cast<float>(bytes[k] >> shift & 15) - offset;
      }
    }
  }
}

// 128 bytes of low nibbles, 64 of upper bit pairs, 16 int8 scales, f16 d: (d * scale) * (q - 32), a
// scale for 16 elements. Quarters of 32 elements of each half share bytes.
void decode_q6_k(const uint8_t* block, int64_t elements, float* out) {
  for (int64_t i = 0; i < elements; i += 256, block += 210, out += 256) {
    const float d = load_f16(block + 208);
    for (int64_t half = 0; half < 2; ++half) {
      const uint8_t* low = block + half * 64;
      const uint8_t* high = block + 128 + half * 32;
      const uint8_t* scales = block + 192 + half * 8;
      for (int64_t quarter = 0; quarter < 4; ++quarter) {
        for (int k = 0; k < 32; ++k) {
          const int nibble = low[quarter % 2 * 32 + k] >> (quarter / 2 * 4) & 15;
          const int pair = high[k] >> (quarter * 2) & 3;
          const auto scale = static_cast<int8_t>(scales[quarter * 2 + k / 16]);
          out[half * 128 + quarter * 32 + k] =
              d * static_cast<float>(scale) * static_cast<float>((nibble | pair << 4) - 32);
        }
      }
    }
  }
}

// The low nibbles of eight bytes, two neighbours a byte.
uint32_t pair_nibbles(uint64_t nibbles) {
  uint64_t pairs = (nibbles | nibbles >> 4) & 0x00ff00ff00ff00ffU;
  pairs = (pairs | pairs >> 8) & 0x0000ffff0000ffffU;
  return static_cast<uint32_t>(pairs | pairs >> 16);
}

// `half` bytes (a multiple of 8), byte j of which holds elements j and j + half, to pairs of
// neighbours.
void pair_neighbours(const uint8_t* from, int half, uint8_t* to) {
  constexpr uint64_t kLow = 0x0f0f0f0f0f0f0f0fU;
  for (int j = 0; j < half; j += 8) {
    const auto bytes = load<uint64_t>(from + j);
    const uint32_t first = pair_nibbles(bytes & kLow), second = pair_nibbles(bytes >> 4 & kLow);
    std::memcpy(to + j / 2, &first, sizeof first);
    std::memcpy(to + half / 2 + j / 2, &second, sizeof second);
  }
}

}  // namespace

void decode_ggml_floats(GgmlTypeId type, const std::byte* blocks, int64_t elements, float* out) {
  const auto* bytes = reinterpret_cast<const uint8_t*>(blocks);
  switch (type) {
    case GgmlTypeId::kF32:
      std::memcpy(out, bytes, static_cast<size_t>(elements) * sizeof(float));
      return;
    case GgmlTypeId::kF16:
      for (int64_t i = 0; i < elements; ++i) out[i] = load_f16(bytes + 2 * i);
      return;
    case GgmlTypeId::kBF16:
      for (int64_t i = 0; i < elements; ++i) {
        out[i] = to_float(Bf16{load<uint16_t>(bytes + 2 * i)});
      }
      return;
    case GgmlTypeId::kQ8_0:
      return decode_q8_0(bytes, elements, out);
    case GgmlTypeId::kQ4_K:
      return decode_q4_k(bytes, elements, out);
    case GgmlTypeId::kQ6_K:
      return decode_q6_k(bytes, elements, out);
    case GgmlTypeId::kI32:
    case GgmlTypeId::kMXFP4:
    case GgmlTypeId::kNVFP4:
      break;
  }
  MOE4_CHECK(false);
}

int64_t find_bad_ggml_factor(GgmlTypeId type, const std::byte* blocks, int64_t elements) {
  const auto* block = reinterpret_cast<const uint8_t*>(blocks);
  const auto is_bad = [](const uint8_t* factor) {
    return (load<uint16_t>(factor) & 0x7c00) == 0x7c00;
  };
  const auto find = [&](int64_t block_elements, int64_t bytes, auto&& is_bad_block) {
    for (int64_t i = 0; i < elements / block_elements; ++i, block += bytes) {
      if (is_bad_block()) return i;
    }
    return int64_t{-1};
  };
  switch (type) {
    case GgmlTypeId::kQ8_0:
      return find(32, 34, [&] { return is_bad(block); });
    case GgmlTypeId::kQ4_K:
      return find(256, 144, [&] { return is_bad(block) || is_bad(block + 2); });
    case GgmlTypeId::kQ6_K:
      return find(256, 210, [&] { return is_bad(block + 208); });
    default:
      return -1;
  }
}

void unpack_ggml_nvfp4_codes(const std::byte* blocks, int64_t elements, uint8_t* codes) {
  const auto* block = reinterpret_cast<const uint8_t*>(blocks);
  for (int64_t i = 0; i < elements; i += 64, block += 36) {
    for (int64_t group = 0; group < 4; ++group, codes += 8) {
      pair_neighbours(block + 4 + group * 8, 8, codes);
    }
  }
}

void unpack_ggml_nvfp4_scales(const std::byte* blocks, int64_t elements, uint8_t* scales) {
  const auto* block = reinterpret_cast<const uint8_t*>(blocks);
  for (int64_t i = 0; i < elements; i += 64, block += 36, scales += 4) {
    std::memcpy(scales, block, 4);
  }
}

void unpack_ggml_mxfp4_codes(const std::byte* blocks, int64_t elements, uint8_t* codes) {
  const auto* block = reinterpret_cast<const uint8_t*>(blocks);
  for (int64_t i = 0; i < elements; i += 32, block += 17, codes += 16) {
    pair_neighbours(block + 1, 16, codes);
  }
}

void unpack_ggml_mxfp4_scales(const std::byte* blocks, int64_t elements, uint8_t* scales) {
  const auto* block = reinterpret_cast<const uint8_t*>(blocks);
  for (int64_t i = 0; i < elements; i += 32, block += 17) *scales++ = *block;
}

}  // namespace moe4
