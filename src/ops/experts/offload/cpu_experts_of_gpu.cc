// A host function of the stream between two copies.
#include "ops/experts/offload/cpu_experts_of_gpu.h"

#include <algorithm>
#include <limits>
#include <vector>

#include "base/error.h"
#include "device/arena.h"
#include "device/cuda/device_buffer.h"
#include "device/memory.h"
#include "numerics/bf16.h"

namespace moe4 {
namespace {

class CpuExpertsOfGpu final : public RoutedExperts {
 public:
  CpuExpertsOfGpu(std::unique_ptr<PreparedExperts> experts, const MoeProblem& problem,
                  const Device& device)
      : experts_(std::move(experts)),
        hidden_(problem.hidden_size),
        top_k_(problem.top_k),
        device_(device) {}

  void reserve(int64_t max_tokens) override {
    const int64_t values = max_tokens * hidden_, pairs = max_tokens * top_k_;
    x_ = HostMemory(device_, static_cast<size_t>(values) * sizeof(Bf16));
    y_ = HostMemory(device_, static_cast<size_t>(values) * sizeof(Bf16));
    ids_ = HostMemory(device_, static_cast<size_t>(pairs) * sizeof(int32_t));
    weights_ = HostMemory(device_, static_cast<size_t>(pairs) * sizeof(float));
    workspace_ = AlignedBuffer(experts_->workspace_size(max_tokens) + Arena::kAlignment);
    // A graph remembers the address of its call, and every number of tokens may be in one.
    calls_.resize(static_cast<size_t>(max_tokens) + 1);
    for (size_t n = 0; n < calls_.size(); ++n) calls_[n] = {this, static_cast<int64_t>(n)};
  }

  size_t workspace_size(int64_t) const override { return 0; }
  bool accepts_float32() const override { return false; }
  BatchInvariance batch_invariant() const override { return experts_->batch_invariant(); }
  int64_t weight_bytes() const override { return experts_->weight_bytes(); }

  void run(const ExpertsArgs& args) override {
    MOE4_CHECK(args.hidden_dtype == DType::kBF16 && args.output_dtype == DType::kBF16);
    MOE4_CHECK(args.num_tokens < static_cast<int64_t>(calls_.size()));
    if (args.num_tokens == 0) return;
    const Stream stream{.device = device_, .handle = args.stream};
    const auto values = static_cast<size_t>(args.num_tokens * hidden_);
    const auto pairs = static_cast<size_t>(args.num_tokens * top_k_);
    copy(stream, x_.data(), args.hidden_states, values * sizeof(Bf16));
    copy(stream, ids_.data(), args.topk_ids, pairs * sizeof(int32_t));
    copy(stream, weights_.data(), args.topk_weights, pairs * sizeof(float));
    MOE4_CUDA_CHECK(cudaLaunchHostFunc(static_cast<cudaStream_t>(args.stream), &call,
                                       &calls_[static_cast<size_t>(args.num_tokens)]));
    copy(stream, args.output, y_.data(), values * sizeof(Bf16));
  }

 private:
  struct Call {
    CpuExpertsOfGpu* self = nullptr;
    int64_t num_tokens = 0;
  };

  static void CUDART_CB call(void* data) {
    const auto& call = *static_cast<const Call*>(data);
    call.self->compute(call.num_tokens);
  }

  void compute(int64_t num_tokens) {
    Arena arena = Arena::within({workspace_.data(), workspace_.size()});
    const size_t bytes = experts_->workspace_size(num_tokens);
    try {
      experts_->apply({.num_tokens = num_tokens,
                       .hidden_states = x_.data(),
                       .hidden_dtype = DType::kBF16,
                       .topk_ids = reinterpret_cast<const int32_t*>(ids_.data()),
                       .topk_weights = reinterpret_cast<const float*>(weights_.data()),
                       .output = y_.data(),
                       .output_dtype = DType::kBF16,
                       .workspace = {arena.bytes(bytes), bytes}});
    } catch (...) {
      constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
      std::fill_n(reinterpret_cast<Bf16*>(y_.data()), num_tokens * hidden_, to_bf16(kNan));
    }
  }

  std::unique_ptr<PreparedExperts> experts_;
  int64_t hidden_, top_k_;
  Device device_;
  HostMemory x_, y_, ids_, weights_;
  AlignedBuffer workspace_;
  std::vector<Call> calls_;
};

}  // namespace

std::unique_ptr<RoutedExperts> cpu_experts_of_gpu(std::unique_ptr<PreparedExperts> experts,
                                                  const MoeProblem& problem, const Device& device) {
  return std::make_unique<CpuExpertsOfGpu>(std::move(experts), problem, device);
}

}  // namespace moe4
