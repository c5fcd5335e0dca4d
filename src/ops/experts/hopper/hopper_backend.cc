// The hopper backend of a program with its CUDA kernels.
#include "ops/experts/hopper/hopper_backend.h"

#include "base/error.h"
#include "base/log.h"
#include "ops/experts/gpu/device_present.h"
#include "ops/experts/hopper/hopper_layer.h"
#include "ops/experts/hopper/hopper_supports.h"

namespace moe4 {
namespace {

class PreparedHopper final : public PreparedExperts {
 public:
  PreparedHopper(const MoeLayerWeights& weights, const PrepareOptions& options)
      : packed_(weights, *options.threads), layer_(packed_, options.tuning) {
    log(LogLevel::kDebug, "hopper: " + layer_.describe());
  }

  size_t workspace_size(int64_t max_tokens) const override {
    return layer_.workspace_size(max_tokens);
  }
  void apply(const ExpertsArgs& args) const override { layer_.apply(args); }
  BatchInvariance batch_invariant() const override { return layer_.batch_invariant(); }
  int64_t weight_bytes() const override { return packed_.bytes(); }

 private:
  cuda::PackedLayer packed_;
  cuda::HopperLayer layer_;
};

}  // namespace

Support HopperBackend::supports(const ExpertsQuery& query) const { return hopper_supports(query); }

BatchBehavior HopperBackend::batch_behavior(const ExpertsQuery& query) const {
  return hopper_batch_behavior(query);
}

std::span<const TuningOption> HopperBackend::tuning_options() const { return kHopperTuning; }

Support HopperBackend::runnable(const Device& device) const {
  return cuda::device_present(device, 90);
}

std::unique_ptr<PreparedExperts> HopperBackend::prepare(const MoeLayerWeights& weights,
                                                        const PrepareOptions& options) const {
  MOE4_CHECK(options.threads != nullptr);
  const cuda::DeviceGuard guard(options.device.index);
  return std::make_unique<PreparedHopper>(weights, options);
}

}  // namespace moe4
