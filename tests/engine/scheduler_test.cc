// The scheduler without a model: a memory that remembers which token each place of each page holds
// is written as steps say, and must hold what every piece counts on.
#include "engine/scheduler.h"

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

using testing::Random;

// Runs requests to their ends and checks every step.
class Simulation {
 public:
  Simulation(const SchedulerLimits& limits, int64_t num_pages)
      : limits_(limits), scheduler_(limits, num_pages) {
    memory_.assign(num_pages * kPageTokens, -1);
    states_.assign(limits.max_seqs, {});
  }

  RequestId add(std::vector<int32_t> prompt, int64_t total, bool reuse) {
    const auto tokens = static_cast<int64_t>(prompt.size());
    const RequestId id =
        scheduler_.add(tokens, total, reuse ? page_hashes(prompt) : std::vector<PageHash>{});
    requests_[id] = {std::move(prompt), total};
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

  // One step; false when it had no piece.
  bool step() {
    const Step step = scheduler_.next();
    move_caches(step);
    int64_t tokens = 0;
    bool prompts = false;
    std::set<RequestId> seen;
    for (const ScheduledPiece& piece : step.pieces) {
      tokens += piece.tokens;
      EXPECT_FALSE(piece.is_decode && prompts) << "decodes come first";
      prompts = prompts || !piece.is_decode;
      EXPECT_TRUE(seen.insert(piece.id).second);
      check_and_write(piece);
    }
    EXPECT_LE(tokens, limits_.max_tokens);
    EXPECT_LE(static_cast<int64_t>(step.pieces.size()), limits_.max_seqs);
    check_pages();
    for (const ScheduledPiece& piece : step.pieces) sample(piece);
    return !step.pieces.empty();
  }

 private:
  struct Request {
    std::vector<int32_t> ids;
    int64_t total = 0;
    int64_t context = 0;
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
  }

  void check_and_write(const ScheduledPiece& piece) {
    Request& r = requests_.at(piece.id);
    const std::vector<int32_t>& pages = scheduler_.pages(piece.id);
    std::vector<int32_t>& state = states_.at(scheduler_.state_slot(piece.id));
    if (r.context == 0) {
      // What was found of another's prompt; a state begins anew.
      cached_ += piece.context;
      r.context = piece.context;
      EXPECT_EQ(scheduler_.cached_tokens(piece.id), piece.context);
      state.assign(r.ids.begin(), r.ids.begin() + piece.context);
    }
    EXPECT_EQ(piece.context, r.context);
    EXPECT_GT(piece.tokens, 0);
    const int64_t end = piece.context + piece.tokens;
    ASSERT_LE(end, static_cast<int64_t>(r.ids.size()));
    EXPECT_EQ(piece.wants_logits, end == static_cast<int64_t>(r.ids.size()));
    EXPECT_TRUE(piece.wants_logits || end % kPageTokens == 0) << "cut in the middle of a page";
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
    r.ids.push_back(static_cast<int32_t>(1000 + piece.id));
    scheduler_.add_token(piece.id);
  }

  SchedulerLimits limits_;
  Scheduler scheduler_;
  std::map<RequestId, Request> requests_;
  std::vector<int32_t> memory_;               // [pages * 64]: the token that a place holds
  std::vector<std::vector<int32_t>> states_;  // [slots]: the tokens that a state has seen
  int64_t preemptions_ = 0, cached_ = 0;
};

std::vector<int32_t> prompt_of(int32_t text, int64_t tokens) {
  std::vector<int32_t> ids(tokens);
  for (int64_t t = 0; t < tokens; ++t) ids[t] = static_cast<int32_t>((text * 37 + t * 11) % 997);
  return ids;
}

TEST(Scheduler, TenThousandRandomSchedulesKeepEveryRule) {
  int64_t preemptions = 0, cached = 0;
  for (uint64_t seed = 0; seed < 10000; ++seed) {
    SCOPED_TRACE(seed);
    Random random(seed);
    const SchedulerLimits limits{.max_tokens = 72 + random.below(120),
                                 .max_seqs = 1 + random.below(8)};
    const int64_t pages = 3 + random.below(10);
    Simulation simulation(limits, pages);
    int64_t arrivals = 2 + random.below(8);
    int64_t idle = 0;
    for (int64_t steps = 0; arrivals > 0 || !simulation.done(); ++steps) {
      ASSERT_LT(steps, 10000) << "somebody never finishes";
      if (arrivals > 0 && random.below(4) == 0) {
        --arrivals;
        const int64_t total = 1 + random.below(std::min<int64_t>(pages, 5) * kPageTokens);
        const int64_t prompt = std::max<int64_t>(1, total - random.below(40));
        simulation.add(prompt_of(static_cast<int32_t>(random.below(2)), prompt), total,
                       random.below(3) > 0);
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
    cached += simulation.cached();
  }
  EXPECT_GT(preemptions, 1000) << "the schedules were too easy";
  EXPECT_GT(cached, 10000);
}

TEST(Scheduler, ALongPromptDoesNotStopWhoGenerates) {
  Simulation simulation({.max_tokens = 128, .max_seqs = 4}, 40);
  simulation.add(prompt_of(0, 5), 30, false);
  simulation.step();
  simulation.add(prompt_of(1, 1000), 1001, false);
  for (int i = 0; i < 10; ++i) {
    const Step step = simulation.scheduler().next();
    ASSERT_EQ(step.pieces.size(), 2u);
    EXPECT_TRUE(step.pieces[0].is_decode);
    EXPECT_EQ(step.pieces[1].tokens, 64);  // 127 of the budget are left: one whole page
    simulation.scheduler().add_token(step.pieces[0].id);
  }
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
