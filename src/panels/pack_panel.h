// Repacking of weight rows from checkpoint order to panels.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "moe/weights.h"
#include "panels/packed_layout.h"

namespace moe4::cpu {

/// How the elements of a panel are stored. kFp8Groups: with scales per 128 inputs in the panel.
enum class PanelFormat { kNvfp4, kMxfp4, kBf16, kF16, kF32, kFp8, kFp8Groups, kQ8_0 };

int64_t panel_bytes(PanelFormat format, int64_t in_features);

/// Where a panel row comes from; a null linear is a row of padding.
struct PanelRow {
  const LinearWeights* linear = nullptr;
  int64_t row = 0;
  int exponent_shift = 0;  ///< kMxfp4: of panel_exponent_shift(linear)
};
using PanelRows = std::array<PanelRow, kPanelRows>;

/// Writes one panel over zeros. False when a number must not be: a NaN or negative block scale, an
/// FP8 or F16 weight or a factor of a group or block that is not finite.
bool pack_panel(PanelFormat format, const PanelRows& rows, int64_t in_features, std::byte* out);

/// What the exponents of an MXFP4 linear are shifted by in its panels: the packed weights are
/// 2^shift times what they should be. 0 unless they would not be normal floats. Throws as
/// mxfp4_exponent_shift().
int panel_exponent_shift(const LinearWeights& linear);

/// Throws Error(kBadInput) naming the first bad block scale of an NVFP4 linear, if there is one.
void check_block_scales(const LinearWeights& linear);

/// One packed weight, without scales that are not in the panel.
float panel_value(PanelFormat format, const std::byte* panel, int64_t in_features, int row,
                  int64_t input);

}  // namespace moe4::cpu
