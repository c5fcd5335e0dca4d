// A linear of any weight format in panels, as the CPU's LinearGroup holds it.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/aligned_buffer.h"
#include "moe/weights.h"
#include "ops/linear/input_quant.h"
#include "panels/kernels.h"
#include "panels/pack_panel.h"

namespace moe4 {

/// Owns a linear's weights in panels (so that the checkpoint's mapping can go); immutable.
///
/// FP8, unquantised and ggml's linears multiply in float32. NVFP4 linears multiply integers: inputs
/// become 15-bit integers, or FP4 where LinearOptions says so, exactly; with
/// LinearOptions::exact_inputs float32, too.
class PackedLinear {
 public:
  PackedLinear() = default;
  /// Packs on `threads`, or alone when null. Throws Error(kBadInput) for a NaN weight or scale
  /// byte, naming the tensor, and for a static input scale that is missing.
  PackedLinear(const LinearWeights& weights, const LinearOptions& options,
               ThreadPool* threads = nullptr);

  int64_t out_features() const { return out_features_; }
  int64_t in_features() const { return in_features_; }
  int64_t weight_bytes() const { return weight_bytes_; }
  /// Row `n` in float32.
  void decode_row(int64_t n, float* out) const;

  /// How the kernels want inputs; linears with equal kinds can share their rows.
  struct InputKind {
    cpu::RowFormat format = cpu::RowFormat::kFloat;
    int64_t k = 0;
    float fp4_global = 1.0f;              ///< kFp4: the activations' global scale
    const PackedLinear* owner = nullptr;  ///< kFloat: who quantises the row first, or null
    bool operator==(const InputKind&) const = default;
  };
  InputKind input_kind() const;
  /// Writes a kernel row of cpu::row_bytes(kind.format, kind.k).
  void make_row(const cpu::Kernels& kernels, const float* in, std::byte* row) const;

  int64_t num_panels() const { return ceil_div(out_features_, int64_t{cpu::kPanelRows}); }
  int64_t panel_bytes() const { return panel_bytes_; }
  /// y[t * y_stride + n] for the rows n of one panel. `sums`: [num_tokens][32], `scratch` as the
  /// kernels want it.
  void multiply_panel(const cpu::Kernels& kernels, int64_t panel, const std::byte* const* rows,
                      int64_t num_tokens, float* y, int64_t y_stride, float* sums,
                      std::byte* scratch) const;

 private:
  void choose_scales(const LinearWeights& weights);
  void pack(const LinearWeights& weights, ThreadPool* threads);

  int64_t out_features_ = 0, in_features_ = 0;
  cpu::PanelFormat format_ = cpu::PanelFormat::kBf16;
  cpu::RowFormat row_format_ = cpu::RowFormat::kFloat;
  int64_t panel_bytes_ = 0;
  AlignedBuffer panels_;
  float scale_ = 1.0f;            // multiplies every weight
  int exponent_shift_ = 0;        // of MXFP4 scales in the panels; scale_ takes it back
  float sum_unit_ = 1.0f;         // and this the kernels' sums
  std::vector<float> row_scale_;  // [N], or empty
  std::vector<float> bias_;       // [N], or empty
  std::optional<InputQuant> input_;
  int64_t weight_bytes_ = 0;
};

}  // namespace moe4
