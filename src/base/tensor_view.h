// A non-owning view of a tensor: where it lies, its element type, shape and row stride.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "base/dtype.h"
#include "base/error.h"

namespace moe4 {

/// Row-major. Whoever made the view owns the memory (a checkpoint's mapping, a buffer) and outlives
/// it. All dimensions but the first are dense; rows of a 2-D view and elements of a 1-D view may be
/// `row_stride` elements apart, so that a column slice (a TP shard of down_proj) and every other
/// row (gate and up of gpt-oss) are views too.
struct TensorView {
  const void* data = nullptr;
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;
  int64_t row_stride = 0;  ///< elements between rows (1-D: between elements); 0 means dense

  bool empty() const { return data == nullptr; }
  int64_t dim(size_t i) const { return shape.at(i); }
  int64_t num_elements() const {
    int64_t n = 1;
    for (int64_t d : shape) n *= d;
    return n;
  }
  int64_t num_bytes() const { return num_elements() * size_of(dtype); }
  int64_t stride() const {
    return row_stride != 0 ? row_stride : (shape.size() >= 2 ? num_elements() / shape[0] : 1);
  }

  /// Pointer to row `row`, of a 1-D view to element `row`.
  const std::byte* row(int64_t row) const {
    return static_cast<const std::byte*>(data) + row * stride() * size_of(dtype);
  }
  template <typename T>
  const T* as() const {
    MOE4_CHECK(static_cast<int64_t>(sizeof(T)) == size_of(dtype));
    return static_cast<const T*>(data);
  }
};

/// "[256, 128]"; "[]" for a scalar.
std::string shape_to_string(const std::vector<int64_t>& shape);

}  // namespace moe4
