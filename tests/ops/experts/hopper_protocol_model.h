// How the warps of hopper's grouped GEMMs and its CTAs wait for one another, as a model on the CPU:
// each role a coroutine, each mbarrier a counter, and a scheduler that lets any role go on that
// can, some far more often than others. What it models: gemm_producers_sm90.cuh,
// gemm_consumers_sm90.cuh and gemm_rings_sm90.cuh; memory and arithmetic are left out.
#pragma once

#include <algorithm>
#include <coroutine>
#include <exception>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

namespace moe4::testing {

/// A tile configuration's numbers (tile_configs.h).
struct ProtocolConfig {
  int consumer_groups, stage_chunks, token_stages, report_behind, weight_stages, tiles_ahead;
};
struct ProtocolProblem {
  int ctas, token_tiles;
  int row_tiles[2], steps[2];  ///< of FC1, of FC2
};

class ProtocolModel {
 public:
  ProtocolModel(const ProtocolConfig& config, const ProtocolProblem& problem, unsigned seed)
      : config_(config),
        problem_(problem),
        random_(seed),
        stored_of_tokens_(problem.token_tiles),
        groups_stored_(items(0)) {}

  /// Empty: all tiles were multiplied, and none before what it needs was stored. Otherwise what
  /// went wrong.
  std::string run() {
    for (int i = 0; i < problem_.ctas; ++i) {
      ctas_.push_back(std::make_unique<Cta>(config_));
      Cta& cta = *ctas_.back();
      roles_.push_back(bring_weights(cta));
      roles_.push_back(bring_tokens(cta));
      for (int g = 0; g < config_.consumer_groups; ++g) roles_.push_back(multiply(cta, g));
    }
    std::vector<double> pace;
    for (size_t i = 0; i < roles_.size(); ++i) {
      const double p = std::uniform_real_distribution(0.0, 1.0)(random_);
      pace.push_back(p * p * p + 0.01);
    }
    while (failure_.empty()) {
      std::vector<double> weight(roles_.size());
      bool all_done = true, some_ready = false;
      for (size_t i = 0; i < roles_.size(); ++i) {
        if (roles_[i].done()) continue;
        all_done = false;
        if (!roles_[i].ready()) continue;
        some_ready = true;
        weight[i] = pace[i];
      }
      if (all_done) break;
      if (!some_ready) return "everybody waits";
      roles_[std::discrete_distribution<size_t>(weight.begin(), weight.end())(random_)].resume();
    }
    if (failure_.empty() && multiplied_ != items(1) * config_.consumer_groups) {
      return "tiles of FC2 are missing";
    }
    return failure_;
  }

 private:
  // ---- coroutines ----
  using Condition = std::function<bool()>;
  class Role {
   public:
    struct promise_type {
      Condition waits_for = [] { return true; };
      Role get_return_object() {
        return Role(std::coroutine_handle<promise_type>::from_promise(*this));
      }
      std::suspend_always initial_suspend() noexcept { return {}; }
      std::suspend_always final_suspend() noexcept { return {}; }
      void return_void() {}
      void unhandled_exception() { std::terminate(); }
      std::suspend_always await_transform(Condition condition) {
        waits_for = std::move(condition);
        return {};
      }
    };
    explicit Role(std::coroutine_handle<promise_type> handle) : handle_(handle) {}
    Role(Role&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
    ~Role() {
      if (handle_) handle_.destroy();
    }
    bool done() const { return handle_.done(); }
    bool ready() const { return handle_.promise().waits_for(); }
    void resume() { handle_.resume(); }

   private:
    std::coroutine_handle<promise_type> handle_;
  };

  // ---- barriers and rings ----
  class Barrier {
   public:
    explicit Barrier(int arrivals) : arrivals_(arrivals), missing_(arrivals) {}
    void arrive() {
      if (--missing_ > 0) return;
      missing_ = arrivals_;
      ++phase_;
    }
    /// What mbarrier.try_wait.parity answers.
    bool passed(int parity) const { return phase_ % 2 != parity; }

   private:
    int arrivals_, missing_, phase_ = 0;
  };
  struct Tile {
    int gemm = 0, token_tile = 0, item = 0;
    bool end = true;
  };
  struct Stage {
    Barrier full, empty;
    Tile tile;
  };
  using Stages = std::vector<Stage>;
  // A place in a ring, as Ring in gemm_rings_sm90.cuh.
  class Place {
   public:
    explicit Place(Stages& stages) : stages_(&stages) {}
    Stage& stage() const { return (*stages_)[count_ % stages_->size()]; }
    int parity() const { return static_cast<int>(count_ / stages_->size() % 2); }
    Condition full() const {
      return [s = &stage(), p = parity()] { return s->full.passed(p); };
    }
    Condition empty() const {
      return [s = &stage(), p = 1 - parity()] { return s->empty.passed(p); };
    }
    Condition used() const {
      return [s = &stage(), p = parity()] { return s->empty.passed(p); };
    }
    void advance() { ++count_; }

   private:
    Stages* stages_;
    size_t count_ = 0;
  };
  struct Cta {
    explicit Cta(const ProtocolConfig& c)
        : tiles(c.tiles_ahead, {Barrier(1), Barrier(c.consumer_groups + 1), {}}),
          tokens(c.token_stages, {Barrier(1), Barrier(c.consumer_groups), {}}),
          weights(c.consumer_groups, Stages(c.weight_stages, {Barrier(1), Barrier(1), {}})) {}
    Stages tiles, tokens;
    std::vector<Stages> weights;  ///< a strand for each group
  };

  int items(int gemm) const { return problem_.token_tiles * problem_.row_tiles[gemm]; }
  int token_stages(int gemm) const {
    return (2 * problem_.steps[gemm] + config_.stage_chunks - 1) / config_.stage_chunks;
  }
  Tile take() {
    int item = taken_++;
    for (int gemm = 0; gemm < 2; item -= items(gemm++)) {
      if (item < items(gemm)) return {gemm, item / problem_.row_tiles[gemm], item, false};
    }
    return {};
  }

  // ---- roles ----
  Role bring_weights(Cta& cta) {
    Place tiles(cta.tiles), pending_place = tiles;
    std::vector<Place> weights;
    for (Stages& strand : cta.weights) weights.emplace_back(strand);
    Tile pending;  // of FC1, not announced; `end` if there is none
    int stages_since = 0;
    const auto announce = [&] {
      if (groups_stored_[pending.item] != config_.consumer_groups) {
        failure_ = "a tile of FC1 is announced before it is stored";
      }
      ++stored_of_tokens_[pending.token_tile];
      ++stored_;
      pending.end = true;
    };
    for (Tile tile = take(), next;; tile = next) {
      co_await tiles.empty();
      tiles.stage().tile = tile;
      tiles.stage().full.arrive();
      const Place place = tiles;
      tiles.advance();
      if (tile.end) break;
      const int stages = (problem_.steps[tile.gemm] + 1) / 2;
      for (int stage = 0; stage < stages; ++stage) {
        if (stage == std::max(stages - 3, 0)) next = take();
        for (Place& strand : weights) {
          co_await strand.empty();
          strand.stage().full.arrive();
          strand.advance();
        }
        if (++stages_since == config_.weight_stages && !pending.end) {
          co_await pending_place.used();
          announce();
        }
      }
      if (tile.gemm == 0) {
        if (!pending.end) {
          co_await pending_place.used();
          announce();
        }
        pending = tile;
        pending_place = place;
        stages_since = 0;
      }
    }
    if (!pending.end) {
      co_await pending_place.used();
      announce();
    }
  }

  Role bring_tokens(Cta& cta) {
    Place tiles(cta.tiles), copied(cta.tokens), landed = copied;
    int ahead = 0;
    const auto report = [&] {
      landed.stage().full.arrive();
      landed.advance();
      --ahead;
    };
    bool gathering = true;
    for (;;) {
      co_await tiles.full();
      const Tile tile = tiles.stage().tile;
      if (gathering && (tile.end || tile.gemm == 1)) {
        while (ahead > 0) report();
        gathering = false;
      }
      if (tile.end) co_return;
      if (tile.gemm == 1) {
        co_await [this, t = tile.token_tile] {
          return stored_ == items(0) || stored_of_tokens_[t] >= problem_.row_tiles[0];
        };
      }
      for (int stage = 0; stage < token_stages(tile.gemm); ++stage) {
        co_await copied.empty();
        if (tile.gemm == 1) copied.stage().full.arrive();
        copied.advance();
        if (tile.gemm == 0 && ++ahead > config_.report_behind) report();
      }
      tiles.stage().empty.arrive();
      tiles.advance();
    }
  }

  Role multiply(Cta& cta, int group) {
    Place tiles(cta.tiles), tokens(cta.tokens), weights(cta.weights[group]);
    const Condition any_time = [] { return true; };
    for (;;) {
      co_await tiles.full();
      const Tile tile = tiles.stage().tile;
      if (tile.end) co_return;
      const int chunks = 2 * problem_.steps[tile.gemm];
      Barrier* used = nullptr;  // the stage that products still read
      for (int chunk = 0; chunk < chunks; ++chunk) {
        if (chunk % 4 == 0) co_await weights.full();
        if (chunk % config_.stage_chunks == 0) {
          co_await tokens.full();
          if (tile.gemm == 1 && stored_of_tokens_[tile.token_tile] != problem_.row_tiles[0]) {
            failure_ = "a tile of FC2 is multiplied before its tokens are stored";
          }
          co_await any_time;
          if (used != nullptr) used->arrive();
          used = &tokens.stage().empty;
          tokens.advance();
        }
        if (chunk % 4 == 3 || chunk == chunks - 1) {
          weights.stage().empty.arrive();
          weights.advance();
        }
      }
      co_await any_time;
      used->arrive();
      for (int left = std::uniform_int_distribution(0, 6)(random_); left > 0; --left) {
        co_await any_time;  // the epilogue
      }
      if (tile.gemm == 0) {
        ++groups_stored_[tile.item];
      } else {
        ++multiplied_;
      }
      tiles.stage().empty.arrive();
      tiles.advance();
    }
  }

  const ProtocolConfig config_;
  const ProtocolProblem problem_;
  std::mt19937 random_;
  int taken_ = 0, stored_ = 0, multiplied_ = 0;
  std::vector<int> stored_of_tokens_;
  std::vector<int> groups_stored_;  ///< of each item of FC1
  std::vector<std::unique_ptr<Cta>> ctas_;
  std::vector<Role> roles_;
  std::string failure_;
};

}  // namespace moe4::testing
