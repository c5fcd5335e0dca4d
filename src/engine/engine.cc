// The loop around scheduler and runner.
#include "engine/engine.h"

#include <algorithm>
#include <string>

#include "base/error.h"

namespace moe4 {
namespace {

RunnerLimits runner_limits(const EngineLimits& limits) {
  return {.step = {.max_tokens = limits.scheduler.max_tokens,
                   .max_seqs = limits.scheduler.max_seqs,
                   .max_context = limits.max_context,
                   .max_logits = limits.scheduler.max_seqs},
          .num_pages = ceil_div(limits.cache_tokens, kPageTokens),
          .num_state_slots = limits.scheduler.max_seqs};
}

bool only_pages(const Model& model) {
  return std::all_of(model.caches().begin(), model.caches().end(),
                     [](const CacheSpec& spec) { return std::holds_alternative<PagedSpec>(spec); });
}

}  // namespace

Engine::Engine(const Model& model, const EngineLimits& limits)
    : model_(model),
      limits_(limits),
      reuses_prefixes_(limits.prefix_cache && only_pages(model)),
      runner_(model, runner_limits(limits)),
      scheduler_(limits.scheduler, ceil_div(limits.cache_tokens, kPageTokens)),
      logits_(static_cast<size_t>(limits.scheduler.max_seqs * model.config().vocab_size)) {}

RequestId Engine::submit(EngineRequest request) {
  const auto prompt = static_cast<int64_t>(request.prompt.size());
  MOE4_CHECK(request.next_token && request.max_new_tokens > 0);
  if (prompt == 0) throw Error(ErrorCode::kUsage, "the prompt is empty: give at least one token");
  if (request.max_new_tokens > limits_.max_context - prompt) {
    throw Error(ErrorCode::kUsage, "the prompt has " + std::to_string(prompt) + " tokens and " +
                                       std::to_string(request.max_new_tokens) +
                                       " more were asked for: the context is " +
                                       std::to_string(limits_.max_context));
  }
  runner_.check_ids(request.prompt, 0);
  // The last token is only sampled, never computed.
  const RequestId id =
      scheduler_.add(prompt, prompt + request.max_new_tokens - 1,
                     reuses_prefixes_ ? page_hashes(request.prompt) : std::vector<PageHash>{});
  Active& active = requests_[id];
  active.ids = request.prompt;
  active.request = std::move(request);
  return id;
}

void Engine::cancel(RequestId id) {
  if (requests_.erase(id) > 0) scheduler_.finish(id);
}

void Engine::finish(RequestId id, std::exception_ptr error) {
  const auto found = requests_.find(id);
  const auto on_end = std::move(found->second.request.on_end);
  requests_.erase(found);
  scheduler_.finish(id);
  if (on_end) on_end(std::move(error));
}

void Engine::take_token(RequestId id, std::span<float> logits) {
  Active& active = requests_.at(id);
  std::optional<int32_t> token;
  std::exception_ptr error;
  try {
    token = active.request.next_token(logits);
    if (token) runner_.check_ids({&*token, 1}, static_cast<int64_t>(active.ids.size()));
  } catch (...) {
    error = std::current_exception();
  }
  // A callback may have cancelled its own request.
  if (!requests_.contains(id)) return;
  if (token && !error) active.ids.push_back(*token);
  const auto made = static_cast<int64_t>(active.ids.size() - active.request.prompt.size());
  if (error || !token || made == active.request.max_new_tokens) {
    finish(id, error);
    return;
  }
  scheduler_.add_token(id);
}

bool Engine::step() {
  if (requests_.empty()) return false;
  const Step step = scheduler_.next();
  for (const CacheMove& move : step.copy_out) {
    runner_.save(move.pages, move.state_slot, requests_.at(move.id).saved);
    ++num_preemptions_;
  }
  for (const CacheMove& move : step.copy_in) {
    std::vector<std::byte>& saved = requests_.at(move.id).saved;
    runner_.restore(move.pages, move.state_slot, saved);
    saved = {};
  }
  pieces_.clear();
  sampled_.clear();
  for (const ScheduledPiece& piece : step.pieces) {
    const Active& active = requests_.at(piece.id);
    if (piece.context == scheduler_.cached_tokens(piece.id)) num_cached_tokens_ += piece.context;
    pieces_.push_back({.token_ids = std::span(active.ids).subspan(piece.context, piece.tokens),
                       .context = piece.context,
                       .pages = scheduler_.pages(piece.id),
                       .state_slot = scheduler_.state_slot(piece.id),
                       .is_decode = piece.is_decode,
                       .num_logits = piece.wants_logits ? 1 : 0});
    if (piece.wants_logits) sampled_.push_back(piece.id);
  }
  const int64_t vocab = model_.config().vocab_size;
  const auto rows = static_cast<int64_t>(sampled_.size());
  if (!pieces_.empty()) runner_.run(pieces_, Rows::dense(logits_.data(), rows, vocab));
  for (int64_t i = 0; i < rows; ++i) {
    const RequestId id = sampled_[i];
    if (requests_.contains(id)) take_token(id, std::span(logits_).subspan(i * vocab, vocab));
  }
  return true;
}

}  // namespace moe4
