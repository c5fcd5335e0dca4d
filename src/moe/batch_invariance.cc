// Names of batch invariance.
#include "moe/batch_invariance.h"

namespace moe4 {

std::string_view to_string(BatchInvariance invariance) {
  switch (invariance) {
    case BatchInvariance::kNone:
      return "no";
    case BatchInvariance::kByPhase:
      return "by phase";
    case BatchInvariance::kFull:
      return "yes";
  }
  return "?";
}

}  // namespace moe4
