// The order of requests and the hand-out of pages.
#include "engine/scheduler.h"

#include <algorithm>
#include <iterator>
#include <string>

#include "base/checked_math.h"
#include "base/error.h"
#include "ops/batch.h"

namespace moe4 {

Scheduler::Scheduler(const SchedulerLimits& limits, int64_t num_pages)
    : limits_(limits),
      pool_(num_pages),
      snapshots_(static_cast<int32_t>(limits.max_seqs), limits.num_snapshots.value_or(0)) {
  MOE4_CHECK(limits.prompt_chunk >= 0);
  // Room for a page of a prompt beside as many decodes as there can be.
  MOE4_CHECK(limits.max_seqs > 0 && limits.max_tokens >= limits.max_seqs + kPageTokens);
  for (int64_t s = limits.max_seqs - 1; s >= 0; --s) free_slots_.push_back(static_cast<int32_t>(s));
}

RequestId Scheduler::add(int64_t prompt_tokens, int64_t max_tokens, std::vector<PageHash> prefix,
                         int64_t priority, bool scored) {
  MOE4_CHECK(!scored || limits_.scored_tokens > 0);
  MOE4_CHECK(prompt_tokens > 0 && max_tokens >= prompt_tokens);
  MOE4_CHECK(static_cast<int64_t>(prefix.size()) <= prompt_tokens / kPageTokens);
  const int64_t pages = ceil_div(max_tokens, kPageTokens);
  if (pages > pool_.num_pages()) {
    throw Error(ErrorCode::kUsage, "a request of " + std::to_string(max_tokens) + " tokens needs " +
                                       std::to_string(pages) + " pages of " +
                                       std::to_string(kPageTokens) + " tokens and the cache has " +
                                       std::to_string(pool_.num_pages()) +
                                       ": ask for fewer tokens or give the cache more memory");
  }
  const RequestId id = next_id_++;
  Request& request = requests_[id];
  request.prompt = request.known = prompt_tokens;
  request.most = max_tokens;
  request.prefix = std::move(prefix);
  request.priority = priority;
  request.scored = scored;
  request.waits_since = num_steps_;
  waiting_.insert(std::upper_bound(waiting_.begin(), waiting_.end(), id, in_order()), id);
  return id;
}

// Pages for `tokens` more tokens; takes nothing when there are too few.
bool Scheduler::grow(Request& request, int64_t tokens) {
  const int64_t want = ceil_div(request.context + tokens, kPageTokens);
  const int64_t more = want - static_cast<int64_t>(request.pages.size());
  if (more > pool_.num_free()) return false;
  for (int64_t i = 0; i < more; ++i) request.pages.push_back(*pool_.take());
  return true;
}

// As grow(), taking the pages of younger requests. False: the request itself was preempted.
bool Scheduler::grow_or_preempt(RequestId id, int64_t tokens, Step& step) {
  while (!grow(requests_.at(id), tokens)) {
    const RequestId youngest = running_.back();
    preempt(youngest, step);
    if (youngest == id) return false;
  }
  return true;
}

// `id` has no piece in this step: those are given out oldest first.
void Scheduler::preempt(RequestId id, Step& step) {
  Request& request = requests_.at(id);
  if (request.context > 0) {
    step.copy_out.push_back({id, request.context, request.pages, request.state_slot});
    request.saved = true;
  }
  release(request);
  running_.pop_back();
  waiting_.insert(std::lower_bound(waiting_.begin(), waiting_.end(), id, in_order()), id);
}

void Scheduler::release(Request& request) {
  // The last pages first, so that a prefix is forgotten from its end.
  for (auto page = request.pages.rbegin(); page != request.pages.rend(); ++page) {
    pool_.release(*page);
  }
  request.pages.clear();
  if (request.state_slot >= 0) free_slots_.push_back(request.state_slot);
  request.state_slot = -1;
}

// How much of a prompt fits the budget: to its end, to the next snapshot, or to a multiple of
// kPageTokens.
int64_t Scheduler::piece_tokens(const Request& request, int64_t budget) const {
  int64_t left = request.known - request.context;
  for (int64_t end = (request.context / kPageTokens + 1) * kPageTokens;
       end < std::min(request.context + budget + 1, request.known); end += kPageTokens) {
    if (!wants_snapshot(request, end)) continue;
    left = end - request.context;
    break;
  }
  if (left <= budget) return left;
  const int64_t whole = (request.context + budget) / kPageTokens * kPageTokens - request.context;
  if (whole > 0) return whole;
  return limits_.prompt_chunk > 0 && budget == limits_.prompt_chunk ? budget : 0;
}

// Whether the state at this end of a piece is worth keeping and not kept yet.
bool Scheduler::wants_snapshot(const Request& request, int64_t end) const {
  if (snapshots_.num_slots() == 0 || end % kPageTokens != 0) return false;
  const int64_t page = end / kPageTokens;
  if (page > static_cast<int64_t>(request.prefix.size())) return false;
  const bool is_last = end == (request.prompt - 1) / kPageTokens * kPageTokens;
  const bool is_point = (is_last && end >= limits_.least_snapshot) || end == request.parting ||
                        end % kSnapshotTokens == 0 || end > request.prompt;
  return is_point && !snapshots_.has(request.prefix[page - 1]);
}

void Scheduler::keep_snapshot(const Request& request, Step& step) {
  const int64_t page = request.context / kPageTokens;
  // Of what a request generates the last state is enough.
  const int64_t before = request.context - kPageTokens;
  if (before > request.prompt && before % kSnapshotTokens != 0) {
    snapshots_.forget(request.prefix[page - 2]);
  }
  const auto slot = snapshots_.take(request.prefix[page - 1]);
  if (slot) step.kept.push_back({.from = request.state_slot, .to = *slot});
}

// Pages, and with a recurrent state the snapshot to go on from, of the longest known beginning.
std::optional<int32_t> Scheduler::take_prefix(Request& request) {
  // The last token is computed in any case: its logits are wanted.
  const auto most =
      std::min(static_cast<size_t>((request.prompt - 1) / kPageTokens), request.prefix.size());
  size_t known = 0;
  while (known < most && pool_.find(request.prefix[known]) != BlockPool::Found::kNo) ++known;
  request.parting = static_cast<int64_t>(known) * kPageTokens;
  std::optional<int32_t> snapshot;
  if (limits_.num_snapshots) {
    while (known > 0 && !(snapshot = snapshots_.find(request.prefix[known - 1]))) --known;
  }
  for (size_t i = 0; i < known; ++i) request.pages.push_back(*pool_.share(request.prefix[i]));
  request.context = request.cached = static_cast<int64_t>(known) * kPageTokens;
  request.published = known;
  return snapshot;
}

// Moves the oldest waiting request to the running ones if there are pages for what it holds, for
// its next piece, and for one page more, so that it is not preempted at once. Returns the tokens of
// its piece; 0: it waits on.
int64_t Scheduler::admit(RequestId id, int64_t budget, Step& step) {
  if (free_slots_.empty()) return 0;
  Request& request = requests_.at(id);
  const bool fresh = request.context == 0;
  std::optional<int32_t> snapshot;
  if (fresh) snapshot = take_prefix(request);
  const int64_t tokens = piece_tokens(request, budget);
  const int64_t needed =
      ceil_div(request.context + tokens, kPageTokens) - static_cast<int64_t>(request.pages.size());
  // Alone it may have the last page: it can be preempted by nobody.
  const int64_t spare = running_.empty() ? 0 : 1;
  if (tokens == 0 || needed + spare > pool_.num_free()) {
    if (fresh) {
      release(request);
      request.context = request.cached = 0;
      request.published = 0;
    }
    return 0;
  }
  MOE4_CHECK(grow(request, tokens));
  request.state_slot = free_slots_.back();
  free_slots_.pop_back();
  if (request.saved) {
    const auto held = static_cast<size_t>(ceil_div(request.context, kPageTokens));
    step.copy_in.push_back({id,
                            request.context,
                            {request.pages.begin(), request.pages.begin() + held},
                            request.state_slot});
    request.saved = false;
    // Pages that it had are copies now: others keep theirs.
    request.published = static_cast<size_t>(request.context / kPageTokens);
  }
  if (snapshot) step.resumed.push_back({.from = *snapshot, .to = request.state_slot});
  running_.insert(std::upper_bound(running_.begin(), running_.end(), id, in_order()), id);
  schedule(id, tokens, step);
  return tokens;
}

void Scheduler::schedule(RequestId id, int64_t tokens, Step& step) {
  Request& request = requests_.at(id);
  const ScheduledPiece piece{.id = id,
                             .context = request.context,
                             .tokens = tokens,
                             .is_decode = request.decodes(),
                             .wants_logits = request.context + tokens == request.known};
  auto at = step.pieces.end();  // behind the decodes, or behind all
  while (piece.is_decode && at != step.pieces.begin() && !std::prev(at)->is_decode) --at;
  step.pieces.insert(at, piece);
  request.context += tokens;
  if (wants_snapshot(request, request.context)) keep_snapshot(request, step);
}

// Pages that have been computed can be found by others from now on.
void Scheduler::publish(Request& request) {
  const size_t full =
      std::min(static_cast<size_t>(request.context / kPageTokens), request.prefix.size());
  for (; request.published < full; ++request.published) {
    pool_.publish(request.pages[request.published], request.prefix[request.published]);
  }
}

// Whether those that wait go on waiting for others, that would share a step with them.
bool Scheduler::gathers_prompts(const Step& step) const {
  const PromptGathering& gathering = limits_.gathering;
  if (gathering.steps == 0) return false;
  const auto decodes = std::count_if(running_.begin(), running_.end(),
                                     [&](RequestId id) { return requests_.at(id).decodes(); });
  if (decodes < gathering.decodes) return false;
  int64_t tokens = 0;
  for (const ScheduledPiece& piece : step.pieces) tokens += piece.is_decode ? 0 : piece.tokens;
  for (const RequestId id : waiting_) {
    const Request& request = requests_.at(id);
    // One that was set aside has begun: somebody reads its answer.
    if (request.saved || num_steps_ - request.waits_since > gathering.steps) return false;
    tokens += request.known - request.context;
    if (tokens >= gathering.tokens) return false;
  }
  return true;
}

Step Scheduler::next() {
  Step step;
  ++num_steps_;
  snapshots_.commit();
  for (const RequestId id : running_) publish(requests_.at(id));
  // A token of every request that generates has its place before any prompt.
  Budget budget{.tokens = limits_.max_tokens, .scored = limits_.scored_tokens};
  for (const RequestId id : running_) {
    const Request& request = requests_.at(id);
    budget.tokens -= request.decodes() && request.context < request.known ? 1 : 0;
  }
  if (limits_.prompt_chunk > 0) budget.tokens = std::min(budget.tokens, limits_.prompt_chunk);
  // The oldest first: it takes pages from the youngest, who has no piece yet.
  for (size_t i = 0; i < running_.size(); ++i) {
    const RequestId id = running_[i];
    const Request& request = requests_.at(id);
    const bool decodes = request.decodes();
    if (request.context == request.known) continue;  // its token is not there yet
    const int64_t tokens = decodes ? 1 : piece_tokens(request, budget.of(request));
    if (tokens == 0) continue;
    if (!grow_or_preempt(id, tokens, step)) break;
    schedule(id, tokens, step);
    if (!decodes) budget.take(request, tokens);
  }
  if (!step.copy_out.empty()) return step;  // nobody new where there is no room
  if (gathers_prompts(step)) return step;
  while (!waiting_.empty()) {
    const Request& request = requests_.at(waiting_.front());
    const int64_t tokens = admit(waiting_.front(), budget.of(request), step);
    if (tokens == 0) break;
    budget.take(request, tokens);
    waiting_.pop_front();
  }
  return step;
}

void Scheduler::add_token(RequestId id, const std::optional<PageHash>& page) {
  Request& request = requests_.at(id);
  MOE4_CHECK(request.context == request.known && request.known < request.most);
  ++request.known;
  if (!page) return;
  request.prefix.push_back(*page);
  MOE4_CHECK(static_cast<int64_t>(request.prefix.size()) * kPageTokens == request.known);
}

void Scheduler::finish(RequestId id) {
  Request& request = requests_.at(id);
  if (!request.pages.empty()) publish(request);
  remove(id);
}

void Scheduler::fail(const Step& step) {
  snapshots_.discard();
  for (const ScheduledPiece& piece : step.pieces) remove(piece.id);
}

void Scheduler::remove(RequestId id) {
  release(requests_.at(id));
  std::erase(running_, id);
  std::erase(waiting_, id);
  requests_.erase(id);
}

}  // namespace moe4
