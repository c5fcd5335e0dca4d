// Row by row; FP8 block scales by blocks of 128 rows.
#include "moe/copied_rows.h"

#include <cstring>
#include <string>

#include "base/checked_math.h"
#include "base/error.h"

namespace moe4 {
namespace {

constexpr int64_t kBlockRows = 128;

// Rows `rows` of a view with as many rows as the linear, one after the other.
TensorView copy_view(const TensorView& from, std::span<const int64_t> rows,
                     std::vector<AlignedBuffer>& memory) {
  TensorView to{.dtype = from.dtype, .shape = from.shape};
  if (from.shape.empty()) return to;
  to.shape[0] = static_cast<int64_t>(rows.size());
  if (from.empty()) return to;
  const int64_t row_bytes = to.num_bytes() / to.shape[0];
  std::byte* next = memory.emplace_back(static_cast<size_t>(to.num_bytes())).data();
  to.data = next;
  for (const int64_t row : rows) {
    std::memcpy(next, from.row(row), static_cast<size_t>(row_bytes));
    next += row_bytes;
  }
  return to;
}

// Rows of block scales that belong to `rows`.
std::vector<int64_t> block_rows(const LinearWeights& whole, std::span<const int64_t> rows) {
  std::vector<int64_t> blocks;
  for (size_t i = 0; i < rows.size(); ++i) {
    const auto place = static_cast<int64_t>(i) % kBlockRows;
    const int64_t block = rows[i] / kBlockRows;
    if (place == 0) blocks.push_back(block);
    if (rows[i] % kBlockRows != place || block != blocks.back()) {
      throw_bad_input({.what = "FP8 blocks of 128 rows lie across the parts of a fused projection",
                       .tensor = whole.name,
                       .expected = "parts of whole blocks",
                       .found = "row " + std::to_string(rows[i]) + " at place " +
                                std::to_string(i) + " of its part"});
    }
  }
  return blocks;
}

}  // namespace

CopiedRows copy_rows(const LinearWeights& whole, std::span<const int64_t> rows) {
  MOE4_CHECK(!rows.empty());
  CopiedRows copy{.linear = whole};
  LinearWeights& linear = copy.linear;
  linear.out_features = static_cast<int64_t>(rows.size());
  linear.weight = copy_view(whole.weight, rows, copy.memory);
  if (!whole.bias.shape.empty()) linear.bias = copy_view(whole.bias, rows, copy.memory);
  switch (whole.scheme.weight.format) {
    case QuantFormat::kNvfp4:
    case QuantFormat::kMxfp4:
    case QuantFormat::kFp8Channel:
      linear.scale = copy_view(whole.scale, rows, copy.memory);
      break;
    case QuantFormat::kFp8Block128:
      linear.scale = copy_view(whole.scale, block_rows(whole, rows), copy.memory);
      break;
    case QuantFormat::kFloat:
    case QuantFormat::kFp8Tensor:
    case QuantFormat::kFp8Token:
    case QuantFormat::kQ8_0:
      break;
  }
  return copy;
}

}  // namespace moe4
