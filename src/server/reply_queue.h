// A thread on which answers become replies, so that the engine's thread does not wait for JSON and
// sockets.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "server/answer.h"

namespace moe4::server {

/// Who makes a reply of what becomes of its answers.
class ReplyTaker {
 public:
  virtual ~ReplyTaker() = default;
  virtual void take(size_t index, AnswerEvent event) noexcept = 0;
};

class ReplyQueue {
 public:
  ReplyQueue();
  ~ReplyQueue() { stop(); }
  ReplyQueue(const ReplyQueue&) = delete;
  ReplyQueue& operator=(const ReplyQueue&) = delete;

  /// `to` takes it after all that was pushed before. push() and flush() belong to one thread, the
  /// engine's.
  void push(std::shared_ptr<ReplyTaker> to, size_t index, AnswerEvent event) {
    pushed_.push_back({std::move(to), index, std::move(event)});
  }
  /// Hands over what was pushed: one wake-up for all of it. Waits while far too much is there.
  void flush();
  /// Hands out what there is and ends the thread. Nobody pushes any more.
  void stop();

 private:
  static constexpr size_t kMost = 65536;

  struct Told {
    std::shared_ptr<ReplyTaker> to;
    size_t index;
    AnswerEvent event;
  };

  void run();

  std::vector<Told> pushed_;  // of the pusher's thread
  std::mutex mutex_;          // of what follows
  std::condition_variable wake_, has_room_;
  std::vector<Told> told_;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace moe4::server
