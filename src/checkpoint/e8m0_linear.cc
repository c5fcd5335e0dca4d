// Exact products of E4M3 values and powers of two, or an error.
#include "checkpoint/e8m0_linear.h"

#include <fmt/format.h>

#include <cmath>

#include "base/checked_math.h"
#include "base/error.h"
#include "checkpoint/mxfp4_linear.h"
#include "numerics/bf16.h"
#include "numerics/e4m3.h"
#include "numerics/e8m0.h"

namespace moe4 {
namespace {

constexpr int64_t kGroup = 32, kBlock = 128;

[[noreturn]] void fail(const NamedView& tensor, const char* what, const char* expected, int64_t row,
                       int64_t column, uint8_t byte) {
  throw_bad_input({.what = what,
                   .file = tensor.file,
                   .tensor = "tensor " + tensor.name,
                   .expected = expected,
                   .found = fmt::format("byte {:#04x} at [{}, {}]", byte, row, column),
                   .hint = "the checkpoint was quantised wrongly"});
}

const uint8_t* bytes_of(const TensorView& view, int64_t row) {
  return reinterpret_cast<const uint8_t*>(view.row(row));
}

float scale_at(const NamedView& scale, int64_t row, int64_t column) {
  const uint8_t byte = bytes_of(scale.view, row)[column];
  if (e8m0_is_nan(byte)) {
    fail(scale, "block scale is NaN", "E8M0 values from 0 to 254", row, column, byte);
  }
  return e8m0_to_float(byte);
}

// BF16 has the three bits behind the point that E4M3 has, and nearly all of the exponents.
void decode_groups(const NamedView& weight, const NamedView& scale, Bf16* to) {
  float values[256];
  for (int code = 0; code < 256; ++code) values[code] = e4m3_to_float(static_cast<uint8_t>(code));
  const int64_t rows = weight.view.shape[0], columns = weight.view.shape[1];
  for (int64_t r = 0; r < rows; ++r) {
    const uint8_t* codes = bytes_of(weight.view, r);
    for (int64_t first = 0; first < columns; first += kGroup) {
      const float factor = scale_at(scale, r, first / kGroup);
      for (int64_t c = first; c < first + kGroup; ++c, ++to) {
        const float exact = values[codes[c]] * factor;  // a power of two
        *to = to_bf16(exact);
        if (std::isfinite(exact) && to_float(*to) == exact) continue;
        fail(weight, "MXFP8 value is NaN or out of BF16's range", "values that BF16 holds", r, c,
             codes[c]);
      }
    }
  }
}

void convert_scales(const NamedView& scale, float* to) {
  for (int64_t r = 0; r < scale.view.shape[0]; ++r) {
    for (int64_t c = 0; c < scale.view.shape[1]; ++c) *to++ = scale_at(scale, r, c);
  }
}

}  // namespace

StoredLinear without_e8m0(const StoredLinear& stored, bool headers_only,
                          std::shared_ptr<const AlignedBuffer>& memory) {
  const TensorView& weight = stored.weight.view;
  if (weight.dtype != DType::kF8E4M3 || weight.shape.size() != 2 || !stored.scale ||
      !is_e8m0(stored.scale->view.dtype)) {
    return stored;
  }
  const int64_t rows = weight.shape[0], columns = weight.shape[1];
  const std::vector<int64_t>& shape = stored.scale->view.shape;
  const bool is_mxfp8 =
      columns % kGroup == 0 && shape == std::vector<int64_t>{rows, columns / kGroup};
  const std::vector<int64_t> blocks = {ceil_div(rows, kBlock), ceil_div(columns, kBlock)};
  if (!is_mxfp8 && shape != blocks) return stored;
  StoredLinear out = stored;
  TensorView& to = is_mxfp8 ? out.weight.view : out.scale->view;
  to = TensorView{.dtype = is_mxfp8 ? DType::kBF16 : DType::kF32, .shape = to.shape};
  if (is_mxfp8) out.scale.reset();
  if (headers_only) {
    out.weight.view.data = nullptr;
    return out;
  }
  auto buffer = std::make_shared<AlignedBuffer>(static_cast<size_t>(to.num_bytes()));
  if (is_mxfp8) {
    decode_groups(stored.weight, *stored.scale, reinterpret_cast<Bf16*>(buffer->data()));
  } else {
    convert_scales(*stored.scale, reinterpret_cast<float*>(buffer->data()));
  }
  to.data = buffer->data();
  memory = std::move(buffer);
  return out;
}

}  // namespace moe4
