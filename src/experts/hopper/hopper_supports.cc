// Device, scheme, precision and shape checks of hopper.
#include "experts/hopper/hopper_supports.h"

#include <fmt/format.h>

#include "moe/support_checks.h"

namespace moe4 {

Support hopper_supports(const ExpertsQuery& query) {
  if (Support no = require_nvfp4_weights(query)) return no;
  if (Support no = require_cuda(query, /*min_sm=*/0)) return no;
  if (query.device.sm != 90) {
    return Rejection{Rejection::Kind::kDevice,
                     fmt::format("wgmma exists on sm_90 only, not on {}", to_string(query.device))};
  }
  if (query.precision != ActivationPrecision::kBf16) {
    return Rejection{
        Rejection::Kind::kPrecision,
        fmt::format("it computes with BF16 activations, not {}; b12x (SM12x) and cpu quantise them",
                    to_string(query.precision))};
  }
  return require_whole_blocks(query);
}

}  // namespace moe4
