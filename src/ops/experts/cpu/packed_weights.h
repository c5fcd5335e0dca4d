// A layer's weights in the layout of packed_layout.h.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

#include "base/aligned_buffer.h"
#include "base/thread_pool.h"
#include "moe/weights.h"
#include "panels/pack_panel.h"

namespace moe4::cpu {

/// The float32 numbers of an expert that never enter the packed bytes.
struct ExpertScales {
  float gate = 1, up = 1, down = 1;                    ///< global weight scales; 1 where absent
  float gate_input = 1, up_input = 1, down_input = 1;  ///< calibrated scales; 0 where absent
};

/// Of the exponents of an MXFP4 expert (panel_exponent_shift).
struct ExpertShifts {
  int gate = 0, up = 0, down = 0;
};

/// Panels of all experts in one allocation: expert by expert, FC1's panels and then FC2's.
class PackedWeights {
 public:
  /// Repacks in parallel, calling `copied` (or not, when empty) for each expert. Throws
  /// Error(kBadInput) naming the tensor for a NaN or negative block scale, a NaN global scale, or
  /// weights that are not numbers.
  PackedWeights(const MoeLayerWeights& weights, ThreadPool& threads,
                const std::function<void(const ExpertWeights&)>& copied);

  PanelFormat format() const { return format_; }
  int64_t bytes() const { return static_cast<int64_t>(buffer_.size()); }

  int64_t fc1_panels() const { return fc1_.panels; }
  int64_t fc2_panels() const { return fc2_.panels; }
  int64_t fc1_panel_bytes() const { return fc1_.panel_bytes; }
  int64_t fc2_panel_bytes() const { return fc2_.panel_bytes; }
  const std::byte* fc1_panel(int64_t expert, int64_t panel) const {
    return buffer_.data() + expert * expert_bytes_ + panel * fc1_.panel_bytes;
  }
  const std::byte* fc2_panel(int64_t expert, int64_t panel) const {
    return buffer_.data() + expert * expert_bytes_ + fc1_.panels * fc1_.panel_bytes +
           panel * fc2_.panel_bytes;
  }
  const ExpertScales& scales(int64_t expert) const { return scales_[expert]; }
  /// [kPanelRows] in the panel's row order, or null without biases.
  const float* fc1_bias(int64_t expert, int64_t panel) const {
    return bias_.empty() ? nullptr : &bias_[expert * bias_stride() + panel * kPanelRows];
  }
  const float* fc2_bias(int64_t expert, int64_t panel) const {
    return bias_.empty() ? nullptr
                         : &bias_[expert * bias_stride() + (fc1_.panels + panel) * kPanelRows];
  }

 private:
  struct Matrix {
    int64_t panels = 0;
    int64_t panel_bytes = 0;
  };
  int64_t bias_stride() const { return (fc1_.panels + fc2_.panels) * kPanelRows; }
  PanelRows fc1_rows(const ExpertWeights& expert, const ExpertShifts& shifts, int64_t panel) const;
  PanelRows fc2_rows(const ExpertWeights& expert, const ExpertShifts& shifts, int64_t panel) const;
  /// False when a number must not be (the caller finds out which and throws).
  bool pack_expert(const ExpertWeights& expert, int64_t index);

  MoeProblem problem_;
  PanelFormat format_;
  Matrix fc1_, fc2_;
  int64_t expert_bytes_ = 0;
  AlignedBuffer buffer_;
  std::vector<ExpertScales> scales_;
  std::vector<float> bias_;
};

}  // namespace moe4::cpu
