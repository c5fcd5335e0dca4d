// The table that turns token ids into vectors.
#pragma once

#include "base/aligned_buffer.h"
#include "base/thread_pool.h"
#include "moe/weights.h"

namespace moe4 {

/// A copy of a table in checkpoint order, in any weight format, so that a look-up touches one row;
/// immutable.
class Embedding {
 public:
  Embedding() = default;
  /// Throws Error(kBadInput) for a NaN weight or scale byte, naming the tensor.
  Embedding(const LinearWeights& weights, ThreadPool& threads);

  /// Row `id` in float32, in_features values.
  void look_up(int64_t id, float* out) const;

 private:
  void copy(TensorView& view, AlignedBuffer& data, const std::string& tensor, ThreadPool& threads);

  LinearWeights weights_;  // views of the buffers below
  AlignedBuffer data_, scales_;
};

}  // namespace moe4
