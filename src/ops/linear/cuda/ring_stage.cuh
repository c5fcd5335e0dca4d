// Going round a ring of stages.
#pragma once

#include <cstdint>

namespace moe4::cuda {

/// A stage of a ring, and the parity of the phase that its barriers are in.
class RingStage {
 public:
  __device__ explicit RingStage(int stages) : stages_(stages) {}
  __device__ int index() const { return index_; }
  __device__ uint32_t parity() const { return parity_; }
  __device__ void next() {
    if (++index_ == stages_) {
      index_ = 0;
      parity_ ^= 1;
    }
  }

 private:
  int stages_, index_ = 0;
  uint32_t parity_ = 0;
};

}  // namespace moe4::cuda
