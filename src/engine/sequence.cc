// Steps of one sequence, and the observer that keeps its hidden states.
#include "engine/sequence.h"

#include <algorithm>
#include <numeric>
#include <string>

#include "base/error.h"

namespace moe4 {
namespace {

// Tokens of a step: bounds the workspace of long prompts. Results do not depend on it.
constexpr int64_t kMaxStepTokens = 512;

int64_t checked_capacity(int64_t capacity) {
  if (capacity > 0) return capacity;
  throw Error(ErrorCode::kUsage, "a sequence needs room for at least one token");
}

RunnerLimits limits_of(int64_t capacity) {
  const int64_t tokens = std::min(capacity, kMaxStepTokens);
  return {
      .step = {.max_tokens = tokens, .max_seqs = 1, .max_context = capacity, .max_logits = tokens},
      .num_pages = ceil_div(capacity, kPageTokens),
      .num_state_slots = 1};
}

}  // namespace

void HiddenStates::see(Point point, int64_t layer, const Rows& rows) {
  std::vector<float>* to = nullptr;
  switch (point) {
    case Point::kEmbedding:
      to = &embed;
      break;
    case Point::kLayer:
      to = &layers.at(layer);
      break;
    case Point::kRouter:
      to = &router_logits.at(layer);
      break;
    case Point::kFinalNorm:
      to = &final_norm;
      break;
  }
  for (int64_t t = 0; t < rows.rows; ++t) {
    to->insert(to->end(), rows.row(t), rows.row(t) + rows.width);
  }
}

Sequence::Sequence(const Model& model, int64_t capacity)
    : capacity_(checked_capacity(capacity)),
      runner_(model, limits_of(capacity)),
      pages_(static_cast<size_t>(ceil_div(capacity, kPageTokens))) {
  std::iota(pages_.begin(), pages_.end(), 0);
}

void Sequence::forward(std::span<const int32_t> ids, LogitsFor which, std::vector<float>& logits,
                       HiddenStates* hidden) {
  const auto tokens = static_cast<int64_t>(ids.size());
  const ModelConfig& config = runner_.model().config();
  const int64_t vocab = config.vocab_size;
  if (tokens > capacity_ - length_) {
    throw Error(ErrorCode::kUsage, "the sequence holds " + std::to_string(length_) + " of " +
                                       std::to_string(capacity_) + " tokens: no room for " +
                                       std::to_string(tokens) + " more");
  }
  runner_.check_ids(ids, length_);
  if (hidden != nullptr) hidden->clear(config.num_layers);
  const bool all = which == LogitsFor::kAllTokens;
  const bool last = which == LogitsFor::kLastToken && tokens > 0;
  logits.resize(static_cast<size_t>((all ? tokens : (last ? 1 : 0)) * vocab));
  for (int64_t begin = 0; begin < tokens; begin += kMaxStepTokens) {
    const int64_t n = std::min(kMaxStepTokens, tokens - begin);
    const bool ends = begin + n == tokens;
    const int64_t wanted = all ? n : (last && ends ? 1 : 0);
    const SequencePiece piece{.token_ids = ids.subspan(begin, n),
                              .context = length_,
                              .pages = pages_,
                              .is_decode = length_ > 0 && tokens == 1,
                              .num_logits = wanted};
    float* to = logits.data() + (all ? begin * vocab : 0);
    runner_.run({&piece, 1}, Rows::dense(to, wanted, vocab), hidden);
    length_ += n;
  }
}

}  // namespace moe4
