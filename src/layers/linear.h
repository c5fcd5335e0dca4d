// Linear layers in every weight format, packed once and applied to rows of activations.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/aligned_buffer.h"
#include "layers/context.h"
#include "layers/kernels.h"
#include "moe/quant.h"
#include "moe/weights.h"

namespace moe4 {

/// Owns a padded copy of a linear's weights (so that the checkpoint's mapping can go); immutable.
///
/// Weights are exact: code * scale is formed exactly, the remaining float32 factor (tensor, channel
/// or block scale) multiplies the float32 sum. Inputs may be quantised first, see LinearOptions.
class Linear {
 public:
  Linear() = default;
  /// Throws Error(kBadInput) for a NaN weight or scale byte, naming the tensor, and for a static
  /// input scale that is missing.
  Linear(const LinearWeights& weights, const LinearOptions& options);

  int64_t out_features() const { return out_features_; }
  int64_t in_features() const { return in_features_; }
  const PackedRows& rows() const { return rows_; }
  int64_t weight_bytes() const { return weight_bytes_; }
  bool quantizes_input() const { return input_.has_value(); }

  /// Rewrites one row of `in_features` floats as the activation key says.
  void quantize_input(const float* in, float* out) const;
  /// Row `n` in float32 (an embedding lookup).
  void decode_row(int64_t n, float* out) const;

 private:
  struct InputQuant {
    QuantFormat format;
    bool dynamic;
    DecodeScale scale;
  };

  void choose_input_quant(const LinearWeights& weights, const LinearOptions& options);
  void pack(const LinearWeights& weights);
  void pack_scales(const LinearWeights& weights);

  int64_t out_features_ = 0, in_features_ = 0;
  PackedRows rows_;
  AlignedBuffer data_, scales_;
  std::vector<float> row_scale_, block_scale_, bias_;
  std::optional<InputQuant> input_;
  int64_t weight_bytes_ = 0;
};

/// y[t * y_stride + n] = linear(x[t])[n].
struct LinearCall {
  const Linear* linear = nullptr;
  const float* x = nullptr;  ///< [T], rows padded with zeros to linear->rows().k
  int64_t x_stride = 0;
  float* y = nullptr;
  int64_t y_stride = 0;
};

/// Runs independent linears in one parallel region (q, k and v of one input, say). A token's result
/// depends on that token alone: same bits for any num_tokens and any number of threads.
void apply_linears(LayerContext& context, std::span<const LinearCall> calls, int64_t num_tokens);

inline void apply_linear(LayerContext& context, const LinearCall& call, int64_t num_tokens) {
  apply_linears(context, {&call, 1}, num_tokens);
}

}  // namespace moe4
