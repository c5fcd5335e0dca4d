// moe/activation.h in float32 with the fast exponential and division: a few ulp, far below BF16's
// rounding.
#pragma once

#include "moe/activation.h"

namespace moe4::cuda::hopper {

template <ActivationKind Kind>
__device__ __forceinline__ float activate(const ActivationParams& p, float gate, float up) {
  if constexpr (Kind == ActivationKind::kSilu || Kind == ActivationKind::kSwigluOai) {
    gate = gate > p.limit ? p.limit : gate;
    up = up > p.limit ? p.limit : up;
    up = up < -p.limit ? -p.limit : up;
    if constexpr (Kind == ActivationKind::kSilu) {
      return __fdividef(gate, 1.0f + __expf(-gate)) * up;
    } else {
      return __fdividef(gate, 1.0f + __expf(-p.alpha * gate)) * (up + p.beta);
    }
  } else if constexpr (Kind == ActivationKind::kGeluTanh) {
    const float inner = 0.7978845608028654f * (gate + 0.044715f * gate * gate * gate);
    return gate * (1.0f - __fdividef(1.0f, 1.0f + __expf(2.0f * inner))) * up;
  } else {
    const float positive = up > 0.0f ? up : (up <= 0.0f ? 0.0f : up);
    return positive * positive;
  }
}

}  // namespace moe4::cuda::hopper
