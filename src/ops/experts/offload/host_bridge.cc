// Device buffers that grow with the largest batch seen.
#include "ops/experts/offload/host_bridge.h"

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "device/cuda/device_buffer.h"
#include "numerics/bf16.h"

namespace moe4 {
namespace {

using cuda::allocate_device;
using cuda::DeviceArray;

class GpuBehindHostPointers final : public HostExperts {
 public:
  GpuBehindHostPointers(std::unique_ptr<PreparedExperts> layer, const MoeProblem& problem,
                        int device)
      : layer_(std::move(layer)),
        hidden_(problem.hidden_size),
        top_k_(problem.top_k),
        device_(device) {
    const cuda::DeviceGuard guard(device_);
    MOE4_CUDA_CHECK(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
  }
  ~GpuBehindHostPointers() override { cudaStreamDestroy(stream_); }

  size_t workspace_size(int64_t) const override { return 0; }
  bool accepts_float32() const override { return false; }
  BatchInvariance batch_invariant() const override { return layer_->batch_invariant(); }
  int64_t weight_bytes() const override { return layer_->weight_bytes(); }

  void run(const ExpertsArgs& args) override {
    if (args.hidden_dtype != DType::kBF16 || args.output_dtype != DType::kBF16) {
      throw Error(ErrorCode::kUsage, "a GPU backend takes and gives BF16");
    }
    if (args.num_tokens == 0) return;
    const cuda::DeviceGuard guard(device_);
    reserve(args.num_tokens);
    const auto copy = [&](void* to, const void* from, size_t bytes) {
      MOE4_CUDA_CHECK(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, stream_));
    };
    const auto values = static_cast<size_t>(args.num_tokens * hidden_);
    const auto pairs = static_cast<size_t>(args.num_tokens * top_k_);
    copy(x_.get(), args.hidden_states, values * sizeof(Bf16));
    copy(ids_.get(), args.topk_ids, pairs * sizeof(int32_t));
    copy(weights_.get(), args.topk_weights, pairs * sizeof(float));
    ExpertsArgs on_device = args;
    on_device.hidden_states = x_.get();
    on_device.topk_ids = ids_.get();
    on_device.topk_weights = weights_.get();
    on_device.output = out_.get();
    on_device.workspace = {workspace_.get(), workspace_bytes_};
    on_device.stream = stream_;
    layer_->apply(on_device);
    copy(args.output, out_.get(), values * sizeof(Bf16));
    MOE4_CUDA_CHECK(cudaStreamSynchronize(stream_));
  }

 private:
  void reserve(int64_t num_tokens) {
    if (num_tokens <= capacity_) return;
    capacity_ = 0;  // stays so if an allocation fails
    x_ = allocate_device<Bf16>(num_tokens * hidden_);
    out_ = allocate_device<Bf16>(num_tokens * hidden_);
    ids_ = allocate_device<int32_t>(num_tokens * top_k_);
    weights_ = allocate_device<float>(num_tokens * top_k_);
    workspace_bytes_ = layer_->workspace_size(num_tokens);
    workspace_ = nullptr;
    workspace_ = allocate_device<std::byte>(static_cast<int64_t>(workspace_bytes_));
    capacity_ = num_tokens;
  }

  std::unique_ptr<PreparedExperts> layer_;
  int64_t hidden_, top_k_;
  int device_;
  cudaStream_t stream_ = nullptr;
  int64_t capacity_ = 0;  // tokens that the buffers below hold
  DeviceArray<Bf16> x_, out_;
  DeviceArray<int32_t> ids_;
  DeviceArray<float> weights_;
  DeviceArray<std::byte> workspace_;
  size_t workspace_bytes_ = 0;
};

}  // namespace

std::unique_ptr<HostExperts> prepare_for_host(const ExpertsBackend& backend,
                                              const MoeLayerWeights& weights,
                                              const PrepareOptions& options) {
  auto layer = backend.prepare(weights, options);
  if (options.device.is_cpu()) return host_experts(std::move(layer));
  return std::make_unique<GpuBehindHostPointers>(std::move(layer), weights.problem,
                                                 options.device.index);
}

}  // namespace moe4
