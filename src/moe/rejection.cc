// Names of rejection kinds.
#include "moe/rejection.h"

namespace moe4 {

std::string_view to_string(Rejection::Kind kind) {
  switch (kind) {
    case Rejection::Kind::kNotSelected:
      return "not-selected";
    case Rejection::Kind::kDevice:
      return "device";
    case Rejection::Kind::kScheme:
      return "scheme";
    case Rejection::Kind::kPrecision:
      return "activation-precision";
    case Rejection::Kind::kActivation:
      return "activation";
    case Rejection::Kind::kShape:
      return "shape";
    case Rejection::Kind::kParallel:
      return "parallel";
    case Rejection::Kind::kBatch:
      return "batch";
    case Rejection::Kind::kBuild:
      return "build";
  }
  return "?";
}

}  // namespace moe4
