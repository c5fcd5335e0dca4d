// Replays between two events, one at a time.
#include "ops/experts/bench/timed_graph.h"

#include <algorithm>
#include <chrono>
#include <thread>
#include <vector>

#include "device/cuda/cuda_check.h"
#include "ops/experts/bench/sm_clock.h"

namespace moe4::cuda {

void rest() { std::this_thread::sleep_for(std::chrono::milliseconds(200)); }

TimedGraph::TimedGraph(cudaStream_t stream, int calls, const std::function<void(int)>& call)
    : stream_(stream), calls_(calls) {
  MOE4_CUDA_CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  for (int i = 0; i < calls; ++i) call(i);
  MOE4_CUDA_CHECK(cudaStreamEndCapture(stream, &graph_));
  MOE4_CUDA_CHECK(cudaGraphInstantiate(&executable_, graph_, 0));
  MOE4_CUDA_CHECK(cudaEventCreate(&begin_));
  MOE4_CUDA_CHECK(cudaEventCreate(&end_));
}

TimedGraph::~TimedGraph() {
  cudaEventDestroy(begin_);
  cudaEventDestroy(end_);
  cudaGraphExecDestroy(executable_);
  cudaGraphDestroy(graph_);
}

double TimedGraph::replay() {
  MOE4_CUDA_CHECK(cudaEventRecord(begin_, stream_));
  MOE4_CUDA_CHECK(cudaGraphLaunch(executable_, stream_));
  MOE4_CUDA_CHECK(cudaEventRecord(end_, stream_));
  MOE4_CUDA_CHECK(cudaEventSynchronize(end_));
  float milliseconds = 0;
  MOE4_CUDA_CHECK(cudaEventElapsedTime(&milliseconds, begin_, end_));
  return milliseconds * 1e3 / calls_;
}

GraphTime TimedGraph::time(int replays) {
  SmClock clock;
  constexpr int kWarmUp = 2;
  for (int i = 0; i < kWarmUp; ++i) replay();
  clock.start(stream_);
  std::vector<double> times;
  for (int i = 0; i < replays; ++i) times.push_back(replay());
  const double sm_mhz = clock.stop(stream_);
  std::sort(times.begin(), times.end());
  const double median = times[times.size() / 2];
  return {median, (times.back() - times.front()) / median, sm_mhz};
}

SustainedTime TimedGraph::time_sustained() {
  constexpr double kHalf = 250e3;  // microseconds
  SmClock clock;
  for (double elapsed = 0; elapsed < kHalf; elapsed += replay() * calls_) {
  }
  clock.start(stream_);
  double elapsed = 0;
  int replays = 0;
  for (; elapsed < kHalf; ++replays) elapsed += replay() * calls_;
  return {elapsed / (static_cast<double>(replays) * calls_), clock.stop(stream_)};
}

}  // namespace moe4::cuda
