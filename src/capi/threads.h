// The host threads that all layers of the process share.
#pragma once

#include <mutex>

#include "base/thread_pool.h"

namespace moe4::capi {

/// How many the pool will have; 0: one a core. Throws Error(kUsage) for a number out of range, or
/// another one than the pool has that layers use already.
void set_num_threads(int num_threads);

/// Started at the first call, there until the process ends: layers keep the reference. Throws as
/// ThreadPool does.
ThreadPool& shared_threads();

/// Held by whoever runs something on them.
std::mutex& shared_threads_mutex();

}  // namespace moe4::capi
