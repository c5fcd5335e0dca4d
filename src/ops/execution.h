// What a step runs with: its stream, its memory, and who looks on.
#pragma once

#include <cstdint>

#include "device/arena.h"
#include "device/stream.h"
#include "ops/rows.h"

namespace moe4 {

/// Sees a model's insides while it runs (`moe4 forward --hidden`, `compare`, tests). Rows are views
/// that hold until the call returns, float32, of the step's tokens in order. Where nobody looks,
/// models may compute less: with an observer the last layer and the final norm run for every token.
class Observer {
 public:
  enum class Point {
    kEmbedding,  ///< hidden states before the first layer; layer is -1
    kLayer,      ///< hidden states after a layer
    kRouter,     ///< router logits of a layer, [T, num_experts]
    kFinalNorm,  ///< what lm_head reads; layer is -1
  };
  virtual ~Observer() = default;
  virtual void see(Point point, int64_t layer, const Rows& rows) = 0;
};

/// With a measuring arena nothing runs: code that takes memory and calls ops only adds up what it
/// would take, which is how workspace sizes are found.
struct Execution {
  Stream stream;
  Arena& arena;
  Observer* observer = nullptr;

  bool is_measuring() const { return arena.is_measuring(); }
  /// What ops hand each other where nothing needs more: float32 on the CPU, BF16 on a GPU. The
  /// residual, the router's and the head's logits and angles are float32 everywhere.
  RowFormat activations() const {
    return stream.device.is_cpu() ? RowFormat::kF32 : RowFormat::kBf16;
  }
};

}  // namespace moe4
