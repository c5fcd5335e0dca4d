// Work recorded once and launched again and again: a CUDA graph.
#pragma once

#include <functional>
#include <memory>

#include "device/stream.h"

namespace moe4 {

/// What some code enqueues on a stream of a GPU, with all the pointers and sizes that it had then.
/// The memory must outlive it.
class Graph {
 public:
  /// Calls record() once, which enqueues on `stream` and waits for nothing, and takes the memory
  /// that launches need of the device. Throws what it throws, and Error(kUnavailable) for work that
  /// cannot be recorded.
  Graph(const Stream& stream, const std::function<void()>& record);
  ~Graph();
  Graph(Graph&&) noexcept;
  Graph& operator=(Graph&&) noexcept;

  /// Enqueues the work on a stream of the same device.
  void launch(const Stream& stream) const;

 private:
  struct Recorded;
  std::unique_ptr<Recorded> recorded_;
};

}  // namespace moe4
