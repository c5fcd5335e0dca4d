// Device, scheme, precision and shape checks of marlin.
#include "ops/experts/marlin/marlin_supports.h"

#include <fmt/format.h>

#include "moe/support_checks.h"

namespace moe4 {

Support marlin_supports(const ExpertsQuery& query) {
  if (Support no = require_fp4_weights(query)) return no;
  if (Support no = require_activation(query, /*late_clamp=*/true)) return no;
  if (Support no = require_cuda(query, 80)) return no;
  if (query.precision != ActivationPrecision::kBf16) {
    return Rejection{
        Rejection::Kind::kPrecision,
        fmt::format("it computes with BF16 activations, not {}; b12x (SM12x) and cpu quantise them",
                    to_string(query.precision))};
  }
  return require_whole_blocks(query);
}

}  // namespace moe4
