// One pool, never destroyed: threads of other libraries may outlive our statics.
#include "capi/threads.h"

#include <pthread.h>

#include <atomic>
#include <string>

#include "base/error.h"

namespace moe4::capi {
namespace {

std::mutex making;
int wanted = 0;
ThreadPool* pool = nullptr;
std::atomic<bool> is_forked_child{false};

}  // namespace

void set_num_threads(int num_threads) {
  const std::lock_guard lock(making);
  if (num_threads < 0 || num_threads > ThreadPool::kMaxThreads) {
    throw Error(ErrorCode::kUsage, "moe4_set_num_threads: num_threads is " +
                                       std::to_string(num_threads) + ", expected 0 to " +
                                       std::to_string(ThreadPool::kMaxThreads));
  }
  if (pool != nullptr && num_threads != wanted) {
    throw Error(ErrorCode::kUsage,
                "moe4_set_num_threads: num_threads is " + std::to_string(num_threads) +
                    ", but layers use " + std::to_string(pool->size()) +
                    " threads already; set it before the first layer is created");
  }
  wanted = num_threads;
}

ThreadPool& shared_threads() {
  const std::lock_guard lock(making);
  if (is_forked_child.load()) {
    throw Error(ErrorCode::kUsage,
                "this process was forked from one that has layers already, and its threads did not "
                "come along; fork before the first layer is created, or spawn");
  }
  if (pool == nullptr) {
    pool = new ThreadPool(wanted);  // NOLINT: outlives everything
    pthread_atfork(nullptr, nullptr, [] { is_forked_child.store(true); });
  }
  return *pool;
}

std::mutex& shared_threads_mutex() {
  static std::mutex& mutex = *new std::mutex;  // NOLINT: outlives everything
  return mutex;
}

}  // namespace moe4::capi
