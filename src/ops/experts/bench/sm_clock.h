// The SM clock while other kernels run, from the device's own counters.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "device/cuda/device_buffer.h"

namespace moe4::cuda {

/// One SM's counters, read together.
struct ClockSample {
  uint64_t cycles, nanoseconds, sm;
};

/// Chips at their power limit slow down, so that a time says little without its clock. Both calls
/// launch one tiny kernel and wait for it; nothing runs in between but what is measured.
class SmClock {
 public:
  /// Takes the device's memory it needs.
  SmClock();
  void start(cudaStream_t stream) { sample(0, stream); }
  /// MHz since start(): the median over the SMs of cycles / time.
  double stop(cudaStream_t stream);

 private:
  void sample(int which, cudaStream_t stream);

  int sms_ = 0;
  int blocks_ = 0;
  DeviceArray<ClockSample> samples_;  ///< [2][blocks_]
};

}  // namespace moe4::cuda
