// Sequences of known tokens through a model, one after the other: for whatever looks at a model
// rather than generates with it.
#pragma once

#include <cstdint>
#include <functional>
#include <span>

#include "engine/engine.h"

namespace moe4 {

/// Of the engine that an Evaluator owns.
EngineLimits evaluator_limits(const ModelConfig& config, int64_t longest, int64_t chunk = 512);

/// Owns an engine of its own.
class Evaluator {
 public:
  /// Sequences of up to `longest` tokens, at most `chunk` a step (the same bits for any).
  /// Throws Error(kUsage) without room for a token, Error(kUnavailable) when memory is short.
  Evaluator(const Model& model, int64_t longest, int64_t chunk = 512);

  /// Called with logits [n, vocab_size] of the tokens at `first` and after, in order.
  using OnLogits = std::function<void(int64_t first, std::span<const float> logits)>;

  /// One sequence from its beginning. No logits are made for an empty `on_logits`; `observer` sees
  /// all tokens and may be null. Throws Error(kUsage) for a sequence that is empty or too long,
  /// Error(kBadInput) for an id outside the vocabulary, and what `on_logits` throws.
  void run(std::span<const int32_t> ids, const OnLogits& on_logits, Observer* observer = nullptr);

 private:
  Engine engine_;
};

}  // namespace moe4
