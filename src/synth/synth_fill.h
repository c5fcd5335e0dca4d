// Random bytes for synthetic tensors: fast, and the same for a seed whatever the buffer size.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "synth/synth_plan.h"

namespace moe4 {

// What the fills have for a standard deviation: Fill::kCodes, Fill::kFp8Normal, and the first times
// the mean of Fill::kBlockScales.
inline constexpr float kCodeDeviation = 3.0f;
inline constexpr float kCodeTimesScale = kCodeDeviation * 256.0f;
inline constexpr float kFp8Deviation = 96.0f;

/// Fills one tensor piece by piece, in order.
class TensorFiller {
 public:
  TensorFiller(const SynthTensor& tensor, uint64_t seed);
  /// The next bytes of the tensor; every piece but the last is a multiple of 8 bytes.
  void fill(std::span<std::byte> piece);

 private:
  uint64_t next();

  const SynthTensor& tensor_;
  uint64_t state_;
  int64_t done_ = 0;  // bytes
};

}  // namespace moe4
