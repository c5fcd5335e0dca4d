// A request's grammar on its way through an answer.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "grammar/token_masks.h"

namespace moe4 {

class Constraint {
 public:
  Constraint(std::shared_ptr<const TokenMasks> masks, int64_t vocab_size);

  /// The answer is complete, and nothing may follow.
  bool is_complete() const { return matcher_.must_end(); }
  /// Bits of the tokens that may come next. Of `stops` all, where the answer may end and `may_stop`
  /// says so, else none. Valid until the next call. Throws Error(kUsage) when there is none.
  std::span<const uint64_t> allowed(std::span<const int32_t> stops, bool may_stop);
  /// Goes on by a token that was allowed and is no stop.
  void take(int32_t token);

 private:
  GrammarMatcher matcher_;
  int64_t vocab_size_;
  std::vector<uint64_t> words_;
};

}  // namespace moe4
