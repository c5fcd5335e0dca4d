// A fixed set of threads that runs one function on all of them; dispatch allocates nothing.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

#include "base/function_ref.h"

namespace moe4 {

/// The calling thread is thread 0 and does its share. Workers spin for a short while after a run,
/// so that the next one of a decode step finds them awake, and then sleep. Not reentrant: one run
/// at a time.
class ThreadPool {
 public:
  /// `num_threads` counts the caller; 0 means all hardware threads this process may use.
  explicit ThreadPool(int num_threads = 0);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const { return static_cast<int>(workers_.size()) + 1; }

  /// Calls fn(thread) for every thread in [0, size()) and returns when all calls have returned. fn
  /// must not throw.
  void run(FunctionRef<void(int thread)> fn);

  /// Cuts [0, n) into chunks of `grain` handed out in order; fn(begin, end, thread). fn must not
  /// throw.
  void parallel_for(int64_t n, int64_t grain,
                    FunctionRef<void(int64_t begin, int64_t end, int thread)> fn);

  /// A barrier inside run(): returns once every thread of the pool has called it.
  void barrier();

 private:
  void worker(int thread);

  std::vector<std::thread> workers_;
  const FunctionRef<void(int)>* task_ = nullptr;
  alignas(64) std::atomic<uint64_t> generation_{0};  // bumped once a run
  alignas(64) std::atomic<int> running_{0};          // workers that have not finished this run
  alignas(64) std::atomic<int> barrier_arrived_{0};
  alignas(64) std::atomic<uint64_t> barrier_phase_{0};
  std::atomic<int> sleepers_{0};
  std::atomic<bool> stop_{false};
  std::mutex mutex_;
  std::condition_variable wake_;
};

}  // namespace moe4
