// Masks with stop tokens.
#include "engine/constraint.h"

#include <algorithm>
#include <utility>

#include "base/error.h"

namespace moe4 {

Constraint::Constraint(std::shared_ptr<const TokenMasks> masks, int64_t vocab_size)
    : matcher_(std::move(masks)),
      vocab_size_(vocab_size),
      words_(std::max(matcher_.masks().vocabulary().mask_words(),
                      (static_cast<size_t>(vocab_size) + 63) / 64)) {}

std::span<const uint64_t> Constraint::allowed(std::span<const int32_t> stops, bool may_stop) {
  const std::span<uint64_t> words = words_;
  const size_t own = matcher_.masks().vocabulary().mask_words();
  matcher_.fill_mask(words.first(own));
  std::fill(words.begin() + static_cast<std::ptrdiff_t>(own), words.end(), 0);
  const bool ends = may_stop && matcher_.may_end();
  for (const int32_t id : stops) {
    if (id < 0 || id >= vocab_size_) continue;
    const uint64_t bit = uint64_t{1} << (static_cast<size_t>(id) % 64);
    uint64_t& word = words[static_cast<size_t>(id) / 64];
    word = ends ? word | bit : word & ~bit;
  }
  if (std::all_of(words.begin(), words.end(), [](uint64_t word) { return word == 0; })) {
    throw Error(ErrorCode::kUsage,
                "no token of the vocabulary goes on as the grammar of the request demands");
  }
  return words;
}

void Constraint::take(int32_t token) { MOE4_CHECK(matcher_.accept(token)); }

}  // namespace moe4
