// RotaryAngles: cosines and sines of a step's positions, made once for all layers that rotate
// alike.
#pragma once

#include "ops/op.h"

namespace moe4 {

/// Rotary position embedding in the rotate-half (NeoX) form on the first `dim` elements of a head.
/// Text tokens have one position for all sections of multi-axis embeddings (mrope), which makes
/// those the plain form.
struct RotarySpec {
  int64_t dim = 0;  ///< head_dim * partial_rotary_factor, even
  double theta = 10000.0;
  bool operator==(const RotarySpec&) const = default;
};

/// y[t] = [cos(p f_0) .. cos(p f_{h-1}) | sin(p f_0) .. sin(p f_{h-1})], p = positions[t],
/// h = dim / 2, f_i = theta^(-2i / dim) in the float32 steps of the reference implementation
/// (transformers): the angle p f_i is a float32 product, whose rounding matters far along.
struct RotaryAngles {
  static constexpr std::string_view kName = "rotary_angles";
  using Problem = RotarySpec;
  struct Weights {};
  struct Args {
    const int32_t* positions = nullptr;  ///< [T]; negative ones (padding) count as 0
    Rows y;                              ///< [T, dim]
  };
  static void check(const Problem& problem, const Args& args);
};

/// f_i as above, [dim / 2].
std::vector<float> inverse_frequencies(const RotarySpec& spec);

}  // namespace moe4
