// Copies in tiles that stay in the first-level cache on both sides.
#include "checkpoint/transposed_linear.h"

#include <algorithm>

#include "base/error.h"

namespace moe4 {
namespace {

constexpr int64_t kTile = 64;

template <typename T>
void transpose(const TensorView& from, int64_t step, T* to) {
  const int64_t rows = from.shape[0], columns = from.shape[1];
  for (int64_t r = 0; r < rows; r += kTile) {
    for (int64_t c = 0; c < columns; c += kTile) {
      for (int64_t i = r; i < std::min(r + kTile, rows); ++i) {
        const T* row = reinterpret_cast<const T*>(from.row(i));
        for (int64_t j = c; j < std::min(c + kTile, columns); ++j) to[j * rows + i] = row[j * step];
      }
    }
  }
}

TensorView transposed_view(const TensorView& from, int64_t step,
                           std::vector<std::shared_ptr<const AlignedBuffer>>& memory) {
  TensorView to{.dtype = from.dtype, .shape = {from.shape[1], from.shape[0]}};
  if (from.empty()) return to;
  auto buffer = std::make_shared<AlignedBuffer>(static_cast<size_t>(to.num_bytes()));
  to.data = buffer->data();
  switch (size_of(from.dtype)) {
    case 1:
      transpose(from, step, reinterpret_cast<uint8_t*>(buffer->data()));
      break;
    case 2:
      transpose(from, step, reinterpret_cast<uint16_t*>(buffer->data()));
      break;
    case 4:
      transpose(from, step, reinterpret_cast<uint32_t*>(buffer->data()));
      break;
    default:
      MOE4_CHECK(false);
  }
  memory.push_back(std::move(buffer));
  return to;
}

}  // namespace

StoredLinear untransposed(const StoredLinear& stored,
                          std::vector<std::shared_ptr<const AlignedBuffer>>& memory) {
  MOE4_CHECK(stored.is_transposed && stored.weight.view.shape.size() == 2);
  StoredLinear linear = stored;
  linear.is_transposed = false;
  linear.column_step = 1;
  linear.weight.view = transposed_view(stored.weight.view, stored.column_step, memory);
  if (stored.scale && stored.scale->view.shape.size() == 2) {
    linear.scale->view = transposed_view(stored.scale->view, stored.column_step, memory);
  }
  return linear;
}

}  // namespace moe4
