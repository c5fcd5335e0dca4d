// A kernel that holds multiprocessors until it is told to end, as another program's might.
#pragma once

#include <cuda_runtime_api.h>

namespace moe4::testing {

class HeldMultiprocessors {
 public:
  /// Returns when `count` multiprocessors are held: no other block finds shared memory there.
  /// Throws if they cannot be had within 30 seconds.
  explicit HeldMultiprocessors(int count);
  /// Lets go and waits for the end.
  ~HeldMultiprocessors();
  HeldMultiprocessors(const HeldMultiprocessors&) = delete;
  HeldMultiprocessors& operator=(const HeldMultiprocessors&) = delete;

 private:
  cudaStream_t stream_ = nullptr;
  volatile int* words_ = nullptr;  // pinned: [0] how many are held, [1] nonzero to let go
};

}  // namespace moe4::testing
