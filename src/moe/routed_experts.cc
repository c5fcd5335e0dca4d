// Forwards to a backend.
#include "moe/routed_experts.h"

#include <utility>

namespace moe4 {
namespace {

class OnDevice final : public RoutedExperts {
 public:
  explicit OnDevice(std::unique_ptr<PreparedExperts> experts) : experts_(std::move(experts)) {}
  size_t workspace_size(int64_t max_tokens) const override {
    return experts_->workspace_size(max_tokens);
  }
  void run(const ExpertsArgs& args) override { experts_->apply(args); }
  bool accepts_float32() const override { return experts_->accepts_float32(); }
  BatchInvariance batch_invariant() const override { return experts_->batch_invariant(); }
  int64_t weight_bytes() const override { return experts_->weight_bytes(); }

 private:
  std::unique_ptr<PreparedExperts> experts_;
};

}  // namespace

std::unique_ptr<RoutedExperts> routed_experts(std::unique_ptr<PreparedExperts> experts) {
  return std::make_unique<OnDevice>(std::move(experts));
}

}  // namespace moe4
