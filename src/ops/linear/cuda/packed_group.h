// The weights of a group of linears on a GPU.
#pragma once

#include <span>
#include <vector>

#include "device/cuda/device_buffer.h"
#include "ops/linear/cuda/panel.h"
#include "ops/linear/linear_group.h"

namespace moe4::cuda {

/// Owns the panels of a group; immutable. On the device that is current when it is made.
class PackedGroup {
 public:
  /// Throws Error(kBadInput) naming the tensor for a NaN weight or scale, and what
  /// mxfp4_exponent_shift() throws.
  PackedGroup(const LinearGroup::Weights& weights, ThreadPool* threads);

  std::span<const Panel> panels() const { return panels_; }
  std::span<const PanelMember> members() const { return members_; }
  int64_t bytes() const { return bytes_; }

 private:
  std::vector<Panel> panels_;
  std::vector<PanelMember> members_;
  std::vector<DeviceArray<uint8_t>> weights_;  // [panels]
  std::vector<DeviceArray<float>> floats_;
  int64_t bytes_ = 0;
};

}  // namespace moe4::cuda
