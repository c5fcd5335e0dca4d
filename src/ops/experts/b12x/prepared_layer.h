// A layer ready to run on the GPU: packed weights in device memory and the launches of apply().
#pragma once

#include <cstdint>
#include <vector>

#include "device/cuda/device_buffer.h"
#include "moe/experts.h"
#include "ops/experts/b12x/fragment_layout.h"
#include "ops/experts/b12x/kernels.h"
#include "ops/experts/b12x/pack_fp4_weights.h"

namespace moe4::b12x {

/// apply() is five launches: routing tables, quantisation of the hidden states (none in the plain
/// BF16 mode), FC1 with activation and quantisation, FC2, weighted sum; a few tokens need only the
/// second to the fourth. Large batches repeat the last two for slabs of output columns, so that the
/// float32 partial outputs between them stay in L2. No allocation, no synchronisation.
class PreparedLayer final : public PreparedExperts {
 public:
  /// Packs expert by expert through two pinned slabs. Device memory: the packed size.
  PreparedLayer(const MoeLayerWeights& weights, const PrepareOptions& options);

  size_t workspace_size(int64_t max_tokens) const override;
  void apply(const ExpertsArgs& args) const override;
  BatchInvariance batch_invariant() const override { return BatchInvariance::kFull; }
  int64_t weight_bytes() const override;

  /// Where apply() keeps things in the caller's workspace; with a null base only the size counts.
  struct Workspace {
    cuda::RoutingTables tables;
    TokenRows staged;                   ///< FC1 input, where it differs from hidden_states
    uint16_t* scaled_values = nullptr;  ///< the same in the BF16 mode
    TokenRows intermediate;             ///< FC2 input, a row for each sorted pair
    uint16_t* intermediate_values = nullptr;
    float* partial = nullptr;
    int64_t partial_columns = 0;  ///< columns of a slab
  };
  Workspace take_workspace(Arena& arena, int64_t num_tokens) const;

  /// Which launch shape a batch takes.
  Path path(int64_t num_tokens) const;
  /// float32 [num_local_experts], as made once in the constructor.
  const std::vector<float>& fc2_input_scale() const { return scales_.fc2_input_scale; }

 private:
  void upload_weights(const MoeLayerWeights& weights, ThreadPool& threads);
  int64_t num_local_experts() const { return static_cast<int64_t>(scales_.fc2_input_scale.size()); }
  bool row_per_pair() const;
  int64_t variants() const { return scales_.gate_and_up_inputs_differ ? 2 : 1; }

  MoeProblem problem_;
  bool fp4_;
  bool calibrated_;  ///< kFp4Static
  PackedMatrix fc1_, fc2_;
  LayerScales scales_;
  int device_ = 0;
  bool dependent_launch_ = false;
  int64_t few_tokens_ = 1;     ///< largest batch of Path::kFewTokens
  int64_t partial_bytes_ = 0;  ///< what of L2 the partial outputs may take

  cuda::DeviceArray<uint8_t> w13_, w2_;
  cuda::DeviceArray<float> fc1_alpha_, fc2_alpha_, fc1_input_scale_, fc2_input_scale_;
  cuda::DeviceArray<float> fc1_bias_, fc2_bias_;
  cuda::DeviceArray<int32_t> expert_map_;
};

}  // namespace moe4::b12x
