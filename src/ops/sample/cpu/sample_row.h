// One row of edited logits: who is left, and who of them is drawn.
#pragma once

#include <cstdint>
#include <span>

#include "ops/sample/sample.h"

namespace moe4 {

struct SampleCandidate {
  uint64_t weight;
  float logit;
  int32_t id;
};

/// Steps 2 to 4 of Sample: the candidates left of `logits`, which hold neither NaN nor +infinity,
/// by rising id, in a part of `room` (at least as many). Empty: no logit above -infinity is left. A
/// greedy choice is one candidate. Allocates nothing.
std::span<SampleCandidate> sample_candidates(std::span<const float> logits, const SampleRow& row,
                                             std::span<SampleCandidate> room);

/// Step 5.
int32_t draw(std::span<const SampleCandidate> candidates, uint64_t random);

/// The first logit that is NaN or +infinity, -1 if there is none.
int64_t find_bad_logit(std::span<const float> logits);

}  // namespace moe4
