// Forwards to a layer of the CPU.
#include "moe/host_experts.h"

#include <utility>

namespace moe4 {
namespace {

class CpuExperts final : public HostExperts {
 public:
  explicit CpuExperts(std::unique_ptr<PreparedExperts> layer) : layer_(std::move(layer)) {}
  size_t workspace_size(int64_t max_tokens) const override {
    return layer_->workspace_size(max_tokens);
  }
  void run(const ExpertsArgs& args) override { layer_->apply(args); }
  bool accepts_float32() const override { return layer_->accepts_float32(); }
  BatchInvariance batch_invariant() const override { return layer_->batch_invariant(); }
  int64_t weight_bytes() const override { return layer_->weight_bytes(); }

 private:
  std::unique_ptr<PreparedExperts> layer_;
};

}  // namespace

std::unique_ptr<HostExperts> host_experts(std::unique_ptr<PreparedExperts> layer) {
  return std::make_unique<CpuExperts>(std::move(layer));
}

}  // namespace moe4
