// Host side of b12x's prepare(): codes and scales into fragment order, and the float32 multipliers.
#pragma once

#include <cstdint>
#include <vector>

#include "base/thread_pool.h"
#include "moe/weights.h"
#include "ops/experts/b12x/fragment_layout.h"

namespace moe4::b12x {

/// Packs one expert into `out` (matrix.expert_bytes()). `first` is gate (gated FC1), up or down;
/// `up` is used by a gated FC1 only. A negative scale flips its block's signs, for the instruction
/// has no negative scales. NaN scales were refused before (check_scales).
void pack_expert(const PackedMatrix& matrix, const LinearWeights& first, const LinearWeights* up,
                 ThreadPool& threads, uint8_t* out);

/// The BF16 mode's decoder yields weights times 2^-20 (decode_bf16.cuh).
inline constexpr float kBf16AlphaScale = 0x1p20f;

/// Float32 multipliers of one layer. Global scales stay float32 to the end: folded into the E4M3
/// block scales they would be rounded again.
struct LayerScales {
  /// [num_local_experts][2] global scales of the gate and up inputs: 1, or calibrated in
  /// kFp4Static.
  std::vector<float> fc1_input_scale;
  /// [num_local_experts] global scale of the FC2 input: calibrated in kFp4Static, else 1 whether
  /// the checkpoint brought one or not.
  std::vector<float> fc2_input_scale;
  /// [num_local_experts][2] weight global scale * input global scale of each half (both halves the
  /// same where the activation is not gated), times kBf16AlphaScale in the BF16 mode.
  std::vector<float> fc1_alpha;
  std::vector<float> fc2_alpha;  ///< [num_local_experts][2]
  /// Whether gate and up of some expert see differently quantised inputs.
  bool gate_and_up_inputs_differ = false;
};

/// Throws Error(kBadInput) naming the tensor when kFp4Static lacks a calibrated scale.
LayerScales make_layer_scales(const MoeLayerWeights& weights, ActivationPrecision precision);

/// Biases as float32, [num_local_experts][rows of `matrix`] (gated: gate rows, then up rows); empty
/// when no expert has one.
std::vector<float> make_biases(const PackedMatrix& matrix, const MoeLayerWeights& weights,
                               bool fc1);

}  // namespace moe4::b12x
