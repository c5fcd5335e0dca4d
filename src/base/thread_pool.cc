// Regions that workers join while they are open, with short spins and then sleep.
#include "base/thread_pool.h"

#include <algorithm>
#include <chrono>
#include <string>
#include <system_error>

#include "base/cpu_count.h"
#include "base/error.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace moe4 {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;

// How long an idle worker spins: longer than the gap between two layers of a decode step, short
// enough that an idle program uses no CPU.
constexpr auto kIdleSpin = microseconds(200);
// Others finish about when a thread runs out of work; after this long, and several times what the
// thread itself worked, they have lost their cores.
constexpr auto kPatience = microseconds(50);
constexpr int kPatienceTimesWork = 4;
// How long a worker stays out after it was late, at first and at most. A time slice is some
// milliseconds.
constexpr std::chrono::nanoseconds kFirstRest = microseconds(500), kLongestRest = milliseconds(32);
// Sleepers that one thread wakes: a tree, so that the caller soon gets to its own work and a region
// that is over meanwhile wakes nobody else.
constexpr int kWakes = 2;

constexpr uint64_t kOpen = uint64_t{1} << 31;
constexpr uint64_t kInside = kOpen - 1;

void cpu_relax() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield" ::: "memory");
#endif
}

// Spins until done() or for `time`; returns done(). The first look at the clock comes late.
template <typename Done>
bool spin(const Done& done, std::chrono::nanoseconds time) {
  using Clock = std::chrono::steady_clock;
  constexpr int kLook = 64;
  Clock::time_point deadline;
  for (int spins = 1; !done(); ++spins) {
    cpu_relax();
    if (spins % kLook != 0) continue;
    const Clock::time_point now = Clock::now();
    if (spins == kLook) deadline = now + time;
    if (now >= deadline) return done();
  }
  return true;
}

}  // namespace

ThreadPool::ThreadPool(int num_threads) {
  if (num_threads > kMaxThreads) {
    throw Error(ErrorCode::kUsage, std::to_string(num_threads) + " threads: at most " +
                                       std::to_string(kMaxThreads) + " are possible");
  }
  start(num_threads > 0 ? num_threads : usable_cpus());
}

void ThreadPool::start(int threads) {
  num_workers_ = threads - 1;
  max_awake_ = affinity_cpus() - 1;
  workers_ = std::make_unique<Worker[]>(static_cast<size_t>(num_workers_));
  int started = 1;
  try {
    for (; started < threads; ++started) {
      workers_[started - 1].thread = std::thread([this, started] { work(started); });
    }
  } catch (const std::system_error& error) {
    stop();
    throw Error(ErrorCode::kUnavailable,
                "cannot start " + std::to_string(threads) + " threads, only " +
                    std::to_string(started) + " (" + error.code().message() +
                    "); use fewer (--threads, num_threads) or raise the limit on processes or "
                    "address space");
  } catch (...) {
    stop();
    throw;
  }
}

ThreadPool::~ThreadPool() { stop(); }

void ThreadPool::stop() {
  {
    std::lock_guard lock(mutex_);
    stop_.store(true, std::memory_order_relaxed);
    generation_.fetch_add(1, std::memory_order_seq_cst);
  }
  wake(num_workers_);
  resting_.notify_all();
  for (int i = 0; i < num_workers_; ++i) {
    if (workers_[i].thread.joinable()) workers_[i].thread.join();
  }
}

// Gets `count` sleeping workers up, as far as there are any.
void ThreadPool::wake(int count) {
  std::lock_guard lock(mutex_);  // a worker between its last look and its wait holds this mutex
  for (int i = 0; i < num_workers_ && count > 0; ++i) {
    if (!workers_[i].asleep) continue;
    workers_[i].asleep = false;
    sleepers_.fetch_sub(1, std::memory_order_relaxed);
    workers_[i].wake.notify_one();
    --count;
  }
}

void ThreadPool::open(const FunctionRef<void(int)>& fn, int wake_at_once) {
  task_ = &fn;
  begin_ = Clock::now();
  const uint32_t generation = generation_.load(std::memory_order_relaxed) + 1;
  region_.store(uint64_t{generation} << 32 | kOpen, std::memory_order_release);
  generation_.store(generation, std::memory_order_seq_cst);
  const int asleep = sleepers_.load(std::memory_order_seq_cst);
  if (asleep > 0 && (wake_at_once > kWakes || num_workers_ - asleep < max_awake_)) {
    wake(wake_at_once);
  }
}

void ThreadPool::close() {
  const uint64_t before = region_.fetch_sub(kOpen, std::memory_order_seq_cst);
  if ((before & kInside) == 0) return;
  wait_until([&] { return (region_.load(std::memory_order_seq_cst) & kInside) == 0; }, begin_,
             /*is_caller=*/true);
}

// Whether the newest region is still open; then this thread is inside. `generation`: of that
// region.
bool ThreadPool::enter(uint32_t& generation) {
  uint64_t region = region_.load(std::memory_order_acquire);
  while ((region & kOpen) != 0) {
    if (!region_.compare_exchange_weak(region, region + 1, std::memory_order_acq_rel,
                                       std::memory_order_acquire)) {
      continue;
    }
    generation = static_cast<uint32_t>(region >> 32);
    return true;
  }
  return false;
}

void ThreadPool::leave() {
  const uint64_t before = region_.fetch_sub(1, std::memory_order_seq_cst);
  if ((before & kOpen) == 0 && (before & kInside) == 1) notify_waiters();
}

void ThreadPool::run(FunctionRef<void(int)> fn) {
  if (num_workers_ == 0) {
    fn(0);
    return;
  }
  open(fn, kWakes);
  fn(0);
  close();
}

void ThreadPool::run_on_all(FunctionRef<void(int)> fn) {
  Phase calls(size());
  const auto call = [&](int thread) {
    fn(thread);
    finish(calls, 1);
  };
  const FunctionRef<void(int)> task = call;
  open(task, kMaxThreads);
  call(0);
  wait(calls, 0);
  close();
}

void ThreadPool::work(int thread) {
  Worker& self = workers_[thread - 1];
  uint32_t seen = 0;
  std::chrono::nanoseconds rest_time{0};
  Clock::time_point rested;
  // A region may be entered just before generation_ tells of it: older is not fresh. Wraps around.
  // The end is news as well: its generation may already be the one that was seen.
  const auto news = [&] {
    return static_cast<int32_t>(generation_.load(std::memory_order_seq_cst) - seen) > 0 ||
           stop_.load(std::memory_order_relaxed);
  };
  for (;;) {
    if (!spin(news, kIdleSpin)) {
      std::unique_lock lock(mutex_);
      sleepers_.fetch_add(1, std::memory_order_seq_cst);
      if (news()) {
        sleepers_.fetch_sub(1, std::memory_order_relaxed);
      } else {
        self.asleep = true;
        self.wake.wait(lock, [&] { return !self.asleep; });
      }
    }
    if (stop_.load(std::memory_order_relaxed)) return;
    if (!news()) continue;
    seen = generation_.load(std::memory_order_acquire);
    self.busy.store(true, std::memory_order_relaxed);
    if (enter(seen)) {
      const int asleep = sleepers_.load(std::memory_order_relaxed);
      if (asleep > 0 && num_workers_ - asleep < max_awake_) wake(kWakes);
      (*task_)(thread);
      self.busy.store(false, std::memory_order_relaxed);
      leave();
    }
    self.busy.store(false, std::memory_order_relaxed);
    if (!self.late.load(std::memory_order_relaxed)) continue;
    const bool again = Clock::now() < rested + 16 * rest_time;
    rest_time = again ? std::min(2 * rest_time, kLongestRest) : kFirstRest;
    rest(rest_time);
    rested = Clock::now();
    self.late.store(false, std::memory_order_relaxed);
  }
}

void ThreadPool::rest(Clock::duration time) {
  const auto until = Clock::now() + time;
  std::unique_lock lock(mutex_);
  resting_.wait_until(lock, until, [&] { return stop_.load(std::memory_order_relaxed); });
}

void ThreadPool::parallel_for(int64_t n, int64_t grain,
                              FunctionRef<void(int64_t, int64_t, int)> fn) {
  if (n <= 0) return;
  if (num_workers_ == 0 || n <= grain) {
    for (int64_t begin = 0; begin < n; begin += grain) fn(begin, std::min(begin + grain, n), 0);
    return;
  }
  std::atomic<int64_t> next{0};
  run([&](int thread) {
    for (;;) {
      const int64_t begin = next.fetch_add(grain, std::memory_order_relaxed);
      if (begin >= n) return;
      fn(begin, std::min(begin + grain, n), thread);
    }
  });
}

void ThreadPool::finish(Phase& phase, int64_t pieces) {
  if (pieces == 0 || num_workers_ == 0) {
    phase.left_.fetch_sub(pieces, std::memory_order_relaxed);
    return;
  }
  const int64_t before = phase.left_.fetch_sub(pieces, std::memory_order_seq_cst);
  if (before == pieces) notify_waiters();
}

void ThreadPool::wait(const Phase& phase, int thread) {
  const auto done = [&] { return phase.left_.load(std::memory_order_seq_cst) == 0; };
  if (done()) return;
  if (thread == 0) {
    wait_until(done, begin_, /*is_caller=*/true);
    return;
  }
  Worker& self = workers_[thread - 1];
  self.busy.store(false, std::memory_order_relaxed);
  wait_until(done, begin_, /*is_caller=*/false);
  self.busy.store(true, std::memory_order_relaxed);
}

// `begin`: of the region.
template <typename Done>
void ThreadPool::wait_until(const Done& done, Clock::time_point begin, bool is_caller) {
  if (spin(done, kPatience)) return;
  const auto worked = Clock::now() - kPatience - begin;
  if (spin(done, kPatienceTimesWork * worked)) return;
  if (is_caller) {
    for (int i = 0; i < num_workers_; ++i) {
      if (workers_[i].busy.load(std::memory_order_relaxed)) {
        workers_[i].late.store(true, std::memory_order_relaxed);
      }
    }
  }
  std::unique_lock lock(mutex_);
  waiters_.fetch_add(1, std::memory_order_seq_cst);
  over_.wait(lock, done);
  waiters_.fetch_sub(1, std::memory_order_relaxed);
}

// Whoever waits counts itself before its last look, and the last piece is counted before this look.
void ThreadPool::notify_waiters() {
  if (waiters_.load(std::memory_order_seq_cst) == 0) return;
  { std::lock_guard lock(mutex_); }  // a thread between its last look and its wait holds it
  over_.notify_all();
}

}  // namespace moe4
