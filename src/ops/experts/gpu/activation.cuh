// moe/activation.h in float32 with the fast exponential and division: a few ulp, far below BF16's
// rounding. One for marlin and hopper, whose activations have the same bits, and for GatedRows.
#pragma once

#include "moe/activation.h"

namespace moe4::cuda {

/// NaN stays NaN.
__device__ __forceinline__ float at_most(float v, float limit) {
  float m;
  asm("min.NaN.f32 %0, %1, %2;" : "=f"(m) : "f"(v), "f"(limit));
  return m;
}
__device__ __forceinline__ float at_least(float v, float limit) {
  float m;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(m) : "f"(v), "f"(limit));
  return m;
}

/// v / (1 + e^-x). Subnormal factors count as zero: half the instructions.
__device__ __forceinline__ float times_sigmoid(float v, float x) {
  float power, factor;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(x * -1.4426950408889634f));
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(factor) : "f"(1.0f + power));
  return v * factor;
}

/// `Clamp`: there is a limit.
template <ActivationKind Kind, bool Clamp>
__device__ __forceinline__ float activate(const ActivationParams& p, float gate, float up) {
  if constexpr (Kind == ActivationKind::kSilu || Kind == ActivationKind::kSwigluOai) {
    if constexpr (Clamp) {
      gate = at_most(gate, p.limit);
      up = at_least(at_most(up, p.limit), -p.limit);
    }
    if constexpr (Kind == ActivationKind::kSilu) {
      return times_sigmoid(gate, gate) * up;
    } else {
      return times_sigmoid(gate, p.alpha * gate) * (up + p.beta);
    }
  } else if constexpr (Kind == ActivationKind::kGeluTanh) {
    const float inner = 0.7978845608028654f * (gate + 0.044715f * gate * gate * gate);
    return gate * (1.0f - __fdividef(1.0f, 1.0f + __expf(2.0f * inner))) * up;
  } else if constexpr (Kind == ActivationKind::kSiluLateClamp) {
    return at_most(times_sigmoid(gate, gate), p.limit) * at_least(at_most(up, p.limit), -p.limit);
  } else {
    const float positive = up > 0.0f ? up : (up <= 0.0f ? 0.0f : up);
    return positive * positive;
  }
}

/// The same for a kind that is known at run time.
__device__ __forceinline__ float activate(const ActivationParams& p, float gate, float up) {
  switch (p.kind) {
    case ActivationKind::kSilu:
      return p.has_limit() ? activate<ActivationKind::kSilu, true>(p, gate, up)
                           : activate<ActivationKind::kSilu, false>(p, gate, up);
    case ActivationKind::kSwigluOai:
      return activate<ActivationKind::kSwigluOai, true>(p, gate, up);
    case ActivationKind::kGeluTanh:
      return activate<ActivationKind::kGeluTanh, false>(p, gate, up);
    case ActivationKind::kRelu2:
      return activate<ActivationKind::kRelu2, false>(p, gate, up);
    case ActivationKind::kSiluLateClamp:
      return activate<ActivationKind::kSiluLateClamp, true>(p, gate, up);
  }
  return __uint_as_float(0x7fc00000);  // not a number
}

}  // namespace moe4::cuda
