// The element types of GGUF tensors: their numbers in files, names and block sizes.
#pragma once

#include <cstdint>
#include <string_view>

namespace moe4 {

/// The numbers of the types that moe4 decodes.
enum class GgmlTypeId : uint32_t {
  kF32 = 0,
  kF16 = 1,
  kQ8_0 = 8,
  kQ4_K = 12,
  kQ6_K = 14,
  kI32 = 26,
  kBF16 = 30,
  kMXFP4 = 39,
  kNVFP4 = 40,
};

/// A row is a whole number of blocks.
struct GgmlType {
  GgmlTypeId id;
  std::string_view name;
  int64_t block_elements;
  int64_t block_bytes;
  bool is_decoded;  ///< whether moe4 can use it; the others are known by size alone
};

/// Null for a number of no known type.
const GgmlType* find_ggml_type(uint32_t id);

}  // namespace moe4
