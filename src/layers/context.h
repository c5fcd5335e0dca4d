// What every layer needs to run: threads, kernels, arithmetic and scratch memory.
#pragma once

#include "base/checked_math.h"
#include "base/dtype.h"
#include "base/thread_pool.h"
#include "layers/kernels.h"
#include "layers/scratch.h"
#include "moe/quant.h"

namespace moe4 {

/// How linears treat their inputs beyond the compute dtype.
struct LinearOptions {
  /// FP8 linears with an activation key quantise their inputs as it says.
  bool fp8_activations = false;
  /// W4A4 linears: kFp4 quantises with global scale 1, kFp4Static with the calibrated input scale;
  /// kAuto and kBf16 leave inputs as they are.
  ActivationMode activations = ActivationMode::kAuto;
};

struct LayerContext {
  ThreadPool& threads;
  const LayerKernels& kernels;
  /// kBF16: inputs of linears are rounded to BF16. kF32: nothing is rounded.
  DType compute_dtype;
  Scratch& scratch;
};

inline int64_t padded_row(int64_t n) { return round_up(n, kRowPadding); }

/// Rows [num_tokens, width] of activations: float32 always, and in the compute dtype for linears.
struct Activations {
  float* f32 = nullptr;  ///< [T, stride]
  InputRows rows;        ///< the same values in the compute dtype (f32 itself in kF32)
  int64_t width = 0;
  int64_t stride = 0;  ///< padded width; the padding is zero
};

/// Takes scratch for activations and clears the padding.
Activations take_activations(LayerContext& context, int64_t num_tokens, int64_t width);

/// Makes `rows` of token t from its float32 row. Thread-safe for different tokens.
void finish_row(const LayerContext& context, const Activations& x, int64_t token);

}  // namespace moe4
