// Element types that occur in checkpoints, and their sizes.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace moe4 {

enum class DType {
  kBool,
  kU8,
  kI8,
  kI16,
  kU16,
  kI32,
  kU32,
  kI64,
  kU64,
  kF8E4M3,
  kF8E5M2,
  kF8E8M0,
  kF16,
  kBF16,
  kF32,
  kF64,
};

constexpr int64_t size_of(DType dtype) {
  switch (dtype) {
    case DType::kBool:
    case DType::kU8:
    case DType::kI8:
    case DType::kF8E4M3:
    case DType::kF8E5M2:
    case DType::kF8E8M0:
      return 1;
    case DType::kI16:
    case DType::kU16:
    case DType::kF16:
    case DType::kBF16:
      return 2;
    case DType::kI32:
    case DType::kU32:
    case DType::kF32:
      return 4;
    case DType::kI64:
    case DType::kU64:
    case DType::kF64:
      return 8;
  }
  return 0;
}

/// The spelling of safetensors headers ("BF16", "F8_E4M3", ...).
std::string_view to_string(DType dtype);
/// Parses the safetensors spelling; nullopt for a type moe4 does not know.
std::optional<DType> parse_dtype(std::string_view name);

}  // namespace moe4
