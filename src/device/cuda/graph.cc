// Capture and replay by the CUDA runtime.
#include "device/graph.h"

#include "device/cuda/device_buffer.h"

namespace moe4 {

struct Graph::Recorded {
  ~Recorded() {
    if (exec != nullptr) cudaGraphExecDestroy(exec);
    if (graph != nullptr) cudaGraphDestroy(graph);
  }
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t exec = nullptr;
};

Graph::Graph(const Stream& stream, const std::function<void()>& record)
    : recorded_(std::make_unique<Recorded>()) {
  const cuda::DeviceGuard guard(stream.device.index);
  const auto handle = static_cast<cudaStream_t>(stream.handle);
  MOE4_CUDA_CHECK(cudaStreamBeginCapture(handle, cudaStreamCaptureModeThreadLocal));
  try {
    record();
  } catch (...) {
    cudaStreamEndCapture(handle, &recorded_->graph);
    cudaGetLastError();
    throw;
  }
  MOE4_CUDA_CHECK(cudaStreamEndCapture(handle, &recorded_->graph));
  MOE4_CUDA_CHECK(cudaGraphInstantiate(&recorded_->exec, recorded_->graph, 0));
  // Else its memory on the device is taken when it is first launched.
  MOE4_CUDA_CHECK(cudaGraphUpload(recorded_->exec, handle));
}

Graph::~Graph() = default;
Graph::Graph(Graph&&) noexcept = default;
Graph& Graph::operator=(Graph&&) noexcept = default;

void Graph::launch(const Stream& stream) const {
  MOE4_CUDA_CHECK(cudaGraphLaunch(recorded_->exec, static_cast<cudaStream_t>(stream.handle)));
}

}  // namespace moe4
