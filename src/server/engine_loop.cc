// Hand-over between threads and the engine's loop.
#include "server/engine_loop.h"

#include <utility>

#include "base/error.h"
#include "base/log.h"
#include "server/api_error.h"

namespace moe4::server {

EngineLoop::EngineLoop(const Model& model, const EngineLimits& limits, int64_t max_queued,
                       Hooks hooks)
    : limits_(limits), max_queued_(max_queued), hooks_(std::move(hooks)), engine_(model, limits) {
  publish_stats();
  thread_ = std::thread([this] { run(); });
}

void EngineLoop::stop() {
  if (!thread_.joinable()) return;
  {
    const std::lock_guard lock(mutex_);
    draining_ = stopping_ = true;
  }
  wake_.notify_one();
  thread_.join();
}

std::vector<EngineLoop::Ticket> EngineLoop::submit(std::vector<LoopRequest> requests) {
  std::vector<Ticket> tickets;
  {
    const std::lock_guard lock(mutex_);
    if (!alive_) throw ApiError(503, "the engine has failed: the server must be started again");
    if (draining_) throw ApiError(503, "the server is shutting down");
    const auto more = static_cast<int64_t>(requests.size());
    if (active_ + more > limits_.max_seqs + max_queued_) {
      throw ApiError(429, "too many requests are waiting: " + std::to_string(active_.load()) +
                              " are in progress; try again later");
    }
    active_ += more;
    for (LoopRequest& request : requests) {
      tickets.push_back(next_ticket_++);
      arrivals_.push_back({tickets.back(), std::move(request)});
    }
  }
  wake_.notify_one();
  return tickets;
}

void EngineLoop::abort(Ticket ticket) {
  {
    const std::lock_guard lock(mutex_);
    aborts_.push_back(ticket);
  }
  wake_.notify_one();
}

void EngineLoop::drain() {
  const std::lock_guard lock(mutex_);
  draining_ = true;
}

EngineStats EngineLoop::stats() const {
  const std::lock_guard lock(mutex_);
  return stats_;
}

void EngineLoop::publish_stats() {
  const EngineStats stats = engine_.stats();
  const std::lock_guard lock(mutex_);
  stats_ = stats;
}

void EngineLoop::end(Ticket ticket, const RequestEnd& end) {
  const auto found = running_.find(ticket);
  MOE4_CHECK(found != running_.end());
  const Running running = std::move(found->second);
  running_.erase(found);
  --active_;
  if (running.on_end) running.on_end(end);
}

void EngineLoop::take_arrivals(std::vector<Arrival> arrivals) {
  for (Arrival& arrival : arrivals) {
    const Ticket ticket = arrival.ticket;
    EngineRequest& request = arrival.request.request;
    Running& running = running_[ticket];
    running.on_abort = std::move(arrival.request.on_abort);
    running.on_end = std::move(request.on_end);
    request.on_end = [this, ticket](const RequestEnd& how) { end(ticket, how); };
    try {
      running.id = engine_.submit(std::move(request));
    } catch (...) {
      end(ticket, {.error = std::current_exception()});
    }
  }
}

void EngineLoop::take_aborts(const std::vector<Ticket>& aborts) {
  for (const Ticket ticket : aborts) {
    const auto found = running_.find(ticket);
    if (found == running_.end()) continue;
    const Running running = std::move(found->second);
    running_.erase(found);
    engine_.cancel(running.id);
    --active_;
    if (running.on_abort) running.on_abort();
  }
}

void EngineLoop::end_all(const std::exception_ptr& error) {
  std::vector<Arrival> arrivals;
  {
    const std::lock_guard lock(mutex_);
    alive_ = false;
    arrivals.swap(arrivals_);
  }
  for (Arrival& arrival : arrivals) {
    --active_;
    if (arrival.request.request.on_end) arrival.request.request.on_end({.error = error});
  }
  while (!running_.empty()) end(running_.begin()->first, {.error = error});
  if (hooks_.turn) hooks_.turn();
}

void EngineLoop::run() {
  try {
    for (;;) {
      std::vector<Arrival> arrivals;
      std::vector<Ticket> aborts;
      {
        std::unique_lock lock(mutex_);
        wake_.wait(lock, [&] {
          return stopping_ || !arrivals_.empty() || !aborts_.empty() || engine_.num_requests() > 0;
        });
        if (stopping_) break;
        arrivals.swap(arrivals_);
        aborts.swap(aborts_);
      }
      take_arrivals(std::move(arrivals));
      take_aborts(aborts);
      const bool has_stepped = engine_.step();
      publish_stats();
      if (has_stepped && hooks_.step) hooks_.step(engine_.stats().step_tokens);
      if (hooks_.turn) hooks_.turn();
    }
    end_all(std::make_exception_ptr(ApiError(503, "the server is shutting down")));
  } catch (const std::exception& error) {
    log(LogLevel::kWarning, std::string("the engine has failed: ") + error.what());
    end_all(std::current_exception());
  }
}

}  // namespace moe4::server
