// Mamba-2: input projection, convolution and state space recurrence, output projection.
#pragma once

#include <memory>

#include "layers/mixer.h"
#include "ops/linear/linear_group.h"
#include "ops/ssm/ssm.h"

namespace moe4 {

struct Mamba2Parts {
  std::unique_ptr<Prepared<LinearGroup>> in_proj;  ///< one linear: [z | u | dt]
  std::unique_ptr<Prepared<Ssm>> ssm;
  std::unique_ptr<Prepared<LinearGroup>> out_proj;
};

class Mamba2 final : public Mixer {
 public:
  explicit Mamba2(Mamba2Parts parts) : parts_(std::move(parts)) {}

  std::vector<CacheSpec> caches() const override { return {parts_.ssm->problem().state()}; }
  void forward(const LayerStep& step, const Rows& x, std::span<const LayerCache> caches,
               const Rows& y) const override;
  int64_t weight_bytes() const override;

 private:
  Mamba2Parts parts_;
};

}  // namespace moe4
