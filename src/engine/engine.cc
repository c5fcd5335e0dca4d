// The loop around scheduler and runner.
#include "engine/engine.h"

#include <algorithm>
#include <string>
#include <utility>

#include "base/error.h"
#include "ops/sample/take_chosen.h"

namespace moe4 {
namespace {

// Bytes of all recurrent layers' states of one sequence.
int64_t state_bytes(const Model& model) {
  int64_t bytes = 0;
  for (const CacheSpec& spec : model.caches()) {
    if (std::holds_alternative<RecurrentSpec>(spec)) bytes += cache_unit_bytes(spec);
  }
  return bytes;
}

int64_t snapshots_within(int64_t state_bytes, const EngineLimits& limits) {
  return limits.prefix_cache && state_bytes > 0 ? limits.snapshot_bytes / state_bytes : 0;
}

// A row of every sequence, and those of prompts that are scored.
int64_t logits_rows(const EngineLimits& limits) { return limits.max_seqs + limits.prompt_logits; }

SchedulerLimits scheduler_limits(const EngineLimits& limits, bool has_state,
                                 int64_t num_snapshots) {
  return {.max_tokens = limits.max_tokens,
          .max_seqs = limits.max_seqs,
          .prompt_chunk = limits.prompt_chunk,
          .scored_tokens = limits.prompt_logits,
          .num_snapshots = has_state ? std::optional(num_snapshots) : std::nullopt,
          .least_snapshot = limits.least_snapshot,
          .gathering = limits.gathering};
}

}  // namespace

// A row of logits that a mask has changed takes a megabyte of a GPU where vocabularies are large;
// so many grammars in a step have theirs there, those of others come to the host.
constexpr int64_t kMostMasked = 64;

RunnerLimits runner_limits(const EngineLimits& limits, int64_t state_bytes) {
  if (limits.max_context <= 0) {
    throw Error(ErrorCode::kUsage, "a request needs room for at least one token");
  }
  return {.step = {.max_tokens = limits.max_tokens,
                   .max_seqs = limits.max_seqs,
                   .max_context = limits.max_context,
                   .max_logits = logits_rows(limits),
                   .max_masked = std::min(limits.max_seqs, kMostMasked)},
          .num_pages = ceil_div(limits.cache_tokens, kPageTokens),
          .num_state_slots = limits.max_seqs + snapshots_within(state_bytes, limits)};
}

Engine::Engine(const Model& model, const EngineLimits& limits)
    : model_(model),
      limits_(limits),
      num_snapshots_(snapshots_within(state_bytes(model), limits)),
      has_state_(state_bytes(model) > 0),
      runner_(model, runner_limits(limits, state_bytes(model))),
      scheduler_(scheduler_limits(limits, has_state_, num_snapshots_),
                 ceil_div(limits.cache_tokens, kPageTokens)) {}

RequestId Engine::submit(EngineRequest request) {
  const auto prompt = static_cast<int64_t>(request.prompt.size());
  MOE4_CHECK(request.max_new_tokens == 0 || (request.max_new_tokens > 0 && request.next_token));
  MOE4_CHECK(!request.prompt_logits || limits_.prompt_logits > 0);
  if (prompt == 0) throw Error(ErrorCode::kUsage, "the prompt is empty: give at least one token");
  if (request.max_new_tokens > limits_.max_context - prompt) {
    throw Error(ErrorCode::kUsage, "the prompt has " + std::to_string(prompt) + " tokens and " +
                                       std::to_string(request.max_new_tokens) +
                                       " more were asked for: the context is " +
                                       std::to_string(limits_.max_context));
  }
  runner_.check_ids(request.prompt, 0);
  Active active{.ids = request.prompt,
                .reuses = limits_.prefix_cache && !request.prompt_logits &&
                          (!has_state_ || num_snapshots_ > 0)};
  std::vector<PageHash> prefix;
  for (const int32_t id : active.ids) {
    if (!active.reuses) break;
    if (const auto page = active.pages.push(id)) prefix.push_back(*page);
  }
  // The last token is only sampled, never computed.
  const int64_t computed = prompt + std::max<int64_t>(request.max_new_tokens - 1, 0);
  const bool scored = static_cast<bool>(request.prompt_logits);
  const RequestId id =
      scheduler_.add(prompt, computed, std::move(prefix), request.priority, scored);
  active.request = std::move(request);
  requests_.emplace(id, std::move(active));
  return id;
}

void Engine::cancel(RequestId id) {
  if (requests_.erase(id) > 0) scheduler_.finish(id);
}

void Engine::call_end(const Active& active, const RequestEnd& end) {
  if (active.request.on_end) active.request.on_end(end);
}

void Engine::end(RequestId id, std::exception_ptr error) {
  const RequestEnd end{std::move(error), scheduler_.cached_tokens(id)};
  const Active active = std::move(requests_.at(id));
  requests_.erase(id);
  scheduler_.finish(id);
  call_end(active, end);
}

int64_t Engine::wanted_logits(const ScheduledPiece& piece) const {
  const EngineRequest& request = requests_.at(piece.id).request;
  if (request.prompt_logits && !piece.is_decode) return piece.tokens;
  return piece.wants_logits && request.max_new_tokens > 0 ? 1 : 0;
}

void Engine::move_caches(const Step& step) {
  for (const CacheMove& move : step.copy_out) {
    ++num_preemptions_;
    try {
      runner_.save(move.pages, move.state_slot, requests_.at(move.id).saved);
    } catch (...) {  // no memory for the copy
      end(move.id, std::current_exception());
    }
  }
  for (const CacheMove& move : step.copy_in) {
    std::vector<std::byte>& saved = requests_.at(move.id).saved;
    runner_.restore(move.pages, move.state_slot, saved);
    saved = {};
  }
  for (const StateCopy& copy : step.resumed) runner_.copy_state(copy.from, copy.to);
}

void Engine::call_starts(const Step& step) {
  for (const ScheduledPiece& piece : step.pieces) {
    Active& active = requests_.at(piece.id);
    if (std::exchange(active.started, true) || !active.request.on_start) continue;
    active.request.on_start(scheduler_.cached_tokens(piece.id));
  }
}

EngineStats Engine::stats() const {
  const BlockPool& pool = scheduler_.pool();
  return {.running = scheduler_.num_running(),
          .waiting = scheduler_.num_waiting(),
          .pages = pool.num_pages(),
          .used_pages = pool.num_pages() - pool.num_free(),
          .preemptions = num_preemptions_,
          .step_tokens = step_tokens_};
}

Engine::Flight Engine::begin_pieces(const Step& step, Observer* observer) {
  pieces_.clear();
  choices_.assign(step.pieces.size(), {});
  Flight flight{.pieces = step.pieces, .all_chosen = true, .runs_ahead = true};
  int64_t num_masked = 0;
  for (const ScheduledPiece& piece : step.pieces) {
    const Active& active = requests_.at(piece.id);
    const EngineRequest& request = active.request;
    SequencePiece& added = pieces_.emplace_back(
        SequencePiece{.token_ids = std::span(active.ids).subspan(piece.context, piece.tokens),
                      .context = piece.context,
                      .pages = scheduler_.pages(piece.id),
                      .state_slot = scheduler_.state_slot(piece.id),
                      .is_decode = piece.is_decode,
                      .num_logits = wanted_logits(piece)});
    const bool has_room = !request.has_masks || num_masked < runner_.limits().step.max_masked;
    if (added.num_logits == 1 && !request.prompt_logits && request.device_choice && has_room) {
      DeviceChoice& choice = choices_[pieces_.size() - 1];
      if (request.device_choice(choice)) {
        added.sample = &choice.row;
        added.mask = choice.mask;
        num_masked += added.mask.empty() ? 0 : 1;
      }
    }
    flight.runs_ahead = flight.runs_ahead && !request.has_masks;
    flight.num_logits.push_back(added.num_logits);
    flight.has_choice.push_back(added.sample != nullptr);
    flight.all_chosen = flight.all_chosen && (added.num_logits == 0 || added.sample != nullptr);
    step_tokens_ += piece.tokens;
  }
  runner_.begin(pieces_, observer);
  for (const StateCopy& copy : step.kept) runner_.copy_state(copy.from, copy.to);
  return flight;
}

bool Engine::run_ahead() {
  if (!flight_ || !flight_->all_chosen || !flight_->runs_ahead || limits_.cache_generated) {
    return false;
  }
  int64_t row = 0;
  for (size_t i = 0; i < flight_->pieces.size(); ++i) {
    const ScheduledPiece& piece = flight_->pieces[i];
    const int64_t rows = std::exchange(row, row + flight_->num_logits[i]);
    if (flight_->num_logits[i] == 0 || !requests_.contains(piece.id)) continue;
    Active& active = requests_.at(piece.id);
    const auto made = static_cast<int64_t>(active.ids.size() - active.request.prompt.size());
    if (made + 1 >= active.request.max_new_tokens) continue;  // it ends with this token
    active.ids.push_back(chosen_in_row(rows));
    active.is_ahead = true;
    scheduler_.add_token(piece.id);
  }
  return true;
}

std::optional<int32_t> Engine::choose(const Active& active, int64_t row, bool chosen) {
  const auto r = static_cast<size_t>(row);
  if (chosen && result_.status[r] == SampleStatus::kChosen) {
    return active.request.take_token(result_.ids[r]);
  }
  if (chosen) return active.request.next_token(runner_.row_without_choice(result_, row));
  const auto vocab = static_cast<size_t>(model_.config().vocab_size);
  return active.request.next_token({result_.logits.row(row), vocab});
}

void Engine::take_token(RequestId id, Active& active, std::optional<int32_t> token) {
  if (!token) return end(id, nullptr);
  const bool was_ahead = std::exchange(active.is_ahead, false);
  if (was_ahead) active.ids.pop_back();
  runner_.check_ids({&*token, 1}, static_cast<int64_t>(active.ids.size()));
  active.ids.push_back(*token);
  const auto made = static_cast<int64_t>(active.ids.size() - active.request.prompt.size());
  if (made == active.request.max_new_tokens) return end(id, nullptr);
  if (was_ahead) return;
  std::optional<PageHash> page;
  if (active.reuses && limits_.cache_generated) page = active.pages.push(*token);
  scheduler_.add_token(id, page);
}

void Engine::take_logits(const ScheduledPiece& piece, int64_t first_row, int64_t num_rows,
                         bool chosen) {
  const auto found = requests_.find(piece.id);
  if (found == requests_.end()) return;  // cancelled, or ended by the step before
  Active& active = found->second;
  const auto vocab = static_cast<size_t>(model_.config().vocab_size);
  try {
    if (active.request.prompt_logits && !piece.is_decode) {
      active.request.prompt_logits(
          piece.context, {result_.logits.row(first_row), static_cast<size_t>(num_rows) * vocab});
    }
    if (!piece.wants_logits) return;
    if (active.request.max_new_tokens == 0) return end(piece.id, nullptr);
    take_token(piece.id, active, choose(active, first_row + num_rows - 1, chosen));
  } catch (...) {
    end(piece.id, std::current_exception());
  }
}

void Engine::fail(const Step& step) {
  std::vector<std::pair<Active, RequestEnd>> ended;
  for (const ScheduledPiece& piece : step.pieces) {
    const RequestEnd end{std::current_exception(), scheduler_.cached_tokens(piece.id)};
    ended.emplace_back(std::move(requests_.at(piece.id)), end);
    requests_.erase(piece.id);
  }
  scheduler_.fail(step);
  for (const auto& [active, end] : ended) call_end(active, end);
}

void Engine::begin_step(Observer* observer) {
  const Step step = scheduler_.next();
  move_caches(step);
  call_starts(step);
  step_tokens_ = 0;
  if (step.pieces.empty()) return;
  try {
    flight_ = begin_pieces(step, observer);
  } catch (...) {
    fail(step);
  }
}

void Engine::finish_step(const Flight& flight) {
  result_ = runner_.finish();
  int64_t row = 0;
  for (size_t i = 0; i < flight.pieces.size(); ++i) {
    const int64_t rows = flight.num_logits[i];
    take_logits(flight.pieces[i], row, rows, flight.has_choice[i] != 0);
    row += rows;
  }
}

bool Engine::step(Observer* observer) {
  if (requests_.empty() && !flight_) return false;
  std::optional<Flight> before;
  if (flight_) {
    // What requests want of the host may change with the tokens in flight, so nobody may be left
    // that has them chosen here.
    const bool ahead = observer == nullptr && run_ahead();
    before = std::exchange(flight_, std::nullopt);
    if (!ahead) {
      finish_step(*before);
      before.reset();
    }
  }
  begin_step(observer);
  if (before) finish_step(*before);
  if (flight_ && (!flight_->all_chosen || !runner_.runs_ahead())) {
    const Flight last = *std::exchange(flight_, std::nullopt);
    finish_step(last);
  }
  return true;
}

}  // namespace moe4
