// Requests that generate nothing.
#include "engine/evaluator.h"

#include <algorithm>

#include "base/error.h"

namespace moe4 {
namespace {

// Logits of a step are held at once; large vocabularies get shorter steps.
constexpr int64_t kMaxLogitBytes = int64_t{128} << 20;

}  // namespace

EngineLimits evaluator_limits(const ModelConfig& config, int64_t longest, int64_t chunk) {
  const int64_t row_bytes = config.vocab_size * int64_t{sizeof(float)};
  const int64_t tokens =
      std::clamp<int64_t>(std::min({chunk, longest, kMaxLogitBytes / row_bytes}), 1, chunk);
  return {.max_tokens = std::max(tokens, kPageTokens + 1),
          .max_seqs = 1,
          .prompt_chunk = tokens,
          .max_context = longest,
          .cache_tokens = longest,
          .prefix_cache = false,
          .prompt_logits = tokens};
}

Evaluator::Evaluator(const Model& model, int64_t longest, int64_t chunk)
    : engine_(model, evaluator_limits(model.config(), longest, chunk)) {}

void Evaluator::run(std::span<const int32_t> ids, const OnLogits& on_logits, Observer* observer) {
  std::exception_ptr error;
  const RequestId id =
      engine_.submit({.prompt = {ids.begin(), ids.end()},
                      .prompt_logits = on_logits,
                      .on_end = [&](const RequestEnd& end) { error = end.error; }});
  try {
    while (engine_.step(observer)) {
    }
  } catch (...) {
    engine_.cancel(id);
    throw;
  }
  if (error) std::rethrow_exception(error);
}

}  // namespace moe4
