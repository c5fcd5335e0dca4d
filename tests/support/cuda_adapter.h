// Runs a CUDA backend under the conformance suite: copies in, poisons output and workspace, copies
// out.
#pragma once

#include <cuda_runtime_api.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "experts/conformance.h"
#include "experts/device/device_buffer.h"

namespace moe4::testing {

/// Empty when a CUDA device is there, else why not. For ConformanceTarget::skip_reason.
inline std::string no_cuda_device() {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error != cudaSuccess) return std::string("no CUDA device: ") + cudaGetErrorString(error);
  return count == 0 ? "no CUDA device" : "";
}

/// The current device, e.g. sm_90, with its number of multiprocessors.
inline Device current_cuda_device() {
  Device device = Device::cuda_sm(0);
  MOE4_CUDA_CHECK(cudaGetDevice(&device.index));
  int major = 0, minor = 0;
  MOE4_CUDA_CHECK(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device.index));
  MOE4_CUDA_CHECK(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device.index));
  MOE4_CUDA_CHECK(
      cudaDeviceGetAttribute(&device.sm_count, cudaDevAttrMultiProcessorCount, device.index));
  device.sm = major * 10 + minor;
  return device;
}

/// A HostInput on the device, with poisoned output and workspace; rows of hidden states are BF16.
struct DeviceCall {
  DeviceCall(const PreparedExperts& layer, const HostInput& input) {
    const auto elements = static_cast<int64_t>(input.hidden_states.size());
    const auto pairs = static_cast<int64_t>(input.routing.ids.size());
    std::vector<Bf16> bf16(elements);
    for (int64_t i = 0; i < elements; ++i) bf16[i] = to_bf16(input.hidden_states[i]);
    const auto workspace_bytes = static_cast<int64_t>(layer.workspace_size(input.num_tokens));
    hidden = copy(bf16.data(), elements);
    ids = copy(input.routing.ids.data(), pairs);
    weights = copy(input.routing.weights.data(), pairs);
    output = cuda::allocate_device<Bf16>(elements);
    workspace = cuda::allocate_device<std::byte>(workspace_bytes);
    poison(elements, workspace_bytes);
    args = {.num_tokens = input.num_tokens,
            .hidden_states = hidden.get(),
            .topk_ids = ids.get(),
            .topk_weights = weights.get(),
            .output = output.get(),
            .workspace = {workspace.get(), static_cast<size_t>(workspace_bytes)}};
  }

  std::vector<float> read_output() const {
    std::vector<Bf16> bf16(output_elements);
    if (!bf16.empty()) {
      MOE4_CUDA_CHECK(cudaMemcpy(bf16.data(), output.get(), bf16.size() * sizeof(Bf16),
                                 cudaMemcpyDeviceToHost));
    }
    std::vector<float> y(bf16.size());
    for (size_t i = 0; i < y.size(); ++i) y[i] = to_float(bf16[i]);
    return y;
  }

  cuda::DeviceArray<Bf16> hidden, output;
  cuda::DeviceArray<int32_t> ids;
  cuda::DeviceArray<float> weights;
  cuda::DeviceArray<std::byte> workspace;
  int64_t output_elements = 0;
  ExpertsArgs args;

 private:
  template <typename T>
  static cuda::DeviceArray<T> copy(const T* values, int64_t count) {
    auto array = cuda::allocate_device<T>(count);
    if (count > 0) {
      MOE4_CUDA_CHECK(cudaMemcpy(array.get(), values, count * sizeof(T), cudaMemcpyHostToDevice));
    }
    return array;
  }
  void poison(int64_t elements, int64_t workspace_bytes) {
    output_elements = elements;
    if (elements > 0) MOE4_CUDA_CHECK(cudaMemset(output.get(), 0xff, elements * sizeof(Bf16)));
    if (workspace_bytes > 0) MOE4_CUDA_CHECK(cudaMemset(workspace.get(), 0xff, workspace_bytes));
    MOE4_CUDA_CHECK(cudaDeviceSynchronize());
  }
};

class CudaAdapter : public BackendAdapter {
 public:
  explicit CudaAdapter(std::shared_ptr<const ExpertsBackend> backend, int num_threads = 2)
      : backend_(std::move(backend)), device_(current_cuda_device()), threads_(num_threads) {}
  const ExpertsBackend& backend() const override { return *backend_; }
  Device device() const override { return device_; }
  ThreadPool& threads() override { return threads_; }
  std::vector<float> apply(const PreparedExperts& layer, const HostInput& input) override {
    const DeviceCall call(layer, input);
    layer.apply(call.args);
    MOE4_CUDA_CHECK(cudaDeviceSynchronize());
    return call.read_output();
  }

 private:
  std::shared_ptr<const ExpertsBackend> backend_;
  Device device_;
  ThreadPool threads_;
};

}  // namespace moe4::testing
