// One sequence by itself, for whatever looks at a model rather than serves with it.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/hidden_states.h"
#include "engine/runner.h"

namespace moe4 {

enum class LogitsFor { kNone, kLastToken, kAllTokens };

/// Owns a runner with room for `capacity` tokens.
class Sequence {
 public:
  /// Throws Error(kUsage) without room for a token, Error(kUnavailable) when memory is short.
  Sequence(const Model& model, int64_t capacity);

  int64_t length() const { return length_; }  ///< tokens seen
  int64_t capacity() const { return capacity_; }
  /// Begins again with no tokens.
  void clear() { length_ = 0; }

  /// Appends `ids`. `logits`: [1, V] or [T, V] float32 as asked. `hidden`, when not null, is
  /// overwritten. Throws Error(kBadInput) for an id outside the vocabulary and Error(kUsage) past
  /// the capacity, both before anything has changed.
  void forward(std::span<const int32_t> ids, LogitsFor which, std::vector<float>& logits,
               HiddenStates* hidden = nullptr);

 private:
  int64_t capacity_, length_ = 0;
  Runner runner_;
  std::vector<int32_t> pages_;
};

}  // namespace moe4
