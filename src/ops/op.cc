// The error that says why no implementation of an op is possible.
#include "ops/op.h"

namespace moe4::internal {

void nobody_can(std::string_view op, const Device& device, std::span<const OpVerdict> verdicts) {
  std::string message =
      "no implementation of " + std::string(op) + " for " + to_string(device) + " takes this layer";
  for (const OpVerdict& v : verdicts) {
    message += "; not " + std::string(v.implementation) + " since " + v.verdict->message;
  }
  throw Error(ErrorCode::kUnavailable, message);
}

}  // namespace moe4::internal
