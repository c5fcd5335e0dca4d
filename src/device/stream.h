// Where and in which order work runs: a device and its queue.
#pragma once

#include "base/device.h"
#include "base/thread_pool.h"

namespace moe4 {

/// A value, passed down to every op. Work given to one stream runs in order.
struct Stream {
  Device device;
  /// CPU: the threads that do the work, which is done when the call returns. One call at a time.
  ThreadPool* threads = nullptr;
  /// CUDA: the cudaStream_t that work is enqueued on. Null on the CPU.
  void* handle = nullptr;

  static Stream cpu(ThreadPool& threads) { return {.device = Device::cpu(), .threads = &threads}; }
};

}  // namespace moe4
