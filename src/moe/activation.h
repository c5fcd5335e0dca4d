// The non-linearity between FC1 and FC2, in the forms that model families use.
#pragma once

#include <cmath>
#include <limits>
#include <optional>
#include <string>
#include <string_view>

#include "numerics/host_device.h"

namespace moe4 {

enum class ActivationKind {
  kSilu,           ///< silu(gate) * up                                   (Qwen, DeepSeek, GLM, ...)
  kSwigluOai,      ///< gate * sigmoid(alpha * gate) * (up + beta), clamped (gpt-oss, MiniMax-M3)
  kGeluTanh,       ///< gelu_tanh(gate) * up                              (Gemma)
  kRelu2,          ///< relu(up)^2, no gate                               (Nemotron-H)
  kSiluLateClamp,  ///< min(silu(gate), limit) * clamp(up, +-limit)    (Step); kSilu clamps first
};

struct ActivationParams {
  ActivationKind kind = ActivationKind::kSilu;
  float alpha = 1.702f;  ///< kSwigluOai only
  float beta = 1.0f;     ///< kSwigluOai only: added to up
  /// Clamp before the activation: gate to at most `limit`, up to [-limit, limit]. Infinity: no
  /// clamp. Applies to kSilu (DeepSeek-V4 style) and kSwigluOai; kSiluLateClamp clamps silu(gate)
  /// instead of gate. The other kinds have none.
  float limit = std::numeric_limits<float>::infinity();

  constexpr bool is_gated() const { return kind != ActivationKind::kRelu2; }
  constexpr bool has_limit() const { return limit < std::numeric_limits<float>::infinity(); }
  bool operator==(const ActivationParams&) const = default;
};

/// "silu", "swigluoai(alpha=1.702, beta=1, limit=7)", "gelu_tanh", "relu2".
std::string to_string(const ActivationParams& activation);

/// The activation of one element in type T (float in kernels, double in the reference). A non-gated
/// kind ignores `gate`. NaN passes through the clamps.
template <typename T>
MOE4_HOST_DEVICE inline T apply_activation(const ActivationParams& p, T gate, T up) {
  const T limit = static_cast<T>(p.limit);
  switch (p.kind) {
    case ActivationKind::kSilu:
    case ActivationKind::kSwigluOai: {
      if (gate > limit) gate = limit;
      if (up > limit) up = limit;
      if (up < -limit) up = -limit;
      if (p.kind == ActivationKind::kSilu) return gate / (T(1) + std::exp(-gate)) * up;
      return gate / (T(1) + std::exp(-static_cast<T>(p.alpha) * gate)) *
             (up + static_cast<T>(p.beta));
    }
    case ActivationKind::kGeluTanh: {
      const T inner = T(0.7978845608028654) * (gate + T(0.044715) * gate * gate * gate);
      return T(0.5) * gate * (T(1) + std::tanh(inner)) * up;
    }
    case ActivationKind::kSiluLateClamp: {
      T activated = gate / (T(1) + std::exp(-gate));
      if (activated > limit) activated = limit;
      if (up > limit) up = limit;
      if (up < -limit) up = -limit;
      return activated * up;
    }
    case ActivationKind::kRelu2: {
      const T positive = up > T(0) ? up : (up <= T(0) ? T(0) : up);
      return positive * positive;
    }
  }
  return T(0);
}

}  // namespace moe4
