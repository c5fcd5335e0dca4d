// Names of activations.
#include "moe/activation.h"

#include <fmt/format.h>

namespace moe4 {

std::string to_string(const ActivationParams& p) {
  switch (p.kind) {
    case ActivationKind::kSilu:
      return p.has_limit() ? fmt::format("silu(limit={})", p.limit) : "silu";
    case ActivationKind::kSwigluOai:
      return fmt::format("swigluoai(alpha={}, beta={}, limit={})", p.alpha, p.beta, p.limit);
    case ActivationKind::kGeluTanh:
      return "gelu_tanh";
    case ActivationKind::kRelu2:
      return "relu2";
    case ActivationKind::kSiluLateClamp:
      return fmt::format("silu(late limit={})", p.limit);
  }
  return "?";
}

}  // namespace moe4
