// Canonical weights: what checkpoint/ yields and every backend's prepare() takes: views of the file
// wherever its order is the canonical one.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/aligned_buffer.h"
#include "base/tensor_view.h"
#include "moe/problem.h"
#include "moe/quant.h"
#include "numerics/scales.h"

namespace moe4 {

/// One linear layer y = x W^T + bias as the file has it. N = out_features, K = in_features. By
/// scheme.weight.format, `weight`, `scale` and the value of an element:
///
///   kFloat        BF16/F16/F32 [N, K]  none                       itself
///   kNvfp4        U8 [N, K/2]          F8_E4M3 [N, K/16]          code * scale * global
///   kMxfp4        U8 [N, K/2]          U8 (E8M0) [N, K/32]        code * 2^(scale - 127)
///   kFp8Tensor    F8_E4M3 [N, K]       none                       e4m3 * global
///   kFp8Channel   F8_E4M3 [N, K]       F32/BF16 [N, 1]            e4m3 * scale[n]
///   kFp8Block128  F8_E4M3 [N, K]       F32/BF16, of [128, 128]    e4m3 * scale
///   kQ8_0         U8 [N, K/32 * 34]    none (they are in blocks)  see numerics/ggml_blocks.h
///
/// Rows of weight and scale may be strided (TensorView), as may the elements of a bias: checkpoints
/// that alternate rows of gate and up need no copy.
struct LinearWeights {
  std::string name;  ///< module name in the checkpoint, for messages
  int64_t out_features = 0;
  int64_t in_features = 0;
  QuantScheme scheme = kUnquantized;
  TensorView weight;
  TensorView scale;
  /// Always multiplies; reciprocal checkpoints were inverted when loaded. 1 with kMxfp4.
  DecodeScale global_scale;
  /// Calibrated activation scale (decode direction): global scale of static NVFP4 activations,
  /// scale of static FP8 ones.
  std::optional<DecodeScale> input_scale;
  TensorView bias;  ///< [N] or empty
  /// What views lie in that are in no file; null: the file's mapping.
  std::shared_ptr<const AlignedBuffer> memory = nullptr;
};

/// The three projections of an expert. Gate and up keep their own global scales and input scales.
struct ExpertWeights {
  std::optional<LinearWeights> gate;  ///< [I, H]; absent for non-gated activations
  LinearWeights up;                   ///< [I, H]
  LinearWeights down;                 ///< [H, I]
};

/// A routed-experts layer. All experts of a layer share one scheme (checkpoint/ checks it).
struct MoeLayerWeights {
  MoeProblem problem;
  QuantScheme scheme;
  std::vector<ExpertWeights> experts;  ///< num_local_experts
  /// Global id -> index into `experts`, -1 when another rank owns it. Empty: the identity.
  std::vector<int32_t> expert_map;
  /// Codes and block scales lie in memory of the GPU that prepares the layer (an engine that has
  /// them there already); biases are in host memory all the same. GPU backends only.
  bool on_device = false;
  /// What views lie in that are in no file: experts that a file has in another order.
  std::vector<std::shared_ptr<const AlignedBuffer>> memory;
};

}  // namespace moe4
