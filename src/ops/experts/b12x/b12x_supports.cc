// Device, scheme, precision and shape checks of b12x.
#include "ops/experts/b12x/b12x_supports.h"

#include <fmt/format.h>

#include "moe/support_checks.h"

namespace moe4 {

Support b12x_supports(const ExpertsQuery& query) {
  if (Support no = require_nvfp4_weights(query)) return no;
  if (Support no = require_activation(query, /*late_clamp=*/true)) return no;
  const std::optional<QuantKey>& activation = query.scheme.activation;
  if (activation && activation->format != QuantFormat::kNvfp4) {
    return Rejection{
        Rejection::Kind::kScheme,
        fmt::format("it takes (nvfp4 static, nvfp4 dynamic) and (nvfp4 static, none), not {}",
                    to_string(query.scheme))};
  }
  if (Support no = require_cuda(query, 80)) return no;
  if (Support no = require_whole_blocks(query)) return no;
  if (!query.device.is_sm12x()) {
    return Rejection{Rejection::Kind::kNotSelected,
                     fmt::format("{} lacks the block-scaled FP4 mma of SM120 and SM121; b12x runs "
                                 "here by name only, emulated: the block-scaled FP4 instruction is "
                                 "replaced by software",
                                 to_string(query.device))};
  }
  return std::nullopt;
}

}  // namespace moe4
