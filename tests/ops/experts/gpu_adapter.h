// Runs a GPU backend from host data, for the conformance suite and the GPU tests beside it.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdlib>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "device/cuda/describe_device.h"
#include "device/cuda/device_buffer.h"
#include "ops/experts/conformance.h"

namespace moe4::testing {

/// Why GPU tests cannot run here; empty: they can.
inline std::string no_gpu_reason(int min_sm = 80) {
  const Device device = cuda::describe_device(0);
  if (device.is_cpu()) return "no CUDA device on this machine";
  if (device.sm < min_sm) {
    return "GPU 0 is " + to_string(device) + ", the test needs sm_" + std::to_string(min_sm);
  }
  return "";
}

/// One call's arguments in device memory, reusable for several applies.
class DeviceCall {
 public:
  DeviceCall(const PreparedExperts& layer, const HostInput& input)
      : layer_(layer),
        elements_(input.hidden_states.size()),
        x_(upload(to_bf16_vector(input.hidden_states))),
        ids_(upload(input.routing.ids)),
        weights_(upload(input.routing.weights)),
        out_(cuda::allocate_device<Bf16>(static_cast<int64_t>(elements_))),
        workspace_bytes_(layer.workspace_size(input.num_tokens)),
        workspace_(cuda::allocate_device<std::byte>(static_cast<int64_t>(workspace_bytes_))) {
    args_ = {.num_tokens = input.num_tokens,
             .hidden_states = x_.get(),
             .topk_ids = ids_.get(),
             .topk_weights = weights_.get(),
             .output = out_.get(),
             .workspace = {workspace_.get(), workspace_bytes_}};
    poison();
  }

  /// Fills output and workspace with 0xff bytes (NaN in every float format). Not with
  /// MOE4_TEST_NO_POISON set: initcheck then sees a kernel that reads what none has written.
  void poison() {
    const bool wanted = std::getenv("MOE4_TEST_NO_POISON") == nullptr;
    if (wanted && elements_ > 0) {
      MOE4_CUDA_CHECK(cudaMemset(out_.get(), 0xff, elements_ * sizeof(Bf16)));
    }
    if (wanted && workspace_bytes_ > 0) {
      MOE4_CUDA_CHECK(cudaMemset(workspace_.get(), 0xff, workspace_bytes_));
    }
    MOE4_CUDA_CHECK(cudaDeviceSynchronize());
  }
  /// Replaces the hidden states, keeping their place in memory.
  void set_hidden_states(const std::vector<float>& x) {
    const std::vector<Bf16> bf16 = to_bf16_vector(x);
    MOE4_CUDA_CHECK(cudaMemcpy(x_.get(), bf16.data(), bf16.size() * 2, cudaMemcpyHostToDevice));
    // The copy of pageable memory may still be under way, and other streams do not wait for it.
    MOE4_CUDA_CHECK(cudaDeviceSynchronize());
  }
  /// Replaces everything the call reads, likewise.
  void set_input(const HostInput& input) {
    set_hidden_states(input.hidden_states);
    const Routing& routing = input.routing;
    MOE4_CUDA_CHECK(
        cudaMemcpy(ids_.get(), routing.ids.data(), routing.ids.size() * 4, cudaMemcpyHostToDevice));
    MOE4_CUDA_CHECK(cudaMemcpy(weights_.get(), routing.weights.data(), routing.weights.size() * 4,
                               cudaMemcpyHostToDevice));
    MOE4_CUDA_CHECK(cudaDeviceSynchronize());
  }
  void apply(cudaStream_t stream = nullptr) {
    ExpertsArgs args = args_;
    args.stream = stream;
    layer_.apply(args);
  }
  /// For tests that read or change single arguments.
  ExpertsArgs& args() { return args_; }
  std::vector<Bf16> output() const {
    std::vector<Bf16> out(elements_);
    MOE4_CUDA_CHECK(cudaDeviceSynchronize());
    if (elements_ > 0) {
      MOE4_CUDA_CHECK(cudaMemcpy(out.data(), out_.get(), elements_ * 2, cudaMemcpyDeviceToHost));
    }
    return out;
  }
  std::vector<float> output_float() const {
    std::vector<float> values;
    for (const Bf16 x : output()) values.push_back(to_float(x));
    return values;
  }

 private:
  static std::vector<Bf16> to_bf16_vector(const std::vector<float>& x) {
    std::vector<Bf16> bf16;
    bf16.reserve(x.size());
    for (const float v : x) bf16.push_back(to_bf16(v));
    return bf16;
  }
  template <typename T>
  static cuda::DeviceArray<T> upload(const std::vector<T>& host) {
    auto device = cuda::allocate_device<T>(static_cast<int64_t>(host.size()));
    if (!host.empty()) {
      MOE4_CUDA_CHECK(
          cudaMemcpy(device.get(), host.data(), host.size() * sizeof(T), cudaMemcpyHostToDevice));
    }
    return device;
  }

  const PreparedExperts& layer_;
  size_t elements_;
  cuda::DeviceArray<Bf16> x_;
  cuda::DeviceArray<int32_t> ids_;
  cuda::DeviceArray<float> weights_;
  cuda::DeviceArray<Bf16> out_;
  size_t workspace_bytes_;
  cuda::DeviceArray<std::byte> workspace_;
  ExpertsArgs args_;
};

class GpuAdapter final : public BackendAdapter {
 public:
  explicit GpuAdapter(std::shared_ptr<const ExpertsBackend> backend)
      : backend_(std::move(backend)), device_(cuda::describe_device(0)), threads_(0) {}
  const ExpertsBackend& backend() const override { return *backend_; }
  Device device() const override { return device_; }
  ThreadPool& threads() override { return threads_; }
  std::vector<float> apply(const PreparedExperts& layer, const HostInput& input) override {
    DeviceCall call(layer, input);
    call.apply();
    return call.output_float();
  }

 private:
  std::shared_ptr<const ExpertsBackend> backend_;
  Device device_;
  ThreadPool threads_;
};

/// Bounds of the GPU backends in BF16: errors of rounding the intermediate and the output only.
inline Tolerance gpu_tolerance(ActivationPrecision precision) {
  if (precision == ActivationPrecision::kBf16) return {3e-3, 6e-3};
  return default_tolerance(precision);
}

}  // namespace moe4::testing
