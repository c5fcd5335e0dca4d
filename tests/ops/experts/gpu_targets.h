// The GPU backends as tests see them: each with every launch path and activation mode it has.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "ops/experts/b12x/b12x_backend.h"
#include "ops/experts/gpu_adapter.h"
#include "ops/experts/hopper/hopper_backend.h"
#include "ops/experts/marlin/marlin_backend.h"

namespace moe4::testing {

struct GpuTarget {
  std::string name;  ///< part of the test's name
  std::shared_ptr<const ExpertsBackend> backend;
  ActivationPrecision precision = ActivationPrecision::kBf16;
  Tolerance tolerance;
  int min_sm = 80;
  Tuning tuning;
  QuantScheme scheme = kW4A4;  ///< of the weights

  std::unique_ptr<PreparedExperts> prepare(const MoeLayerWeights& weights,
                                           ThreadPool& threads) const {
    return backend->prepare(weights, {.precision = precision,
                                      .device = cuda::describe_device(0),
                                      .threads = &threads,
                                      .tuning = tuning});
  }
};
inline void PrintTo(const GpuTarget& target, std::ostream* out) { *out << target.name; }

/// BF16: the bound. FP4: as that, but for values within float32 noise of a rounding
/// boundary, which fall to the other side and move a row by up to a few per cent.
inline std::vector<GpuTarget> gpu_targets() {
  const Tolerance bf16{3e-3, 1.4e-2}, fp4{6e-3, 4e-2};
  const auto b12x = std::make_shared<B12xBackend>();
  const auto hopper = std::make_shared<HopperBackend>();
  const auto marlin = std::make_shared<MarlinBackend>();
  return {
      {.name = "marlin", .backend = marlin, .tolerance = bf16},
      {.name = "hopper", .backend = hopper, .tolerance = bf16, .min_sm = 90},
      {.name = "hopper_wgmma",
       .backend = hopper,
       .tolerance = bf16,
       .min_sm = 90,
       .tuning = {{"hopper.min_tokens", "0"}}},
      {.name = "marlin_mxfp4", .backend = marlin, .tolerance = bf16, .scheme = kMxfp4W4A16},
      {.name = "hopper_mxfp4",
       .backend = hopper,
       .tolerance = bf16,
       .min_sm = 90,
       .scheme = kMxfp4W4A16},
      {.name = "hopper_wgmma_mxfp4",
       .backend = hopper,
       .tolerance = bf16,
       .min_sm = 90,
       .tuning = {{"hopper.min_tokens", "0"}},
       .scheme = kMxfp4W4A16},
      {.name = "b12x_bf16", .backend = b12x, .tolerance = bf16},
      {.name = "b12x_fp4",
       .backend = b12x,
       .precision = ActivationPrecision::kFp4,
       .tolerance = fp4},
      {.name = "b12x_fp4_static",
       .backend = b12x,
       .precision = ActivationPrecision::kFp4Static,
       .tolerance = fp4},
  };
}

}  // namespace moe4::testing
