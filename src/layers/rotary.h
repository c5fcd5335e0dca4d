// Rotary position embedding in the rotate-half (NeoX) form, on the first part of each head.
#pragma once

#include <cstdint>
#include <vector>

namespace moe4 {

/// Text tokens have one position for all sections of multi-axis rotary embeddings (mrope), which
/// makes those the plain form.
class Rotary {
 public:
  Rotary() = default;
  /// `rotary_dim`: head_dim * partial_rotary_factor, even.
  Rotary(int64_t rotary_dim, double theta);

  int64_t half() const { return static_cast<int64_t>(inverse_frequency_.size()); }
  /// cos and sin [half] of a position, in the float32 steps of the reference implementation.
  void angles(int64_t position, float* cos, float* sin) const;
  /// Rotates one head in place; elements past the rotary dimension stay.
  void apply(const float* cos, const float* sin, float* head) const;

 private:
  std::vector<float> inverse_frequency_;
};

}  // namespace moe4
