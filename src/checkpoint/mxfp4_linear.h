// MXFP4 linears and gpt-oss's experts: from the tensors as stored to canonical weights.
#pragma once

#include <string>
#include <vector>

#include "checkpoint/module_tensors.h"
#include "checkpoint/stored_linear.h"
#include "checkpoint/tensor_table.h"

namespace moe4 {

/// Whether a packed weight's block scales are powers of two: E8M0, which files also store as U8.
bool is_e8m0(DType scale_dtype);

/// Whether dtypes are those of MXFP4: U8 codes with such scales, or DeepSeek-V4's I8 with F8_E8M0.
bool is_mxfp4(DType weight_dtype, DType scale_dtype);

/// A weight U8 or I8 [N, K/2] with scales U8 or F8_E8M0 [N, K/32] and no other scale. Throws
/// Error(kBadInput) naming the tensor that does not fit, or a scale of 255 (NaN) unless
/// `headers_only`. Name, weight and bias are left to interpret().
LinearWeights interpret_mxfp4(const StoredLinear& stored,
                              const std::optional<DeclaredQuant>& declared, bool headers_only);

/// Whether the experts are stored as gpt-oss's: `gate_up_proj_blocks` and so on.
bool has_block_experts(const TensorTable& table, const std::string& experts_module);

/// All experts of gpt-oss's tensors, without copying:
///
///   gate_up_proj_blocks U8 [E, 2I, H/32, 16], gate_up_proj_scales U8 [E, 2I, H/32],
///   gate_up_proj_bias [E, 2I]: rows 2i are gate's, rows 2i + 1 up's;
///   down_proj_blocks U8 [E, H, I/32, 16], down_proj_scales U8 [E, H, I/32], down_proj_bias [E, H].
///
/// Biases may be absent. Throws Error(kBadInput) naming the first missing or misshapen tensor.
std::vector<StoredExpert> gather_block_experts(const TensorTable& table,
                                               const std::string& experts_module,
                                               const ExpertShape& shape);

}  // namespace moe4
