// The scheduler without a model: a memory that remembers which token each place of each page holds,
// and which tokens each recurrent state has seen, is written as steps say, and must hold what every
// piece counts on.
#include "engine/scheduler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>

#include "base/checked_math.h"
#include "base/error.h"
#include "ops/batch.h"
#include "support/random_moe.h"

namespace moe4 {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::Pair;
using testing::Random;

// A token of a text, wherever it comes from. Texts 2 and 3 begin as texts 0 and 1 do.
int32_t token_of(int32_t text, int64_t position) {
  if (text >= 2 && position < 100) text -= 2;
  return static_cast<int32_t>((text * 37 + position * 11) % 997);
}

std::vector<int32_t> prompt_of(int32_t text, int64_t tokens) {
  std::vector<int32_t> ids(tokens);
  for (int64_t t = 0; t < tokens; ++t) ids[t] = token_of(text, t);
  return ids;
}

// Runs requests to their ends and checks every step.
class Simulation {
 public:
  // `cache_generated`: pages and states of generated tokens can be found, too.
  Simulation(const SchedulerLimits& limits, int64_t num_pages, bool cache_generated = false)
      : limits_(limits), cache_generated_(cache_generated), scheduler_(limits, num_pages) {
    memory_.assign(num_pages * kPageTokens, -1);
    states_.assign(limits.max_seqs + limits.num_snapshots.value_or(0), {});
  }

  // A prompt of the text's first tokens; what it generates are the next.
  RequestId add(int32_t text, int64_t prompt, int64_t total, bool reuse, int64_t priority = 0,
                bool scored = false) {
    Request request{.text = text, .total = total, .reuse = reuse, .scored = scored};
    std::vector<PageHash> prefix;
    for (const int32_t id : prompt_of(text, prompt)) {
      request.ids.push_back(id);
      const auto page = request.pages.push(id);
      if (page && reuse) prefix.push_back(*page);
    }
    const RequestId id = scheduler_.add(prompt, total, std::move(prefix), priority, scored);
    requests_[id] = std::move(request);
    return id;
  }
  void cancel(RequestId id) {
    scheduler_.finish(id);
    requests_.erase(id);
  }
  bool done() const { return requests_.empty(); }
  std::vector<RequestId> ids() const {
    std::vector<RequestId> all;
    for (const auto& [id, request] : requests_) all.push_back(id);
    return all;
  }
  Scheduler& scheduler() { return scheduler_; }
  int64_t preemptions() const { return preemptions_; }
  int64_t cached() const { return cached_; }
  // Snapshots of all steps so far: whose, and of how many tokens.
  const std::vector<std::pair<RequestId, int64_t>>& kept() const { return kept_; }
  // Tokens that requests found computed when they began.
  const std::map<RequestId, int64_t>& found() const { return found_; }

  // One step; false when it had no piece.
  bool step() {
    const Step step = scheduler_.next();
    move_caches(step);
    int64_t tokens = 0, prompt_tokens = 0, scored_tokens = 0;
    bool prompts = false;
    std::set<RequestId> seen;
    for (const ScheduledPiece& piece : step.pieces) {
      tokens += piece.tokens;
      EXPECT_FALSE(piece.is_decode && prompts) << "decodes come first";
      prompts = prompts || !piece.is_decode;
      prompt_tokens += piece.is_decode ? 0 : piece.tokens;
      if (!piece.is_decode && requests_.at(piece.id).scored) scored_tokens += piece.tokens;
      EXPECT_TRUE(seen.insert(piece.id).second);
      check_and_write(piece);
    }
    EXPECT_LE(tokens, limits_.max_tokens);
    EXPECT_LE(scored_tokens, limits_.scored_tokens);
    EXPECT_LE(static_cast<int64_t>(step.pieces.size()), limits_.max_seqs);
    if (limits_.prompt_chunk > 0) {
      EXPECT_LE(prompt_tokens, limits_.prompt_chunk);
    }
    check_pages();
    keep_states(step);
    for (const ScheduledPiece& piece : step.pieces) sample(piece);
    return !step.pieces.empty();
  }

 private:
  struct Request {
    int32_t text = 0;
    std::vector<int32_t> ids;
    PageHasher pages;
    int64_t total = 0;
    bool reuse = false, scored = false;
    int64_t context = 0;
    bool began = false;
    std::vector<int32_t> saved;  // tokens of its pages while it is preempted
    std::vector<int32_t> saved_state;
  };

  int32_t& at(const std::vector<int32_t>& pages, int64_t position) {
    return memory_.at(pages.at(position / kPageTokens) * kPageTokens + position % kPageTokens);
  }

  void move_caches(const Step& step) {
    for (const CacheMove& move : step.copy_out) {
      Request& r = requests_.at(move.id);
      ++preemptions_;
      EXPECT_EQ(move.context, r.context);
      r.saved.clear();
      for (int64_t t = 0; t < move.context; ++t) r.saved.push_back(at(move.pages, t));
      r.saved_state = states_.at(move.state_slot);
    }
    for (const CacheMove& move : step.copy_in) {
      Request& r = requests_.at(move.id);
      EXPECT_EQ(move.context, r.context);
      ASSERT_EQ(static_cast<int64_t>(r.saved.size()), move.context);
      for (int64_t t = 0; t < move.context; ++t) at(move.pages, t) = r.saved[t];
      states_.at(move.state_slot) = r.saved_state;
    }
    for (const StateCopy& copy : step.resumed) {
      EXPECT_GE(copy.from, limits_.max_seqs);
      EXPECT_LT(copy.to, limits_.max_seqs);
      states_.at(copy.to) = states_.at(copy.from);
    }
  }

  void keep_states(const Step& step) {
    std::set<int32_t> written;
    for (const StateCopy& copy : step.kept) {
      EXPECT_LT(copy.from, limits_.max_seqs);
      EXPECT_GE(copy.to, limits_.max_seqs);
      EXPECT_TRUE(written.insert(copy.to).second) << "two snapshots in one slot";
      states_.at(copy.to) = states_.at(copy.from);
      for (const ScheduledPiece& piece : step.pieces) {
        if (scheduler_.state_slot(piece.id) == copy.from) {
          kept_.emplace_back(piece.id, piece.context + piece.tokens);
        }
      }
    }
  }

  bool is_recurrent() const { return limits_.num_snapshots.has_value(); }

  void check_and_write(const ScheduledPiece& piece) {
    Request& r = requests_.at(piece.id);
    const std::vector<int32_t>& pages = scheduler_.pages(piece.id);
    std::vector<int32_t>& state = states_.at(scheduler_.state_slot(piece.id));
    if (!r.began) {
      // What was found of another's prompt. From nothing a state begins anew, else it was resumed;
      // without one there is nothing to go by.
      r.began = true;
      cached_ += piece.context;
      found_[piece.id] = piece.context;
      r.context = piece.context;
      EXPECT_EQ(scheduler_.cached_tokens(piece.id), piece.context);
      if (piece.context == 0) state.clear();
      if (!is_recurrent()) state.assign(r.ids.begin(), r.ids.begin() + piece.context);
    }
    ASSERT_EQ(static_cast<int64_t>(state.size()), piece.context);
    EXPECT_EQ(piece.context, r.context);
    EXPECT_GT(piece.tokens, 0);
    const int64_t end = piece.context + piece.tokens;
    ASSERT_LE(end, static_cast<int64_t>(r.ids.size()));
    EXPECT_EQ(piece.wants_logits, end == static_cast<int64_t>(r.ids.size()));
    if (limits_.prompt_chunk == 0 || limits_.prompt_chunk >= kPageTokens) {
      EXPECT_TRUE(piece.wants_logits || end % kPageTokens == 0) << "cut in the middle of a page";
    }
    ASSERT_GE(static_cast<int64_t>(pages.size()), ceil_div(end, kPageTokens));
    for (int64_t t = 0; t < piece.context; ++t) {
      ASSERT_EQ(at(pages, t), r.ids[t]) << "request " << piece.id << " position " << t;
    }
    ASSERT_TRUE(
        std::equal(state.begin(), state.end(), r.ids.begin(), r.ids.begin() + piece.context));
    for (int64_t t = piece.context; t < end; ++t) {
      at(pages, t) = r.ids[t];
      state.push_back(r.ids[t]);
    }
    r.context = end;
  }

  // Pages in use are those of running requests; only full pages of equal content are shared.
  void check_pages() {
    std::map<int32_t, int64_t> holders;
    std::set<int32_t> slots;
    for (const auto& [id, r] : requests_) {
      const auto& pages = scheduler_.pages(id);
      for (size_t i = 0; i < pages.size(); ++i) {
        if (holders[pages[i]]++ > 0) {
          EXPECT_LE(static_cast<int64_t>(i + 1) * kPageTokens, r.context);
        }
      }
      if (!pages.empty()) {
        EXPECT_TRUE(slots.insert(scheduler_.state_slot(id)).second) << "a slot has two owners";
      }
    }
    const BlockPool& pool = scheduler_.pool();
    for (int32_t p = 0; p < pool.num_pages(); ++p) {
      EXPECT_EQ(pool.holders(p), holders.contains(p) ? holders[p] : 0) << "page " << p;
    }
    EXPECT_EQ(pool.num_free(), pool.num_pages() - static_cast<int64_t>(holders.size()));
  }

  void sample(const ScheduledPiece& piece) {
    if (!piece.wants_logits) return;
    Request& r = requests_.at(piece.id);
    if (static_cast<int64_t>(r.ids.size()) == r.total) {
      scheduler_.finish(piece.id);
      requests_.erase(piece.id);
      return;
    }
    r.ids.push_back(token_of(r.text, static_cast<int64_t>(r.ids.size())));
    const auto page = r.pages.push(r.ids.back());
    scheduler_.add_token(piece.id, cache_generated_ && r.reuse ? page : std::optional<PageHash>());
  }

  SchedulerLimits limits_;
  bool cache_generated_;
  Scheduler scheduler_;
  std::map<RequestId, Request> requests_;
  std::vector<int32_t> memory_;               // [pages * 64]: the token that a place holds
  std::vector<std::vector<int32_t>> states_;  // [slots]: the tokens that a state has seen
  int64_t preemptions_ = 0, cached_ = 0;
  std::vector<std::pair<RequestId, int64_t>> kept_;
  std::map<RequestId, int64_t> found_;
};

TEST(Scheduler, TenThousandRandomSchedulesKeepEveryRule) {
  int64_t preemptions = 0, cached = 0, resumed = 0, kept = 0;
  // With --gtest_shuffle --gtest_repeat others each time (.ci/extended).
  const uint64_t round =
      GTEST_FLAG_GET(shuffle)
          ? static_cast<uint64_t>(::testing::UnitTest::GetInstance()->random_seed())
          : 0;
  for (uint64_t seed = 10000 * round; seed < 10000 * (round + 1); ++seed) {
    SCOPED_TRACE(seed);
    Random random(seed);
    SchedulerLimits limits{.max_tokens = 72 + random.below(120), .max_seqs = 1 + random.below(8)};
    const int64_t pages = 3 + random.below(10);
    if (random.below(3) == 0) limits.prompt_chunk = 1 + random.below(100);
    if (random.below(2) == 0) {
      const int64_t least = limits.prompt_chunk > 0 ? limits.prompt_chunk : kPageTokens;
      limits.scored_tokens = std::min(least, kPageTokens) + random.below(80);
    }
    const bool recurrent = random.below(2) == 0;
    if (recurrent) limits.num_snapshots = random.below(5);
    if (random.below(6) == 0) limits.least_snapshot = random.below(200);
    if (random.below(2) == 0) {
      limits.gathering = {.steps = 1 + random.below(5),
                          .decodes = 1 + random.below(3),
                          .tokens = 1 + random.below(200)};
    }
    Simulation simulation(limits, pages, random.below(2) == 0);
    int64_t arrivals = 2 + random.below(8);
    int64_t idle = 0;
    for (int64_t steps = 0; arrivals > 0 || !simulation.done(); ++steps) {
      ASSERT_LT(steps, 10000) << "somebody never finishes";
      if (arrivals > 0 && random.below(4) == 0) {
        --arrivals;
        const int64_t total = 1 + random.below(std::min<int64_t>(pages, 5) * kPageTokens);
        const int64_t prompt = std::max<int64_t>(1, total - random.below(100));
        simulation.add(static_cast<int32_t>(random.below(4)), prompt, total, random.below(3) > 0,
                       random.below(8) == 0 ? random.below(3) - 1 : 0,
                       limits.scored_tokens > 0 && random.below(3) == 0);
      }
      if (random.below(60) == 0 && !simulation.done()) {
        const std::vector<RequestId> ids = simulation.ids();
        simulation.cancel(ids[random.below(static_cast<int64_t>(ids.size()))]);
      }
      const bool work = !simulation.done();
      // A step may be empty when it only copies out; two in a row must not be.
      idle = simulation.step() || !work ? 0 : idle + 1;
      ASSERT_LT(idle, 2) << "requests wait and nothing runs";
      if (HasFailure()) return;
    }
    EXPECT_EQ(simulation.scheduler().pool().num_free(), pages);
    preemptions += simulation.preemptions();
    (recurrent ? resumed : cached) += simulation.cached();
    kept += static_cast<int64_t>(simulation.kept().size());
  }
  EXPECT_GT(preemptions, 1000) << "the schedules were too easy";
  EXPECT_GT(cached, 100000);
  EXPECT_GT(resumed, 80000);
  EXPECT_GT(kept, 1000);
}

TEST(Scheduler, LowerPrioritiesStartFirstAndGiveUpTheirPagesLast) {
  Scheduler scheduler({.max_tokens = kPageTokens + 1, .max_seqs = 1}, 4);
  const RequestId plain = scheduler.add(10, 12), late = scheduler.add(10, 12, {}, 1),
                  urgent = scheduler.add(10, 12, {}, -5), next = scheduler.add(10, 12);
  for (const RequestId id : {urgent, plain, next, late}) {
    const Step step = scheduler.next();
    ASSERT_EQ(step.pieces.size(), 1u);
    EXPECT_EQ(step.pieces[0].id, id);
    scheduler.finish(id);
  }
  // Three pages: the younger has come first and gives way.
  Scheduler small({.max_tokens = 2 * kPageTokens + 2, .max_seqs = 2}, 3);
  const RequestId unhurried = small.add(64, 128, {}, 1);
  small.next();
  const RequestId hurried = small.add(64, 128, {}, 0);
  small.next();
  small.add_token(unhurried);
  small.add_token(hurried);
  const Step step = small.next();
  ASSERT_EQ(step.copy_out.size(), 1u);
  EXPECT_EQ(step.copy_out[0].id, unhurried);
  EXPECT_EQ(step.pieces[0].id, hurried);
}

TEST(Scheduler, ALongPromptDelaysWhoGeneratesByOneChunkAtMost) {
  for (const int64_t chunk : {0, 256}) {
    Simulation simulation(
        {.max_tokens = chunk == 0 ? 128 : 1000, .max_seqs = 4, .prompt_chunk = chunk}, 40);
    simulation.add(0, 5, 30, false);
    simulation.step();
    simulation.add(1, 1000, 1001, false);
    for (int64_t left = 1000; left > 0;) {
      const Step step = simulation.scheduler().next();
      ASSERT_EQ(step.pieces.size(), 2u);
      EXPECT_TRUE(step.pieces[0].is_decode);
      // Of a budget of 127 a whole page, or the prompt's end.
      const int64_t piece = chunk == 0 ? (left > 127 ? 64 : left) : std::min<int64_t>(left, 256);
      EXPECT_EQ(step.pieces[1].tokens, piece);
      left -= step.pieces[1].tokens;
      simulation.scheduler().add_token(step.pieces[0].id);
    }
  }
}

// Prompts that a step begins, beside `decodes` requests that generate.
class Gathering : public ::testing::Test {
 protected:
  // Begun in the step: their prompts' lengths.
  std::vector<int64_t> step() {
    std::vector<int64_t> begun;
    for (const ScheduledPiece& piece : scheduler_.next().pieces) {
      if (!piece.is_decode) begun.push_back(piece.tokens);
      if (piece.wants_logits) scheduler_.add_token(piece.id);
    }
    return begun;
  }
  void start_two() {
    for (int i = 0; i < 2; ++i) running_[i] = scheduler_.add(5, 400);
    ASSERT_THAT(step(), ElementsAre(5, 5)) << "nobody generates yet";
  }

  RequestId running_[2] = {};
  Scheduler scheduler_{
      {.max_tokens = 1000, .max_seqs = 16, .gathering = {.steps = 3, .decodes = 2, .tokens = 100}},
      200};
};

TEST_F(Gathering, APromptWaitsForOthersButNotLongerThanItsSteps) {
  start_two();
  scheduler_.add(10, 20);
  EXPECT_THAT(step(), IsEmpty());
  scheduler_.add(20, 30);
  EXPECT_THAT(step(), IsEmpty());
  EXPECT_THAT(step(), IsEmpty());
  EXPECT_THAT(step(), ElementsAre(10, 20)) << "the younger comes along";
  scheduler_.add(30, 40);
  EXPECT_THAT(step(), IsEmpty()) << "the next one waits again";
}

TEST_F(Gathering, EnoughTokensBeginAtOnce) {
  start_two();
  scheduler_.add(60, 70);
  EXPECT_THAT(step(), IsEmpty());
  scheduler_.add(39, 50);
  EXPECT_THAT(step(), IsEmpty()) << "99 tokens";
  scheduler_.add(1, 10);
  EXPECT_THAT(step(), ElementsAre(60, 39, 1));
  scheduler_.add(100, 110);
  EXPECT_THAT(step(), ElementsAre(100));
}

TEST_F(Gathering, BesideALongPromptOthersBeginAtOnce) {
  start_two();
  scheduler_.add(2500, 2600);
  EXPECT_THAT(step(), ElementsAre(960));
  scheduler_.add(10, 20);
  EXPECT_THAT(step(), ElementsAre(960, 10));
}

TEST_F(Gathering, NobodyWaitsBesideFewWhoGenerate) {
  start_two();
  scheduler_.finish(running_[0]);
  scheduler_.add(10, 20);
  EXPECT_THAT(step(), ElementsAre(10));
}

TEST(Scheduler, WhoWasSetAsideDoesNotWaitForOthers) {
  // Four pages: the youngest gives way when the older two go on to their second ones.
  Scheduler scheduler({.max_tokens = 1000,
                       .max_seqs = 4,
                       .gathering = {.steps = 100, .decodes = 1, .tokens = 1000}},
                      4);
  const RequestId first = scheduler.add(64, 128), second = scheduler.add(64, 128),
                  third = scheduler.add(10, 20);
  ASSERT_EQ(scheduler.next().pieces.size(), 3u);
  for (const RequestId id : {first, second, third}) scheduler.add_token(id);
  const Step crowded = scheduler.next();
  ASSERT_EQ(crowded.copy_out.size(), 1u);
  EXPECT_EQ(crowded.copy_out[0].id, third);
  scheduler.add_token(first);
  scheduler.finish(second);
  const Step step = scheduler.next();
  ASSERT_EQ(step.copy_in.size(), 1u);
  EXPECT_EQ(step.copy_in[0].id, third);
  EXPECT_EQ(step.pieces.size(), 2u);
}

// Steps until nobody has work.
void run_all(Simulation& simulation) {
  while (!simulation.done()) simulation.step();
}

TEST(Snapshots, AreKeptWherePromptsEndWhereTwoPartAndEvery4096Tokens) {
  Simulation simulation({.max_tokens = 600, .max_seqs = 2, .num_snapshots = 20}, 400);
  const RequestId first = simulation.add(0, 200, 210, true);
  run_all(simulation);
  EXPECT_THAT(simulation.kept(), ElementsAre(Pair(first, 192)));
  // A page and 36 tokens in common: the page is known, a state at its end is not.
  const RequestId second = simulation.add(2, 300, 310, true);
  run_all(simulation);
  EXPECT_EQ(simulation.found().at(second), 0);
  EXPECT_THAT(simulation.kept(),
              ElementsAre(Pair(first, 192), Pair(second, 64), Pair(second, 256)));
  // From here on it is.
  const RequestId third = simulation.add(0, 130, 131, true);
  run_all(simulation);
  EXPECT_EQ(simulation.found().at(third), 64) << "192 are longer than its prompt";
  EXPECT_EQ(simulation.kept().size(), 4u);
  EXPECT_EQ(simulation.kept().back(), std::pair(third, int64_t{128}));
  const RequestId again = simulation.add(0, 200, 201, true);
  run_all(simulation);
  EXPECT_EQ(simulation.found().at(again), 192);
  EXPECT_EQ(simulation.kept().size(), 4u) << "it was there";

  const RequestId longest = simulation.add(1, 9000, 9001, true);
  run_all(simulation);
  EXPECT_THAT(std::vector(simulation.kept().begin() + 4, simulation.kept().end()),
              ElementsAre(Pair(longest, 4096), Pair(longest, 8192), Pair(longest, 8960)));
}

TEST(Snapshots, OfShortPromptsAreKeptOnlyWhereTwoPart) {
  Simulation simulation(
      {.max_tokens = 600, .max_seqs = 2, .num_snapshots = 20, .least_snapshot = 256}, 400);
  const RequestId longer = simulation.add(1, 300, 301, true);
  simulation.add(0, 200, 201, true);
  run_all(simulation);
  EXPECT_THAT(simulation.kept(), ElementsAre(Pair(longer, 256)));
  // A page and 36 tokens in common with text 0.
  const RequestId parting = simulation.add(2, 200, 201, true);
  run_all(simulation);
  EXPECT_EQ(simulation.found().at(parting), 0);
  EXPECT_THAT(simulation.kept(), ElementsAre(Pair(longer, 256), Pair(parting, 64)));
  const RequestId third = simulation.add(2, 200, 201, true);
  run_all(simulation);
  EXPECT_EQ(simulation.found().at(third), 64);
}

TEST(Snapshots, AnEqualPromptGoesOnFromItsLastPageAlsoWhenItEndsThere) {
  Simulation simulation({.max_tokens = 600, .max_seqs = 2, .num_snapshots = 20}, 400);
  simulation.add(0, 128, 129, true);
  run_all(simulation);
  const RequestId again = simulation.add(0, 128, 129, true);
  run_all(simulation);
  EXPECT_EQ(simulation.found().at(again), 64);
}

TEST(Snapshots, TheNearestOneBelowIsTakenWhenTheBestIsGone) {
  // Two slots: text 1 drives out what was not used for longest.
  Simulation simulation({.max_tokens = 600, .max_seqs = 1, .num_snapshots = 2}, 400);
  simulation.add(0, 65, 66, true);    // keeps 64
  simulation.add(0, 200, 201, true);  // goes on from 64, keeps 192
  run_all(simulation);
  const RequestId both = simulation.add(0, 200, 201, true);
  simulation.add(0, 100, 101, true);  // uses 64 last
  run_all(simulation);
  EXPECT_EQ(simulation.found().at(both), 192);
  simulation.add(1, 65, 66, true);
  run_all(simulation);
  const RequestId after = simulation.add(0, 200, 201, true);
  run_all(simulation);
  EXPECT_EQ(simulation.found().at(after), 64);
}

TEST(Snapshots, WithoutASlotNothingIsReused) {
  Simulation simulation({.max_tokens = 600, .max_seqs = 1, .num_snapshots = 0}, 400);
  simulation.add(0, 200, 201, true);
  const RequestId again = simulation.add(0, 200, 201, true);
  run_all(simulation);
  EXPECT_EQ(simulation.found().at(again), 0);
  EXPECT_THAT(simulation.kept(), IsEmpty());
}

TEST(Snapshots, OfGeneratedTokensOnlyOnRequestAndOnlyTheLast) {
  for (const bool cache_generated : {false, true}) {
    Simulation simulation({.max_tokens = 600, .max_seqs = 1, .num_snapshots = 20}, 400,
                          cache_generated);
    const RequestId first = simulation.add(0, 100, 400, true);
    run_all(simulation);
    EXPECT_EQ(simulation.kept().front(), std::pair(first, int64_t{64}));
    EXPECT_EQ(simulation.kept().size(), cache_generated ? 1u + 5u : 1u);  // 128, 192 ... 384
    // The prompt's own, the last of the answer, and not those between.
    const RequestId whole = simulation.add(0, 390, 391, true);
    run_all(simulation);
    EXPECT_EQ(simulation.found().at(whole), cache_generated ? 384 : 64);
    const RequestId part = simulation.add(0, 300, 301, true);
    run_all(simulation);
    EXPECT_EQ(simulation.found().at(part), 64);
  }
  // Pages alone are enough without a state.
  for (const bool cache_generated : {false, true}) {
    Simulation simulation({.max_tokens = 600, .max_seqs = 1}, 400, cache_generated);
    simulation.add(0, 100, 400, true);
    run_all(simulation);
    const RequestId part = simulation.add(0, 300, 301, true);
    run_all(simulation);
    EXPECT_EQ(simulation.found().at(part), cache_generated ? 256 : 64);
  }
}

TEST(Scheduler, WhatAFailedStepWasToLeaveBehindIsNotFound) {
  for (const std::optional<int64_t> snapshots : {std::optional<int64_t>(), {4}}) {
    Scheduler scheduler({.max_tokens = 600, .max_seqs = 2, .num_snapshots = snapshots}, 40);
    const std::vector<PageHash> pages = page_hashes(prompt_of(0, 200));
    scheduler.add(200, 210, pages);
    const Step failed = scheduler.next();
    ASSERT_EQ(failed.pieces.size(), 1u);
    scheduler.fail(failed);
    EXPECT_FALSE(scheduler.has(failed.pieces[0].id));
    EXPECT_EQ(scheduler.pool().num_free(), 40);
    const RequestId again = scheduler.add(200, 210, pages);
    EXPECT_EQ(scheduler.next().pieces.at(0).context, 0);
    EXPECT_EQ(scheduler.cached_tokens(again), 0);
  }
}

TEST(Snapshots, OfAFailedStepAreNotGoneOnFrom) {
  Simulation simulation({.max_tokens = 600, .max_seqs = 2, .num_snapshots = 4}, 40);
  simulation.add(0, 200, 201, true);
  run_all(simulation);
  // Its page is known, and the state at its end was to be kept.
  Scheduler& scheduler = simulation.scheduler();
  scheduler.add(100, 101, page_hashes(prompt_of(2, 100)));
  const Step failed = scheduler.next();
  ASSERT_EQ(failed.kept.size(), 1u);
  scheduler.fail(failed);
  const RequestId after = scheduler.add(100, 101, page_hashes(prompt_of(2, 100)));
  EXPECT_TRUE(scheduler.next().resumed.empty());
  EXPECT_EQ(scheduler.cached_tokens(after), 0);
}

TEST(SnapshotPool, TakesTheLongestUnusedSlotAndNoneTwiceInAStep) {
  const std::vector<PageHash> pages = page_hashes(prompt_of(0, 5 * kPageTokens));
  SnapshotPool pool(7, 2);
  EXPECT_EQ(pool.take(pages[0]), 7);
  EXPECT_FALSE(pool.find(pages[0])) << "it is not written yet";
  EXPECT_FALSE(pool.take(pages[0])) << "it will be there";
  EXPECT_EQ(pool.take(pages[1]), 8);
  EXPECT_FALSE(pool.take(pages[2])) << "both are promised";
  pool.commit();
  EXPECT_EQ(pool.find(pages[0]), 7);  // used later than 8
  EXPECT_EQ(pool.take(pages[2]), 8);
  EXPECT_FALSE(pool.has(pages[1]));
  EXPECT_EQ(pool.take(pages[3]), 7);
  pool.discard();
  EXPECT_FALSE(pool.has(pages[0]));
  EXPECT_FALSE(pool.has(pages[3]));
  EXPECT_TRUE(pool.take(pages[3]));
  pool.commit();
  pool.forget(pages[3]);
  EXPECT_FALSE(pool.find(pages[3]));
}

TEST(Scheduler, ARequestLargerThanTheCacheIsRefusedWithWhatToDo) {
  Scheduler scheduler({.max_tokens = 128, .max_seqs = 4}, 3);
  try {
    scheduler.add(100, 193);
    FAIL() << "four pages were promised of three";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kUsage);
    EXPECT_NE(std::string(error.what()).find("4 pages"), std::string::npos);
  }
  EXPECT_NO_THROW(scheduler.add(100, 192));
}

TEST(BlockPool, ForgetsTheLongestUnusedPageFirst) {
  BlockPool pool(3);
  const std::vector<PageHash> hashes = page_hashes(prompt_of(0, 3 * kPageTokens));
  ASSERT_EQ(hashes.size(), 3u);
  std::vector<int32_t> pages;
  for (const PageHash& hash : hashes) {
    pages.push_back(*pool.take());
    pool.publish(pages.back(), hash);
  }
  EXPECT_FALSE(pool.take().has_value());
  for (const int i : {1, 0, 2}) pool.release(pages[i]);
  EXPECT_EQ(pool.find(hashes[1]), BlockPool::Found::kFree);
  EXPECT_EQ(pool.take(), pages[1]);
  EXPECT_EQ(pool.find(hashes[1]), BlockPool::Found::kNo);
  EXPECT_EQ(pool.share(hashes[0]), pages[0]);
  EXPECT_EQ(pool.find(hashes[0]), BlockPool::Found::kInUse);
  EXPECT_EQ(pool.take(), pages[2]);
}

TEST(PageHashes, DependOnEveryTokenBefore) {
  std::vector<int32_t> ids = prompt_of(0, 200);
  const std::vector<PageHash> hashes = page_hashes(ids);
  ASSERT_EQ(hashes.size(), 3u);
  std::set<uint64_t> different;
  for (const PageHash& h : hashes) different.insert(h.low);
  EXPECT_EQ(different.size(), 3u);
  ids[70] += 1;
  const std::vector<PageHash> changed = page_hashes(ids);
  EXPECT_EQ(changed[0], hashes[0]);
  EXPECT_FALSE(changed[1] == hashes[1]);
  EXPECT_FALSE(changed[2] == hashes[2]);
}

}  // namespace
}  // namespace moe4
