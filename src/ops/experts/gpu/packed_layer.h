// One MoE layer's packed weights on a GPU: what marlin and hopper stream.
#pragma once

#include <cuda_runtime_api.h>

#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include "device/cuda/device_buffer.h"
#include "moe/expert_map.h"
#include "moe/experts.h"
#include "ops/experts/gpu/packed_layout.h"

namespace moe4::cuda {

/// Passed to kernels by value; all pointers are device memory. E is num_local_experts.
struct PackedLayerView {
  WeightFormat format = WeightFormat::kNvfp4;
  const uint8_t* fc1 = nullptr;  ///< packed_layout.h, fc1_shape()
  const uint8_t* fc2 = nullptr;  ///< packed_layout.h, fc2_shape()
  /// [E] global scale * 2^20 (MXFP4: exponent_alpha()); null when not gated
  const float* alpha_gate = nullptr;
  const float* alpha_up = nullptr;      ///< [E]
  const float* alpha_down = nullptr;    ///< [E]
  const float* bias_gate = nullptr;     ///< [E, I] or null
  const float* bias_up = nullptr;       ///< [E, I] or null
  const float* bias_down = nullptr;     ///< [E, H] or null
  const int32_t* expert_map = nullptr;  ///< [num_experts] -> local index or -1; null: identity
  int32_t hidden_size = 0;
  int32_t intermediate_size = 0;
  int32_t num_experts = 0;
  int32_t num_local_experts = 0;
  int32_t top_k = 0;
  int32_t num_shared = 0;  ///< slots from top_k - num_shared on have the last experts, or none
  int32_t fc1_tiles = 0, fc1_k_units = 0;
  int32_t fc2_tiles = 0, fc2_k_units = 0;
  ActivationParams activation;
  bool weight_on_input = false;

  /// Local expert of a top-k id, or -1.
  MOE4_HOST_DEVICE int local_expert(int32_t id) const {
    return moe4::local_expert(id, expert_map, num_experts, num_local_experts);
  }
};

/// Owns the memory behind a view.
class PackedLayer {
 public:
  /// Streams the checkpoint's bytes expert by expert through pinned memory to the current device
  /// and packs them there. Device memory on top of the packed size: two raw experts; none for
  /// weights that are on the device already. Throws Error(kBadInput) naming the tensor of a NaN
  /// block scale, and as mxfp4_exponent_shift().
  PackedLayer(const MoeLayerWeights& weights, ThreadPool& threads);

  const PackedLayerView& view() const { return view_; }
  const MoeProblem& problem() const { return problem_; }
  /// Bytes of packed codes and scales.
  int64_t bytes() const { return bytes_; }

 private:
  void pack_from_host(const MoeLayerWeights& weights, ThreadPool& threads);
  void pack_in_place(const MoeLayerWeights& weights);
  PackedShape fc1() const { return fc1_shape(view_.format, problem_); }
  PackedShape fc2() const { return fc2_shape(view_.format, problem_); }
  /// rows: of gate (unused without one), up and down. Writes down their alphas, too.
  void pack_expert(int64_t e, const ExpertWeights& expert, const CodeRows rows[3],
                   cudaStream_t stream);

  MoeProblem problem_;
  PackedLayerView view_;
  std::vector<std::array<float, 3>> alphas_;  // of gate, up and down; until they are on the device
  DeviceArray<uint8_t> fc1_, fc2_;
  DeviceArray<float> floats_;
  DeviceArray<int32_t> expert_map_;
  int64_t bytes_ = 0;
};

/// Packs one expert that lies in device memory; `out` is its first packed byte.
void pack_on_device(const PackedShape& shape, const CodeRows& first, const CodeRows& up,
                    uint8_t* out, cudaStream_t stream);

}  // namespace moe4::cuda
