// A fixed set of threads that share the work of short parallel regions; dispatch allocates nothing.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>

#include "base/function_ref.h"

namespace moe4 {

/// The calling thread is thread 0. A region is over when its work is done, not when every thread
/// has looked in: on a busy machine a worker may be without a core for milliseconds, and then
/// whoever runs takes the work that nobody has taken. Only a piece of work that somebody has begun
/// is waited for.
///
/// Threads that wait spin for a short while, so that the next region of a decode step finds them
/// awake, and then sleep. A worker that let the others wait since it lost its core stays out for a
/// while, longer each time. Not reentrant: one region at a time.
class ThreadPool {
 public:
  static constexpr int kMaxThreads = 1024;

  /// `num_threads` counts the caller; 0 and less mean usable_cpus(). Throws Error(kUsage) above
  /// kMaxThreads and Error(kUnavailable) when the system refuses a thread.
  explicit ThreadPool(int num_threads = 0);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const { return num_workers_ + 1; }

  /// Calls fn(0) here and fn(thread), at most once each, on the workers that turn up before fn(0)
  /// has returned; returns when all calls that began have returned. So fn takes its work in pieces
  /// from something that all share (WorkRanges, a counter) until nothing is left. fn must not
  /// throw.
  void run(FunctionRef<void(int thread)> fn);

  /// Calls fn(thread) once on every thread in [0, size()) and waits for all of them: for
  /// measurements and for memory that each thread should touch first. fn must not throw.
  void run_on_all(FunctionRef<void(int thread)> fn);

  /// Cuts [0, n) into chunks of `grain` handed out in order; fn(begin, end, thread). fn must not
  /// throw.
  void parallel_for(int64_t n, int64_t grain,
                    FunctionRef<void(int64_t begin, int64_t end, int thread)> fn);

  /// The pieces of one phase inside run() that are not done yet, whoever does them.
  class Phase {
   public:
    explicit Phase(int64_t pieces) : left_(pieces) {}

   private:
    friend class ThreadPool;
    alignas(64) std::atomic<int64_t> left_;
  };
  /// Says that the calling thread has done `pieces` of the phase.
  void finish(Phase& phase, int64_t pieces);
  /// Returns once all pieces of the phase are done, and sees what was written by them. `thread`:
  /// the calling one, as run() numbers it.
  void wait(const Phase& phase, int thread);

 private:
  using Clock = std::chrono::steady_clock;
  struct alignas(64) Worker {
    std::thread thread;
    std::atomic<bool> busy{false};  // inside a region and not waiting for others
    std::atomic<bool> late{false};  // the caller has lost patience with it
    bool asleep = false;            // until somebody wakes it; guarded by mutex_
    std::condition_variable wake;
  };

  void start(int threads);
  void stop();
  void work(int thread);
  void rest(Clock::duration time);
  void open(const FunctionRef<void(int)>& fn, int wake_at_once);
  void close();
  bool enter(uint32_t& generation);
  void leave();
  void wake(int count);
  template <typename Done>
  void wait_until(const Done& done, Clock::time_point begin, bool is_caller);
  void notify_waiters();

  std::unique_ptr<Worker[]> workers_;  // [num_workers_]
  int num_workers_ = 0;
  int max_awake_ = 0;  // workers worth waking: one a core beside the caller's
  const FunctionRef<void(int)>* task_ = nullptr;
  Clock::time_point begin_;                          // of the newest region
  alignas(64) std::atomic<uint32_t> generation_{0};  // of the newest region
  // The newest region: generation << 32 | whether workers may enter << 31 | workers inside.
  alignas(64) std::atomic<uint64_t> region_{0};
  alignas(64) std::atomic<int> sleepers_{0};  // workers asleep whom nobody has woken yet
  std::atomic<int> waiters_{0};               // threads asleep until a phase or region is over
  std::atomic<bool> stop_{false};
  std::mutex mutex_;
  std::condition_variable over_, resting_;
};

}  // namespace moe4
