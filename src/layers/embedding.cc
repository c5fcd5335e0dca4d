// Copying and reading of embedding tables.
#include "layers/embedding.h"

#include <algorithm>
#include <atomic>
#include <cstring>

#include "base/error.h"
#include "moe/dequantize.h"
#include "numerics/e4m3.h"

namespace moe4 {

Embedding::Embedding(const LinearWeights& weights, ThreadPool& threads) : weights_(weights) {
  copy(weights_.weight, data_, weights.name + ".weight", threads);
  if (!weights_.scale.empty()) {
    copy(weights_.scale, scales_, weights.name + ".weight_scale", threads);
  }
}

void Embedding::copy(TensorView& view, AlignedBuffer& data, const std::string& tensor,
                     ThreadPool& threads) {
  const int64_t bytes = view.num_bytes(), rows = view.dim(0), row_bytes = bytes / rows;
  data = AlignedBuffer(static_cast<size_t>(bytes));
  const bool may_be_nan = view.dtype == DType::kF8E4M3;
  std::atomic<bool> good{true};
  const int64_t grain = std::max<int64_t>(1, (1 << 20) / std::max<int64_t>(1, row_bytes));
  threads.parallel_for(rows, grain, [&](int64_t begin, int64_t end, int) {
    for (int64_t r = begin; r < end; ++r) {
      std::byte* to = data.data() + r * row_bytes;
      std::memcpy(to, view.row(r), static_cast<size_t>(row_bytes));
      const auto* codes = reinterpret_cast<const uint8_t*>(to);
      if (may_be_nan && std::any_of(codes, codes + row_bytes, e4m3_is_nan)) {
        good.store(false, std::memory_order_relaxed);
      }
    }
  });
  if (!good.load(std::memory_order_relaxed)) {
    throw_bad_input({.what = "NaN in an FP8 tensor",
                     .tensor = tensor,
                     .expected = "finite values",
                     .hint = "download or export the checkpoint again"});
  }
  view.data = data.data();
  view.row_stride = 0;
}

void Embedding::look_up(int64_t id, float* out) const { dequantize_row(weights_, id, out); }

}  // namespace moe4
