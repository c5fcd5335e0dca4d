// The marlin backend of a program with its CUDA kernels.
#include "ops/experts/marlin/marlin_backend.h"

#include "ops/experts/gpu/device_present.h"
#include "ops/experts/marlin/marlin_layer.h"
#include "ops/experts/marlin/marlin_supports.h"

namespace moe4 {
namespace {

class PreparedMarlin final : public PreparedExperts {
 public:
  PreparedMarlin(const MoeLayerWeights& weights, const PrepareOptions& options)
      : packed_(weights, *options.threads), layer_(packed_, options.tuning) {}

  size_t workspace_size(int64_t max_tokens) const override {
    return layer_.workspace_size(max_tokens);
  }
  void apply(const ExpertsArgs& args) const override { layer_.apply(args); }
  BatchInvariance batch_invariant() const override { return BatchInvariance::kFull; }
  int64_t weight_bytes() const override { return packed_.bytes(); }

 private:
  cuda::PackedLayer packed_;
  cuda::MarlinLayer layer_;
};

}  // namespace

Support MarlinBackend::supports(const ExpertsQuery& query) const { return marlin_supports(query); }

std::span<const TuningOption> MarlinBackend::tuning_options() const { return {&kMarlinFc2, 1}; }

Support MarlinBackend::runnable(const Device& device) const {
  return cuda::device_present(device, 80);
}

std::unique_ptr<PreparedExperts> MarlinBackend::prepare(const MoeLayerWeights& weights,
                                                        const PrepareOptions& options) const {
  MOE4_CHECK(options.threads != nullptr);
  const cuda::DeviceGuard guard(options.device.index);
  return std::make_unique<PreparedMarlin>(weights, options);
}

}  // namespace moe4
