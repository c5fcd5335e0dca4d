// The beginning of a GGUF file: metadata and the list of tensors, checked before anything is used.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "numerics/ggml_types.h"

namespace moe4 {

/// The numbers that files have for the types of values.
enum class GgufValueType : uint32_t {
  kU8 = 0,
  kI8 = 1,
  kU16 = 2,
  kI16 = 3,
  kU32 = 4,
  kI32 = 5,
  kF32 = 6,
  kBool = 7,
  kString = 8,
  kArray = 9,
  kU64 = 10,
  kI64 = 11,
  kF64 = 12,
};

/// "u32", "string", ...
std::string_view to_string(GgufValueType type);

/// One scalar; strings lie in the file's bytes.
using GgufScalar = std::variant<uint64_t, int64_t, double, bool, std::string_view>;

/// An array of scalars as the file has it, already checked to be complete and, for strings and
/// bools, well formed.
struct GgufArray {
  GgufValueType type = GgufValueType::kU8;
  int64_t count = 0;
  std::string_view bytes;

  /// Calls `visit` with every element in order.
  template <typename Visit>
  void for_each(const Visit& visit) const;
};

struct GgufValue {
  GgufValueType type = GgufValueType::kU8;
  std::variant<GgufScalar, GgufArray> value;
};

/// One entry of the list, checked: dimensions and bytes fit 63 bits, rows are whole blocks.
struct GgufTensor {
  std::string name;
  uint32_t type_id = 0;
  const GgmlType* type = nullptr;  ///< null: a number of no known type; `bytes` is 0 then
  std::vector<int64_t> shape;      ///< outermost first, as safetensors has it
  int64_t begin = 0;               ///< bytes behind the beginning of the data
  int64_t bytes = 0;
};

struct GgufHeader {
  std::map<std::string, GgufValue, std::less<>> metadata;
  std::vector<GgufTensor> tensors;  ///< in the file's order
  int64_t data_begin = 0;           ///< bytes before the data, padding included
  int64_t data_bytes = 0;           ///< end of the last tensor of a known type
};

inline constexpr std::string_view kGgufMagic = "GGUF";

/// Parses versions 2 and 3. `bytes` is the beginning of the file, or all of it; views in the result
/// point into it. Checked: every count and length against the bytes that are there, unique keys and
/// names, sizes in 64-bit checked arithmetic, alignment, and tensors that follow each other without
/// gap or overlap. Throws Error(kBadInput) naming `file` and the key or tensor.
GgufHeader parse_gguf_header(std::string_view bytes, const std::string& file);

/// One scalar of this type at the beginning of `bytes`, which is cut off. Only for bytes that
/// parse_gguf_header() has checked.
GgufScalar take_gguf_scalar(GgufValueType type, std::string_view& bytes);

template <typename Visit>
void GgufArray::for_each(const Visit& visit) const {
  std::string_view rest = bytes;
  for (int64_t i = 0; i < count; ++i) visit(take_gguf_scalar(type, rest));
}

}  // namespace moe4
