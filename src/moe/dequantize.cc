// Decoding of weight rows in every format of weights.h.
#include "moe/dequantize.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "numerics/bf16.h"
#include "numerics/e4m3.h"
#include "numerics/ggml_blocks.h"
#include "numerics/mxfp4.h"
#include "numerics/nvfp4.h"

namespace moe4 {
namespace {

float f16_to_float(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000) << 16;
  const uint32_t exponent = (half >> 10) & 0x1f;
  const uint32_t mantissa = half & 0x3ff;
  if (exponent == 0) {
    const float value = std::ldexp(static_cast<float>(mantissa), -24);
    return sign ? -value : value;
  }
  if (exponent == 31) return std::bit_cast<float>(sign | 0x7f800000u | (mantissa << 13));
  return std::bit_cast<float>(sign | ((exponent + 112) << 23) | (mantissa << 13));
}

// Tensors are not aligned in files: elements are loaded with memcpy.
template <typename T>
T load(const void* data, int64_t i) {
  T value;
  std::memcpy(&value, static_cast<const std::byte*>(data) + i * static_cast<int64_t>(sizeof(T)),
              sizeof(T));
  return value;
}

float scale_at(const TensorView& scale, int64_t row, int64_t column) {
  float value;
  const void* at = scale.row(row) + column * size_of(scale.dtype);
  convert_to_float(at, scale.dtype, 1, &value);
  return value;
}

}  // namespace

void convert_to_float(const void* data, DType dtype, int64_t n, float* out) {
  switch (dtype) {
    case DType::kF32:
      std::memcpy(out, data, n * sizeof(float));
      return;
    case DType::kBF16:
      for (int64_t i = 0; i < n; ++i) out[i] = to_float(Bf16{load<uint16_t>(data, i)});
      return;
    case DType::kF16:
      for (int64_t i = 0; i < n; ++i) out[i] = f16_to_float(load<uint16_t>(data, i));
      return;
    case DType::kF64:
      for (int64_t i = 0; i < n; ++i) out[i] = static_cast<float>(load<double>(data, i));
      return;
    default:
      throw Error(ErrorCode::kInternal, "no conversion from " + std::string(to_string(dtype)));
  }
}

float bias_at(const LinearWeights& linear, int64_t row) {
  float bias = 0.0f;
  if (!linear.bias.empty()) convert_to_float(linear.bias.row(row), linear.bias.dtype, 1, &bias);
  return bias;
}

void dequantize_row(const LinearWeights& linear, int64_t row, float* out) {
  const int64_t k_size = linear.in_features;
  const auto* bytes = reinterpret_cast<const uint8_t*>(linear.weight.row(row));
  switch (linear.scheme.weight.format) {
    case QuantFormat::kFloat:
      convert_to_float(bytes, linear.weight.dtype, k_size, out);
      return;
    case QuantFormat::kNvfp4: {
      const auto* scales = reinterpret_cast<const uint8_t*>(linear.scale.row(row));
      for (int64_t k = 0; k < k_size; ++k) {
        out[k] = nvfp4_value(nvfp4_code(bytes, k), scales[k / kNvfp4Block], linear.global_scale);
      }
      return;
    }
    case QuantFormat::kMxfp4: {
      const auto* scales = reinterpret_cast<const uint8_t*>(linear.scale.row(row));
      for (int64_t k = 0; k < k_size; ++k) {
        out[k] = mxfp4_value(mxfp4_code(bytes, k), scales[k / kMxfp4Block]);
      }
      return;
    }
    case QuantFormat::kFp8Tensor:
      for (int64_t k = 0; k < k_size; ++k)
        out[k] = e4m3_to_float(bytes[k]) * linear.global_scale.value;
      return;
    case QuantFormat::kFp8Channel: {
      const float scale = scale_at(linear.scale, row, 0);
      for (int64_t k = 0; k < k_size; ++k) out[k] = e4m3_to_float(bytes[k]) * scale;
      return;
    }
    case QuantFormat::kFp8Block128:
      for (int64_t begin = 0; begin < k_size; begin += 128) {
        const float scale = scale_at(linear.scale, row / 128, begin / 128);
        for (int64_t k = begin; k < std::min(begin + 128, k_size); ++k)
          out[k] = e4m3_to_float(bytes[k]) * scale;
      }
      return;
    case QuantFormat::kQ8_0:
      decode_ggml_floats(ggml_type_of(linear.scheme.weight.format)->id, linear.weight.row(row),
                         k_size, out);
      return;
    case QuantFormat::kFp8Token:
      break;
  }
  throw Error(ErrorCode::kInternal, linear.name + ": weights cannot be quantised per token");
}

}  // namespace moe4
