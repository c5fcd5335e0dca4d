// Panels from rows of the checkpoint: bytes are moved, never rounded.
#include "panels/pack_panel.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "moe/dequantize.h"
#include "moe/mxfp4_exponents.h"
#include "numerics/e4m3.h"
#include "numerics/nvfp4.h"

namespace moe4::cpu {
namespace {

constexpr uint8_t kBadScale = 0xff;

// E4M3 byte -> 5 exponent bits, 3 mantissa bits (packed_layout.h); zero maps to zero, which the
// packer treats apart; NaN and negative scales map to kBadScale.
constexpr std::array<uint8_t, 256> make_scale_table() {
  std::array<uint8_t, 256> table{};
  for (int byte = 0; byte < 256; ++byte) {
    const int exponent = byte >> 3, mantissa = byte & 7;
    if (byte == 0 || byte == 0x80) {
      table[byte] = 0;
    } else if (byte >= 0x7f) {
      table[byte] = kBadScale;
    } else if (exponent > 0) {
      table[byte] = static_cast<uint8_t>((exponent - 7 + kScaleExponentBias) << 3 | mantissa);
    } else {
      // mantissa * 2^-9: its leading bit becomes the implicit one.
      const int top = mantissa >= 4 ? 2 : (mantissa >= 2 ? 1 : 0);
      table[byte] =
          static_cast<uint8_t>((top - 9 + kScaleExponentBias) << 3 | ((mantissa << (3 - top)) & 7));
    }
  }
  return table;
}
constexpr std::array<uint8_t, 256> kScaleTable = make_scale_table();

// Nibbles e0 e1 ... e7 (from the lowest) to e0 e4 e1 e5 e2 e6 e3 e7.
constexpr uint32_t interleave_halves(uint32_t word) {
  const auto spread = [](uint32_t x) {
    x = (x | x << 8) & 0x00ff00ffu;
    return (x | x << 4) & 0x0f0f0f0fu;
  };
  return spread(word & 0xffffu) | spread(word >> 16) << 4;
}

// Column blocks of a few KiB, so that the scattered stores stay in L1.
template <typename T>
void transpose_rows(const std::byte* const* rows, int64_t k, std::byte* out) {
  constexpr int64_t kColumns = 64;
  auto* to = reinterpret_cast<T*>(out);
  for (int64_t begin = 0; begin < k; begin += kColumns) {
    const int64_t end = std::min(begin + kColumns, k);
    for (int r = 0; r < kPanelRows; ++r) {
      if (rows[r] == nullptr) continue;
      T column[kColumns];
      std::memcpy(column, rows[r] + begin * sizeof(T), (end - begin) * sizeof(T));
      for (int64_t i = begin; i < end; ++i) to[i * kPanelRows + r] = column[i - begin];
    }
  }
}

float fp8_group_scale(const LinearWeights& linear, int64_t row, int64_t group) {
  if (linear.scheme.weight.format == QuantFormat::kFp8Tensor) return linear.global_scale.value;
  const bool block = linear.scheme.weight.format == QuantFormat::kFp8Block128;
  const int64_t r = block ? row / kDenseGroup : row, c = block ? group : 0;
  float value;
  convert_to_float(linear.scale.row(r) + c * size_of(linear.scale.dtype), linear.scale.dtype, 1,
                   &value);
  return value;
}

// One half (16 rows) of a unit's block: 128 bytes of codes. Null rows are padding.
void pack_codes(const uint8_t* const* codes, int64_t block, std::byte* out) {
  uint32_t words[2][16];
  for (int r = 0; r < 16; ++r) {
    uint32_t pair[2] = {0, 0};
    if (codes[r] != nullptr) std::memcpy(pair, codes[r] + block * (kBlock / 2), 8);
    words[0][r] = interleave_halves(pair[0]);
    words[1][r] = interleave_halves(pair[1]);
  }
  std::memcpy(out, words, sizeof words);
}

// Where the rows of a panel of E2M1 codes begin; null for padding.
struct Fp4Rows {
  const uint8_t* codes[kPanelRows] = {};
  const uint8_t* scales[kPanelRows] = {};

  explicit Fp4Rows(const PanelRows& sources) {
    for (int r = 0; r < kPanelRows; ++r) {
      const LinearWeights* l = sources[r].linear;
      if (l == nullptr) continue;
      codes[r] = reinterpret_cast<const uint8_t*>(l->weight.row(sources[r].row));
      scales[r] = reinterpret_cast<const uint8_t*>(l->scale.row(sources[r].row));
    }
  }
};

bool pack_nvfp4(const PanelRows& sources, int64_t in_features, std::byte* out) {
  const Fp4Rows rows(sources);
  bool good = true;
  for (int64_t block = 0; block < in_features / kBlock; ++block) {
    std::byte* unit = out + block / 2 * Nvfp4Unit::kBytes;
    const int b = static_cast<int>(block % 2);
    for (int h = 0; h < 2; ++h) {
      const uint8_t* codes[16];
      std::byte* scales = unit + Nvfp4Unit::scales(b, h);
      for (int r = 0; r < 16; ++r) {
        const uint8_t* from = rows.scales[16 * h + r];
        const uint8_t scale = from == nullptr ? uint8_t{0} : from[block];
        codes[r] = (scale & 0x7f) == 0 ? nullptr : rows.codes[16 * h + r];
        good = good && kScaleTable[scale] != kBadScale;
        scales[r] = static_cast<std::byte>(kScaleTable[scale]);
      }
      pack_codes(codes, block, unit + int64_t{128} * (2 * b + h));
    }
  }
  return good;  // the padding block of an odd count stays as the buffer began: zeros
}

void pack_mxfp4(const PanelRows& sources, int64_t in_features, std::byte* out) {
  const Fp4Rows rows(sources);
  for (int64_t u = 0; u < in_features / kUnitInputs; ++u) {
    std::byte* unit = out + u * Mxfp4Unit::kBytes;
    for (int r = 0; r < kPanelRows; ++r) {
      if (rows.scales[r] == nullptr) continue;
      unit[Mxfp4Unit::scales(0, r / 16) + r % 16] =
          static_cast<std::byte>(shifted_exponent(rows.scales[r][u], sources[r].exponent_shift));
    }
    for (int part = 0; part < 4; ++part) {
      pack_codes(rows.codes + int64_t{16} * (part % 2), 2 * u + part / 2,
                 unit + int64_t{128} * part);
    }
  }
}

bool pack_q8_0(const std::byte* const* rows, int64_t in_features, std::byte* out) {
  constexpr int64_t kBlockBytes = 34;
  bool good = true;
  for (int64_t u = 0; u < in_features / kUnitInputs; ++u) {
    std::byte* unit = out + u * Q8_0Unit::kBytes;
    for (int r = 0; r < kPanelRows; ++r) {
      if (rows[r] == nullptr) continue;
      const std::byte* block = rows[r] + u * kBlockBytes;
      uint16_t scale;
      std::memcpy(&scale, block, sizeof scale);
      good = good && (scale & 0x7c00) != 0x7c00;
      std::memcpy(unit + Q8_0Unit::kScales + int64_t{2} * r, &scale, sizeof scale);
      for (int k = 0; k < kUnitInputs; ++k) unit[k * kPanelRows + r] = block[2 + k];
    }
  }
  return good;
}

float q8_0_value(const std::byte* panel, int row, int64_t input) {
  const std::byte* unit = panel + input / kUnitInputs * Q8_0Unit::kBytes;
  float scale;
  convert_to_float(unit + Q8_0Unit::kScales + int64_t{2} * row, DType::kF16, 1, &scale);
  return scale *
         static_cast<float>(static_cast<int8_t>(unit[input % kUnitInputs * kPanelRows + row]));
}

template <class Unit>
float fp4_value(const std::byte* panel, int row, int64_t input) {
  const std::byte* unit = panel + input / kUnitInputs * Unit::kBytes;
  const int b = static_cast<int>(input / kBlock % 2), h = row / 16;
  const int64_t i = input % kBlock;
  const auto byte = static_cast<uint8_t>(
      unit[int64_t{128} * (2 * b + h) + 64 * (i / 8) + int64_t{4} * (row % 16) + i % 4]);
  const auto scale = static_cast<int32_t>(unit[Unit::scales(b, h) + row % 16]);
  return e2m1_to_float(i / 4 % 2 == 0 ? byte & 15 : byte >> 4) *
         std::bit_cast<float>((scale << Unit::kScaleShift) + Unit::kScaleBias);
}

}  // namespace

int64_t panel_bytes(PanelFormat format, int64_t in_features) {
  const int64_t inputs = padded_inputs(in_features);
  switch (format) {
    case PanelFormat::kNvfp4:
      return inputs / kUnitInputs * Nvfp4Unit::kBytes;
    case PanelFormat::kMxfp4:
      return round_up(inputs / kUnitInputs * Mxfp4Unit::kBytes, 64);
    case PanelFormat::kBf16:
    case PanelFormat::kF16:
      return inputs * kPanelRows * 2;
    case PanelFormat::kF32:
      return inputs * kPanelRows * 4;
    case PanelFormat::kFp8:
      return inputs * kPanelRows;
    case PanelFormat::kFp8Groups:
      return inputs * kPanelRows + ceil_div(inputs, kDenseGroup) * kPanelRows * 4;
    case PanelFormat::kQ8_0:
      return inputs / kUnitInputs * Q8_0Unit::kBytes;
  }
  return 0;
}

bool pack_panel(PanelFormat format, const PanelRows& sources, int64_t in_features, std::byte* out) {
  bool good = true;
  const std::byte* rows[kPanelRows];
  for (int r = 0; r < kPanelRows; ++r) {
    rows[r] = sources[r].linear ? sources[r].linear->weight.row(sources[r].row) : nullptr;
  }
  switch (format) {
    case PanelFormat::kNvfp4:
      return pack_nvfp4(sources, in_features, out);
    case PanelFormat::kMxfp4:
      pack_mxfp4(sources, in_features, out);
      return true;
    case PanelFormat::kBf16:
      transpose_rows<uint16_t>(rows, in_features, out);
      return true;
    case PanelFormat::kF16: {
      for (const std::byte* row : rows) {
        for (int64_t k = 0; row != nullptr && k < in_features; ++k) {
          uint16_t half;
          std::memcpy(&half, row + 2 * k, 2);
          good = good && (half & 0x7c00) != 0x7c00;
        }
      }
      transpose_rows<uint16_t>(rows, in_features, out);
      return good;
    }
    case PanelFormat::kF32: {
      auto* to = reinterpret_cast<float*>(out);
      for (int r = 0; r < kPanelRows; ++r) {
        if (!rows[r]) continue;
        const DType dtype = sources[r].linear->weight.dtype;
        for (int64_t k = 0; k < in_features; ++k) {
          convert_to_float(rows[r] + k * size_of(dtype), dtype, 1, &to[k * kPanelRows + r]);
        }
      }
      return true;
    }
    case PanelFormat::kFp8:
    case PanelFormat::kFp8Groups: {
      for (const std::byte* row : rows) {
        for (int64_t k = 0; row != nullptr && k < in_features; ++k) {
          good &= !e4m3_is_nan(static_cast<uint8_t>(row[k]));
        }
      }
      transpose_rows<uint8_t>(rows, in_features, out);
      if (format == PanelFormat::kFp8) return good;
      auto* scales = reinterpret_cast<float*>(out + padded_inputs(in_features) * kPanelRows);
      for (int64_t g = 0; g < ceil_div(in_features, kDenseGroup); ++g) {
        for (int r = 0; r < kPanelRows; ++r) {
          const PanelRow& source = sources[r];
          const float scale = source.linear ? fp8_group_scale(*source.linear, source.row, g) : 0.0f;
          good = good && std::isfinite(scale);
          scales[g * kPanelRows + r] = scale;
        }
      }
      return good;
    }
    case PanelFormat::kQ8_0:
      return pack_q8_0(rows, in_features, out);
  }
  return good;
}

int panel_exponent_shift(const LinearWeights& linear) {
  return mxfp4_exponent_shift(linear, {kLeastExponent, kMostExponent, 0}, "cpu");
}

void check_block_scales(const LinearWeights& linear) {
  if (!linear.scheme.is_nvfp4()) return;
  for (int64_t r = 0; r < linear.out_features; ++r) {
    const auto* scales = reinterpret_cast<const uint8_t*>(linear.scale.row(r));
    for (int64_t b = 0; b < linear.in_features / kBlock; ++b) {
      if (kScaleTable[scales[b]] != kBadScale) continue;
      throw_bad_input(
          {.what = "bad block scale at row " + std::to_string(r) + ", block " + std::to_string(b),
           .tensor = linear.name + ".weight_scale",
           .expected = "a non-negative number",
           .found = e4m3_is_nan(scales[b]) ? "NaN" : "a negative number",
           .hint = "the file is damaged or was exported wrongly"});
    }
  }
}

float panel_value(PanelFormat format, const std::byte* panel, int64_t in_features, int row,
                  int64_t input) {
  const int64_t at = input * kPanelRows + row;
  float value = 0;
  switch (format) {
    case PanelFormat::kNvfp4:
      return fp4_value<Nvfp4Unit>(panel, row, input);
    case PanelFormat::kMxfp4:
      return fp4_value<Mxfp4Unit>(panel, row, input);
    case PanelFormat::kBf16:
      convert_to_float(panel + 2 * at, DType::kBF16, 1, &value);
      return value;
    case PanelFormat::kF16:
      convert_to_float(panel + 2 * at, DType::kF16, 1, &value);
      return value;
    case PanelFormat::kF32:
      convert_to_float(panel + 4 * at, DType::kF32, 1, &value);
      return value;
    case PanelFormat::kFp8:
      return e4m3_to_float(static_cast<uint8_t>(panel[at]));
    case PanelFormat::kFp8Groups: {
      const std::byte* scales = panel + padded_inputs(in_features) * kPanelRows;
      convert_to_float(scales + 4 * (input / kDenseGroup * kPanelRows + row), DType::kF32, 1,
                       &value);
      return e4m3_to_float(static_cast<uint8_t>(panel[at])) * value;
    }
    case PanelFormat::kQ8_0:
      return q8_0_value(panel, row, input);
  }
  return value;
}

}  // namespace moe4::cpu
