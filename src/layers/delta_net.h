// Gated delta net: input projections, the delta rule, output projection.
#pragma once

#include <memory>

#include "layers/mixer.h"
#include "ops/delta_net/delta_net.h"
#include "ops/linear/linear_group.h"

namespace moe4 {

struct DeltaNetParts {
  std::unique_ptr<Prepared<LinearGroup>> in_proj;  ///< qkv, z, b, a
  std::unique_ptr<Prepared<DeltaNet>> delta_net;
  std::unique_ptr<Prepared<LinearGroup>> out_proj;
};

class DeltaNetMixer final : public Mixer {
 public:
  explicit DeltaNetMixer(DeltaNetParts parts) : parts_(std::move(parts)) {}

  std::vector<CacheSpec> caches() const override { return {parts_.delta_net->problem().state()}; }
  void forward(const LayerStep& step, const Rows& x, std::span<const LayerCache> caches,
               const Rows& y) const override;
  int64_t weight_bytes() const override;

 private:
  DeltaNetParts parts_;
};

}  // namespace moe4
