// RotaryAngles: cosines and sines of a step's positions, made once for all layers that rotate
// alike.
#pragma once

#include "ops/op.h"
#include "ops/rotary/rotary_spec.h"

namespace moe4 {

/// y[t] = a [cos(p f_0) .. cos(p f_{h-1}) | sin(p f_0) .. sin(p f_{h-1})], p = positions[t] (a
/// multiple of the spec's step below it), h = dim / 2, a the amplitude, f_i =
/// inverse_frequencies(): the angle p f_i is a float32 product, as in transformers, whose rounding
/// matters far along.
struct RotaryAngles {
  static constexpr std::string_view kName = "rotary_angles";
  using Problem = RotarySpec;
  struct Weights {};
  struct Args {
    const int32_t* positions = nullptr;  ///< [T]; negative ones (padding) count as 0
    Rows y;                              ///< [T, dim], float32
  };
  static void check(const Problem& problem, const Args& args);
};

}  // namespace moe4
