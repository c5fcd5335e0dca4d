// Finds the tensors that belong to a module, and the experts of a layer, under all the names
// checkpoints use.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "checkpoint/stacked_experts.h"
#include "checkpoint/stored_linear.h"
#include "checkpoint/tensor_table.h"

namespace moe4 {

/// What stands before "layers.N": "model.", "model.language_model.", ... Throws Error(kBadInput)
/// when no tensor looks like a layer.
std::string find_text_prefix(const TensorTable& table);

/// Whether `module` has a weight (`.weight` or `.weight_packed`).
bool has_module(const TensorTable& table, const std::string& module);

/// The tensors of an ordinary linear. Throws Error(kBadInput) when the weight is missing or the
/// module carries tensors of a quantisation that moe4 does not decode.
StoredLinear gather_linear(const TensorTable& table, const std::string& module);

/// One expert's projections; `gate` is absent for non-gated activations.
struct StoredExpert {
  std::optional<StoredLinear> gate;
  StoredLinear up;
  StoredLinear down;
};

struct ExpertShape {
  int64_t num_experts = 0;
  int64_t hidden_size = 0;
  int64_t intermediate_size = 0;
  bool is_gated = true;
  StackedExperts stacked = StackedExperts::kRows;
  bool needs_biases = false;
};

/// "model.layers.3.mlp.experts" or the family's other spelling; nullopt when the layer has none.
std::optional<std::string> find_experts_module(const TensorTable& table,
                                               const std::string& layer_prefix);

/// Throws Error(kBadInput) when MLX's experts, which are not decoded, stand in the module's place.
void refuse_mlx_experts(const TensorTable& table, const std::string& experts_module);

/// A projection of all experts of a layer in 3-D tensors, under the name of its first expert's:
/// "model.layers.3.mlp.experts.0.up_proj".
struct FusedProjection {
  std::string module;
  std::optional<DType> weight_dtype;  ///< nullopt: one that moe4 does not know
  std::optional<DType> scale_dtype;   ///< of `weight_scale`; nullopt: likewise, or none
  bool has_input_scale;
};
/// Those below `experts_module`; none if its experts are stored one by one. A gate_up_proj is a
/// gate_proj and an up_proj.
std::vector<FusedProjection> fused_projections(const TensorTable& table,
                                               const std::string& experts_module);

/// All experts below `experts_module`: stored one by one (gate_proj/up_proj/down_proj or w1/w3/w2,
/// the expert's number before or after the projection), or in 3-D tensors (gate_up_proj [E, 2I,
/// ...] with the gate's rows first, or one a projection; biases [E, 2I]; or transposed), or
/// in gpt-oss's blocks (mxfp4_linear.h). Throws Error(kBadInput) naming the first missing or
/// misshapen tensor.
std::vector<StoredExpert> gather_experts(const TensorTable& table,
                                         const std::string& experts_module,
                                         const ExpertShape& shape);

}  // namespace moe4
