// Rows of activations: the only shape that ops pass to each other.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/checked_math.h"
#include "device/arena.h"

namespace moe4 {

/// How a row is stored. A format is here when an op writes it and another reads it.
enum class RowFormat : uint8_t {
  kF32,
  kBf16,
};

constexpr int64_t element_bytes(RowFormat format) { return format == RowFormat::kF32 ? 4 : 2; }

/// Rows begin this many elements or a multiple of it apart, so that kernels which work on 16 or 32
/// values at a time may write past `width` (never past `stride`). What lies there has no meaning.
inline constexpr int64_t kRowPadding = 32;
constexpr int64_t padded_row(int64_t width) { return round_up(width, kRowPadding); }

/// A view of `rows` x `width` values on an op's device; owns nothing.
struct Rows {
  std::byte* data = nullptr;
  RowFormat format = RowFormat::kF32;
  int64_t rows = 0;
  int64_t width = 0;
  int64_t stride = 0;  ///< elements between the beginnings of rows, at least `width`

  bool empty() const { return data == nullptr && rows == 0; }
  /// Row `i` of kF32 rows.
  float* row(int64_t i) const { return reinterpret_cast<float*>(data) + i * stride; }
  /// Where the element `elements` after the first lies; null stays null (measuring arenas).
  std::byte* at(int64_t elements) const {
    return data == nullptr ? nullptr : data + elements * element_bytes(format);
  }
  /// `count` columns from `begin` of every row.
  Rows columns(int64_t begin, int64_t count) const {
    return {at(begin), format, rows, count, stride};
  }
  /// `count` rows from `begin`.
  Rows slice(int64_t begin, int64_t count) const {
    return {at(begin * stride), format, count, width, stride};
  }
  /// Float32 rows of a caller's own memory, padded_row(width) apart.
  static Rows padded(float* values, int64_t rows, int64_t width) {
    return {reinterpret_cast<std::byte*>(values), RowFormat::kF32, rows, width, padded_row(width)};
  }
  /// Dense float32 rows of a caller's own memory.
  static Rows dense(float* values, int64_t rows, int64_t width) {
    return {reinterpret_cast<std::byte*>(values), RowFormat::kF32, rows, width, width};
  }
};

/// Padded rows, not initialised (`data` is null when the arena measures).
inline Rows take_rows(Arena& arena, int64_t rows, int64_t width,
                      RowFormat format = RowFormat::kF32) {
  const int64_t stride = padded_row(width);
  auto* data = arena.bytes(static_cast<size_t>(rows * stride * element_bytes(format)));
  return {data, format, rows, width, stride};
}

}  // namespace moe4
