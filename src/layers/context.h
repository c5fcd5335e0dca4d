// What every layer needs to run: threads, kernels and scratch memory.
#pragma once

#include "base/checked_math.h"
#include "base/thread_pool.h"
#include "layers/kernels.h"
#include "layers/scratch.h"
#include "moe/quant.h"

namespace moe4 {

/// Whether linears quantise their inputs first.
struct LinearOptions {
  /// FP8 linears with an activation key quantise their inputs as it says.
  bool fp8_activations = false;
  /// W4A4 linears: kFp4 quantises with global scale 1, kFp4Static with the calibrated input scale;
  /// kAuto and kBf16 leave inputs as they are.
  ActivationMode activations = ActivationMode::kAuto;
  /// NVFP4 linears with unquantised inputs take them as float32 instead of 15-bit integers.
  bool exact_inputs = false;
};

struct LayerContext {
  ThreadPool& threads;
  const LayerKernels& kernels;
  Scratch& scratch;
};

inline int64_t padded_row(int64_t n) { return round_up(n, kRowPadding); }

/// Items of a parallel loop to hand out at a time: enough memory traffic to be worth a hand-over
/// between threads (a few microseconds), or all items when the whole is not worth waking a thread.
inline int64_t parallel_grain(int64_t items, int64_t bytes_per_item) {
  constexpr int64_t kSerialBytes = 256 << 10, kChunkBytes = 64 << 10;
  if (items * bytes_per_item < kSerialBytes) return items > 0 ? items : 1;
  return bytes_per_item < kChunkBytes ? ceil_div(kChunkBytes, bytes_per_item) : 1;
}

/// Rows [num_tokens, width] of float32 inputs of linears; rows are padded with zeros.
struct Activations {
  float* data = nullptr;
  int64_t width = 0;
  int64_t stride = 0;  ///< elements between rows: the padded width

  float* row(int64_t token) const { return data + token * stride; }
};

/// Takes scratch for activations and clears the padding; the rest is not initialised.
Activations take_activations(LayerContext& context, int64_t num_tokens, int64_t width);

}  // namespace moe4
