// The engine on a thread of its own, for requests from many threads.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "engine/engine.h"

namespace moe4::server {

/// A request and who hears of its end. All callbacks run on the engine's thread.
struct LoopRequest {
  EngineRequest request;  ///< on_end is called in every case but an abort
  /// In place of request.on_end when it was aborted. Must not throw. May be empty.
  std::function<void()> on_abort;
};

/// Thread-safe, unless said otherwise.
class EngineLoop {
 public:
  using Ticket = uint64_t;

  /// Called on the engine's thread; may be empty.
  struct Hooks {
    std::function<void(int64_t tokens)> step;  ///< after a step that computed so many
    std::function<void()> turn;                ///< after callbacks of requests, before any waiting
  };

  /// `max_queued`: requests that may wait beside limits.max_seqs that run. Starts the thread.
  /// Throws as Engine does.
  EngineLoop(const Model& model, const EngineLimits& limits, int64_t max_queued, Hooks hooks = {});
  ~EngineLoop() { stop(); }
  EngineLoop(const EngineLoop&) = delete;
  EngineLoop& operator=(const EngineLoop&) = delete;

  const EngineLimits& limits() const { return limits_; }

  /// Takes all of `requests` or none. Throws ApiError(429) when too many wait, ApiError(503) while
  /// draining or once the engine has failed. What the engine refuses comes by on_end.
  std::vector<Ticket> submit(std::vector<LoopRequest> requests);
  /// Takes effect before the next step. Nothing for one that has ended.
  void abort(Ticket ticket);
  /// New requests are refused from now on; those there are go on.
  void drain();
  /// Ends what there is with ApiError(503) and joins the thread. Not thread-safe.
  void stop();

  /// Submitted and not ended.
  int64_t num_active() const { return active_.load(); }
  /// False once something threw that no single request was to blame for.
  bool is_alive() const { return alive_.load(); }
  /// As of the last step.
  EngineStats stats() const;

 private:
  struct Arrival {
    Ticket ticket;
    LoopRequest request;
  };
  struct Running {
    RequestId id = 0;
    std::function<void()> on_abort;
    std::function<void(const RequestEnd&)> on_end;
  };

  void run();
  void take_arrivals(std::vector<Arrival> arrivals);
  void take_aborts(const std::vector<Ticket>& aborts);
  void end(Ticket ticket, const RequestEnd& end);
  void end_all(const std::exception_ptr& error);
  void publish_stats();

  const EngineLimits limits_;
  const int64_t max_queued_;
  const Hooks hooks_;
  Engine engine_;                      // of the thread
  std::map<Ticket, Running> running_;  // of the thread
  std::atomic<int64_t> active_ = 0;
  std::atomic<bool> alive_ = true;

  mutable std::mutex mutex_;  // of all below
  std::condition_variable wake_;
  std::vector<Arrival> arrivals_;
  std::vector<Ticket> aborts_;
  EngineStats stats_;
  Ticket next_ticket_ = 1;
  bool draining_ = false, stopping_ = false;

  std::thread thread_;
};

}  // namespace moe4::server
