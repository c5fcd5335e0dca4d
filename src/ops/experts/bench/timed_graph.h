// Calls captured into one CUDA graph, and how long its replays take: fresh, and after a while.
#pragma once

#include <cuda_runtime_api.h>

#include <functional>

namespace moe4::cuda {

struct GraphTime {
  double median = 0;  ///< microseconds a call
  double spread = 0;  ///< (slowest - fastest) / median
  double sm_mhz = 0;  ///< SM clock during the replays
};

/// What is left of the speed once a chip's power limit has been reached for long.
struct SustainedTime {
  double mean = 0;    ///< microseconds a call
  double sm_mhz = 0;  ///< SM clock during the replays counted
};

/// Idle for 0.2 s, so that what is timed next meets a chip that has not just been at its power
/// limit: an H200 lowers its clock after 20 to 50 ms there.
void rest();

class TimedGraph {
 public:
  /// Captures call(0) .. call(calls - 1), which enqueue to `stream`.
  TimedGraph(cudaStream_t stream, int calls, const std::function<void(int)>& call);
  ~TimedGraph();
  TimedGraph(const TimedGraph&) = delete;
  TimedGraph& operator=(const TimedGraph&) = delete;

  /// Microseconds a call of one replay, waited for.
  double replay();
  /// Two replays to warm up, then the median of `replays`.
  GraphTime time(int replays);
  /// Replays for half a second; the second half of it counts.
  SustainedTime time_sustained();

 private:
  cudaStream_t stream_;
  int calls_;
  cudaGraph_t graph_ = nullptr;
  cudaGraphExec_t executable_ = nullptr;
  cudaEvent_t begin_ = nullptr, end_ = nullptr;
};

}  // namespace moe4::cuda
