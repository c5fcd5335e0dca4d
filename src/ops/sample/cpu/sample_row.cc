// Sampling from one row on the CPU.
#include "ops/sample/cpu/sample_row.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <limits>

#include "base/error.h"
#include "ops/sample/sample_arithmetic.h"

namespace moe4 {
namespace {

constexpr float kLargest = std::numeric_limits<float>::max();

// Larger logits first; among equals the lower id.
bool is_before(const SampleCandidate& a, const SampleCandidate& b) {
  return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
}

// A loop without a dependence from one element to the next.
float largest(std::span<const float> logits) {
  constexpr size_t kLanes = 16;
  float most[kLanes];
  std::fill_n(most, kLanes, logits[0]);
  size_t i = 0;
  for (; i + kLanes <= logits.size(); i += kLanes) {
    for (size_t j = 0; j < kLanes; ++j) most[j] = logits[i + j] > most[j] ? logits[i + j] : most[j];
  }
  for (; i < logits.size(); ++i) most[0] = std::max(most[0], logits[i]);
  return *std::max_element(most, most + kLanes);
}

// The first that equals `max`, which is there: by sixteens without a dependence.
int32_t first_of(std::span<const float> logits, float max) {
  constexpr size_t kLanes = 16;
  size_t i = 0;
  for (; i + kLanes <= logits.size(); i += kLanes) {
    uint32_t found = 0;
    for (size_t j = 0; j < kLanes; ++j) found |= logits[i + j] == max ? 1u : 0u;
    if (found != 0) break;
  }
  while (logits[i] != max) ++i;
  return static_cast<int32_t>(i);
}

using Candidates = std::span<SampleCandidate>;

// The bin in which the sum of value(candidate), from the likeliest on, reaches `target`: only its
// candidates have to be looked at one by one. `before` becomes the sum in front of it.
template <typename Bin, typename Value>
int border_bin(Candidates all, const Bin& bin, const Value& value, uint64_t target,
               uint64_t& before) {
  std::array<uint64_t, kSampleBins> sums{};
  for (const SampleCandidate& c : all) sums[static_cast<size_t>(bin(c))] += value(c);
  before = 0;
  int border = 0;
  while (before + sums[static_cast<size_t>(border)] < target) {
    before += sums[static_cast<size_t>(border++)];
  }
  return border;
}

// The k best and everything that equals the k-th.
template <typename Bin>
Candidates keep_top_k(Candidates all, int64_t k, const Bin& bin) {
  if (k <= 0 || k >= static_cast<int64_t>(all.size())) return all;
  uint64_t before = 0;
  const int border = border_bin(
      all, bin, [](const SampleCandidate&) { return uint64_t{1}; }, static_cast<uint64_t>(k),
      before);
  auto end = std::remove_if(all.begin(), all.end(),
                            [&](const SampleCandidate& c) { return bin(c) > border; });
  std::nth_element(all.begin(), all.begin() + (k - 1), end, is_before);
  const float threshold = all[static_cast<size_t>(k - 1)].logit;
  end = std::remove_if(all.begin(), end,
                       [&](const SampleCandidate& c) { return c.logit < threshold; });
  return all.first(static_cast<size_t>(end - all.begin()));
}

// Candidates, best first, while those in front of them have less than top_p of the weight.
template <typename Bin>
Candidates keep_top_p(Candidates all, float top_p, const Bin& bin) {
  if (top_p >= 1.0f) return all;
  uint64_t total = 0;
  for (const SampleCandidate& c : all) total += c.weight;
  const uint64_t bound = top_p_mass(total, top_p);
  uint64_t mass = 0;
  const int border = border_bin(
      all, bin, [](const SampleCandidate& c) { return c.weight; }, bound, mass);
  const auto end = std::remove_if(all.begin(), all.end(),
                                  [&](const SampleCandidate& c) { return bin(c) > border; });
  const auto first =
      std::partition(all.begin(), end, [&](const SampleCandidate& c) { return bin(c) < border; });
  std::sort(first, end, is_before);
  auto kept = first;
  while (kept != end && mass < bound) mass += (kept++)->weight;
  return all.first(static_cast<size_t>(kept - all.begin()));
}

}  // namespace

std::span<SampleCandidate> sample_candidates(std::span<const float> logits, const SampleRow& row,
                                             std::span<SampleCandidate> room) {
  const float max = largest(logits);
  if (max == -std::numeric_limits<float>::infinity()) return {};
  if (row.scale == 0) {
    room[0] = {uint64_t{1} << kWeightBits, max, first_of(logits, max)};
    return room.first(1);
  }
  const auto exponent = [&](float logit) { return sample_exponent(logit, max, row.scale); };
  size_t n = 0;
  for (size_t i = 0; i < logits.size(); ++i) {
    room[n] = {0, logits[i], static_cast<int32_t>(i)};
    n += exponent(logits[i]) >= row.least ? 1 : 0;
  }
  const auto bin = [&](const SampleCandidate& c) { return sample_bin(exponent(c.logit)); };
  Candidates left = keep_top_k(room.first(n), row.top_k, bin);
  for (SampleCandidate& c : left) c.weight = sample_weight(exponent(c.logit));
  left = keep_top_p(left, row.top_p, bin);
  // Selection leaves an order that is the library's business; draws go by id.
  const auto by_id = [](const SampleCandidate& a, const SampleCandidate& b) { return a.id < b.id; };
  if (!std::is_sorted(left.begin(), left.end(), by_id)) std::sort(left.begin(), left.end(), by_id);
  return left;
}

int32_t draw(std::span<const SampleCandidate> candidates, uint64_t random) {
  MOE4_CHECK(!candidates.empty());
  uint64_t total = 0;
  for (const SampleCandidate& c : candidates) total += c.weight;
  uint64_t point = drawn_point(random, total);
  for (const SampleCandidate& c : candidates) {
    if (point < c.weight) return c.id;
    point -= c.weight;
  }
  MOE4_CHECK(false);
}

int64_t find_bad_logit(std::span<const float> logits) {
  uint32_t bad = 0;  // as wide as a float, so that lanes need no packing
  for (const float logit : logits) bad |= logit <= kLargest ? 0u : 1u;
  if (bad == 0) return -1;
  return std::find_if(logits.begin(), logits.end(), [](float x) { return !(x <= kLargest); }) -
         logits.begin();
}

}  // namespace moe4
