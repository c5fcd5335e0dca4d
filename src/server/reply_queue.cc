// What became of answers, by the step.
#include "server/reply_queue.h"

#include <iterator>
#include <utility>

namespace moe4::server {

ReplyQueue::ReplyQueue() : thread_([this] { run(); }) {}

void ReplyQueue::flush() {
  if (pushed_.empty()) return;
  {
    std::unique_lock lock(mutex_);
    has_room_.wait(lock, [&] { return told_.size() < kMost; });
    if (told_.empty()) {
      told_.swap(pushed_);
    } else {
      std::move(pushed_.begin(), pushed_.end(), std::back_inserter(told_));
    }
  }
  pushed_.clear();
  wake_.notify_one();
}

void ReplyQueue::stop() {
  if (!thread_.joinable()) return;
  flush();
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_one();
  thread_.join();
}

void ReplyQueue::run() {
  std::vector<Told> told;
  for (;;) {
    {
      std::unique_lock lock(mutex_);
      wake_.wait(lock, [&] { return stopping_ || !told_.empty(); });
      if (told_.empty()) return;
      told.swap(told_);
    }
    has_room_.notify_one();
    for (Told& one : told) one.to->take(one.index, std::move(one.event));
    told.clear();
  }
}

}  // namespace moe4::server
