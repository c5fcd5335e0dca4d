// Decides which tokens of which requests the next step computes, and with which pages.
#pragma once

#include <algorithm>
#include <cstdint>
#include <deque>
#include <optional>
#include <unordered_map>
#include <vector>

#include "engine/block_pool.h"
#include "engine/snapshot_pool.h"

namespace moe4 {

using RequestId = int64_t;

/// While many requests generate, new prompts wait for one another: a step with tokens of prompts
/// reads experts and linears a second time, however few those tokens are, and everybody waits.
struct PromptGathering {
  int64_t steps = 0;      ///< that a prompt waits at most; 0: none does
  int64_t decodes = 16;   ///< it waits only while so many requests or more generate
  int64_t tokens = 1024;  ///< and until so many tokens of prompts can be computed together
};

struct SchedulerLimits {
  int64_t max_tokens = 512;  ///< of a step; at least max_seqs + kPageTokens
  int64_t max_seqs = 64;     ///< that take part in a step, and state slots of running requests
  /// Tokens of prompts in a step; 0: what generated ones leave of max_tokens. Below kPageTokens
  /// pieces of prompts end anywhere.
  int64_t prompt_chunk = 0;
  /// Tokens of scored prompts in a step, as there is room for the logits of so many; 0: none can
  /// be. At least a page, or the smallest piece that prompt_chunk makes.
  int64_t scored_tokens = 0;
  /// State slots for snapshots, numbered from max_seqs on. Nothing: the model has no recurrent
  /// state, and pages alone are enough to go on from.
  std::optional<int64_t> num_snapshots;
  /// Prompts that end before have their state kept only where they leave what others had computed:
  /// a piece that ends there costs a step more, and so few tokens are soon computed again.
  int64_t least_snapshot = 0;
  PromptGathering gathering;
};

/// The recurrent state is kept at every multiple of so many tokens of a prompt.
inline constexpr int64_t kSnapshotTokens = 4096;

/// The part of a request that a step computes.
struct ScheduledPiece {
  RequestId id = 0;
  int64_t context = 0;  ///< tokens computed before
  int64_t tokens = 0;
  bool is_decode = false;
  bool wants_logits = false;  ///< of its last token: the request's next token is sampled from them
};

/// A request's pages and state to be copied out of the caches, or back into them.
struct CacheMove {
  RequestId id = 0;
  int64_t context = 0;  ///< tokens that the pages hold
  std::vector<int32_t> pages;
  int32_t state_slot = 0;
};

/// The recurrent state of one slot to another.
struct StateCopy {
  int32_t from = 0, to = 0;
};

/// To be done in this order: copy out, copy in, resume from snapshots, run the pieces (decodes come
/// first), keep snapshots.
struct Step {
  std::vector<CacheMove> copy_out, copy_in;
  std::vector<StateCopy> resumed;
  std::vector<ScheduledPiece> pieces;
  std::vector<StateCopy> kept;
};

/// First come, first served, within a priority. Every step takes the next token of every request
/// that generates, then pieces of prompts, oldest first, up to the budget; pieces end at a multiple
/// of kPageTokens of their request or with its prompt, so that how prompts are cut changes no bit.
/// Out of pages, the youngest running request is preempted: its caches are copied out, and back in
/// when there is room, rather than computed again. The oldest request is never preempted, so
/// everyone finishes. A new prompt may wait some steps for others (PromptGathering).
///
/// Prompts with an equal beginning share its pages. With a recurrent state that is not enough: a
/// request goes on from the longest beginning of which a snapshot was kept too. One is kept at the
/// last multiple of kPageTokens before a prompt's last token, where a prompt leaves the pages that
/// others had computed, and at every multiple of kSnapshotTokens; pieces end there.
///
/// Pure bookkeeping, no model: data in, Step out. Not thread-safe.
class Scheduler {
 public:
  Scheduler(const SchedulerLimits& limits, int64_t num_pages);

  /// Adds a request of `prompt_tokens` > 0 tokens that will have `max_tokens` in all. `prefix`:
  /// hashes of the prompt's full pages; where they are known they are not computed again. Empty: no
  /// reuse. Of requests that wait, those of lower `priority` come first. `scored`: the logits of
  /// all its prompt's tokens are wanted. Throws Error(kUsage) when it could never be run within the
  /// pool.
  RequestId add(int64_t prompt_tokens, int64_t max_tokens, std::vector<PageHash> prefix = {},
                int64_t priority = 0, bool scored = false);

  /// The next step; its pieces count as computed from now on. Empty when there is nothing to do
  /// until a token is added.
  Step next();
  /// A request whose logits were wanted has one token more. `page`: of the page that it fills;
  /// given for every such page from the prompt's end on, others may go on from what decoding
  /// computed.
  void add_token(RequestId id, const std::optional<PageHash>& page = {});
  /// The request is done or unwanted: gives everything back. Any time, also while it waits.
  void finish(RequestId id);
  /// The last step's pieces were not computed: ends their requests and forgets what the step was to
  /// leave behind.
  void fail(const Step& step);

  bool has(RequestId id) const { return requests_.contains(id); }
  int64_t num_waiting() const { return static_cast<int64_t>(waiting_.size()); }
  int64_t num_running() const { return static_cast<int64_t>(running_.size()); }
  const BlockPool& pool() const { return pool_; }
  const std::vector<int32_t>& pages(RequestId id) const { return requests_.at(id).pages; }
  int32_t state_slot(RequestId id) const { return requests_.at(id).state_slot; }
  /// Tokens of the prompt that were found in the prefix cache.
  int64_t cached_tokens(RequestId id) const { return requests_.at(id).cached; }

 private:
  struct Request {
    int64_t prompt = 0;   // tokens of the prompt
    int64_t most = 0;     // tokens it may have in all
    int64_t known = 0;    // tokens there are: prompt and generated
    int64_t context = 0;  // tokens computed
    int64_t cached = 0;
    int64_t priority = 0;
    int64_t waits_since = 0;  // step
    bool scored = false;
    std::vector<PageHash> prefix;
    size_t published = 0;  // pages of `prefix` that the pool knows from here
    int64_t parting = 0;   // where the pages that others had computed end
    std::vector<int32_t> pages;
    int32_t state_slot = -1;
    bool saved = false;  // copied out

    bool decodes() const { return context >= prompt; }
  };

  // Tokens of prompts that a step has room for.
  struct Budget {
    int64_t tokens = 0, scored = 0;
    int64_t of(const Request& r) const { return r.scored ? std::min(tokens, scored) : tokens; }
    void take(const Request& r, int64_t n) {
      tokens -= n;
      if (r.scored) scored -= n;
    }
  };

  auto in_order() const {
    return [this](RequestId a, RequestId b) {
      const int64_t of_a = requests_.at(a).priority, of_b = requests_.at(b).priority;
      return of_a < of_b || (of_a == of_b && a < b);
    };
  }
  bool gathers_prompts(const Step& step) const;
  bool grow(Request& request, int64_t tokens);
  bool grow_or_preempt(RequestId id, int64_t tokens, Step& step);
  void preempt(RequestId id, Step& step);
  int64_t admit(RequestId id, int64_t budget, Step& step);
  std::optional<int32_t> take_prefix(Request& request);
  void schedule(RequestId id, int64_t tokens, Step& step);
  bool wants_snapshot(const Request& request, int64_t end) const;
  void keep_snapshot(const Request& request, Step& step);
  void publish(Request& request);
  void release(Request& request);
  void remove(RequestId id);
  int64_t piece_tokens(const Request& request, int64_t budget) const;

  SchedulerLimits limits_;
  BlockPool pool_;
  SnapshotPool snapshots_;
  RequestId next_id_ = 0;
  int64_t num_steps_ = 0;
  std::unordered_map<RequestId, Request> requests_;
  // Both by priority, then in order of arrival: ids rise. "Oldest" is what comes first.
  std::deque<RequestId> waiting_;
  std::vector<RequestId> running_;
  std::vector<int32_t> free_slots_;
};

}  // namespace moe4
