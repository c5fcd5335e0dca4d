// One sequence by itself on a runner of its own, cut as the caller likes: what engines are held
// against.
#pragma once

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <span>
#include <vector>

#include "base/error.h"
#include "engine/hidden_states.h"
#include "engine/runner.h"

namespace moe4::testing {

enum class LogitsFor { kNone, kLastToken, kAllTokens };

class Sequence {
 public:
  /// Room for `capacity` tokens.
  Sequence(const Model& model, int64_t capacity)
      : capacity_(capacity),
        runner_(model, {.step = {.max_tokens = std::min(capacity, kMaxStepTokens),
                                 .max_seqs = 1,
                                 .max_context = capacity,
                                 .max_logits = std::min(capacity, kMaxStepTokens)},
                        .num_pages = ceil_div(capacity, kPageTokens),
                        .num_state_slots = 1}),
        pages_(static_cast<size_t>(ceil_div(capacity, kPageTokens))) {
    std::iota(pages_.begin(), pages_.end(), 0);
  }

  int64_t length() const { return length_; }  ///< tokens seen
  void clear() { length_ = 0; }

  /// Appends `ids`. `logits`: [1, V] or [T, V] float32 as asked. `hidden`, when not null, is
  /// overwritten.
  void forward(std::span<const int32_t> ids, LogitsFor which, std::vector<float>& logits,
               HiddenStates* hidden = nullptr) {
    const auto tokens = static_cast<int64_t>(ids.size());
    const ModelConfig& config = runner_.model().config();
    const int64_t vocab = config.vocab_size;
    MOE4_CHECK(tokens <= capacity_ - length_);
    runner_.check_ids(ids, length_);
    if (hidden != nullptr) hidden->clear(config.num_layers);
    const bool all = which == LogitsFor::kAllTokens;
    const bool last = which == LogitsFor::kLastToken && tokens > 0;
    logits.resize(static_cast<size_t>((all ? tokens : (last ? 1 : 0)) * vocab));
    for (int64_t begin = 0; begin < tokens; begin += kMaxStepTokens) {
      const int64_t n = std::min(kMaxStepTokens, tokens - begin);
      const int64_t wanted = all ? n : (last && begin + n == tokens ? 1 : 0);
      const SequencePiece piece{.token_ids = ids.subspan(begin, n),
                                .context = length_,
                                .pages = pages_,
                                .is_decode = length_ > 0 && tokens == 1,
                                .num_logits = wanted};
      const Rows rows = runner_.run({&piece, 1}, hidden).logits;
      std::copy_n(rows.row(0), wanted * vocab, logits.data() + (all ? begin * vocab : 0));
      length_ += n;
    }
  }

 private:
  static constexpr int64_t kMaxStepTokens = 512;

  int64_t capacity_, length_ = 0;
  Runner runner_;
  std::vector<int32_t> pages_;
};

}  // namespace moe4::testing
