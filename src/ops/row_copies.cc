// Conversions on the host, in memory with the strides of the rows.
#include "ops/row_copies.h"

#include <vector>

#include "base/error.h"
#include "numerics/bf16.h"

namespace moe4 {
namespace {

// As far as the rows' memory goes: the last row has no padding behind it for certain.
size_t elements_of(const Rows& rows) {
  return rows.rows == 0 ? 0 : static_cast<size_t>((rows.rows - 1) * rows.stride + rows.width);
}

template <typename T, typename F>
void each_value(const Rows& rows, std::vector<T>& stored, const F& f) {
  for (int64_t r = 0; r < rows.rows; ++r) {
    for (int64_t c = 0; c < rows.width; ++c) {
      f(stored[static_cast<size_t>(r * rows.stride + c)], static_cast<size_t>(r * rows.width + c));
    }
  }
}

template <typename T, typename F>
void write_as(const Rows& rows, const Stream& stream, const F& to_stored) {
  std::vector<T> stored(elements_of(rows));
  each_value(rows, stored, to_stored);
  copy(stream, rows.data, stored.data(), stored.size() * sizeof(T));
  wait(stream);
}

template <typename T, typename F>
void read_as(const Rows& rows, const Stream& stream, const F& from_stored) {
  std::vector<T> stored(elements_of(rows));
  copy(stream, stored.data(), rows.data, stored.size() * sizeof(T));
  wait(stream);
  each_value(rows, stored, from_stored);
}

}  // namespace

void write_rows(std::span<const float> values, const Rows& rows, const Stream& stream) {
  MOE4_CHECK(static_cast<int64_t>(values.size()) == rows.rows * rows.width);
  if (rows.format == RowFormat::kF32) {
    write_as<float>(rows, stream, [&](float& to, size_t i) { to = values[i]; });
  } else {
    write_as<Bf16>(rows, stream, [&](Bf16& to, size_t i) { to = to_bf16(values[i]); });
  }
}

void read_rows(const Rows& rows, std::span<float> values, const Stream& stream) {
  MOE4_CHECK(static_cast<int64_t>(values.size()) == rows.rows * rows.width);
  if (rows.format == RowFormat::kF32) {
    read_as<float>(rows, stream, [&](const float& from, size_t i) { values[i] = from; });
  } else {
    read_as<Bf16>(rows, stream, [&](const Bf16& from, size_t i) { values[i] = to_float(from); });
  }
}

}  // namespace moe4
