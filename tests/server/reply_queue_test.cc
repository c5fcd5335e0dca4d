// What became of answers reaches who writes them: all of it, in order, on another thread.
#include "server/reply_queue.h"

#include <gtest/gtest.h>

#include <future>
#include <thread>

namespace moe4::server {
namespace {

class Notes : public ReplyTaker {
 public:
  void take(size_t index, AnswerEvent event) noexcept override {
    thread = std::this_thread::get_id();
    if (index == 0) allowed.get_future().wait();  // the first one holds all others up
    texts += std::get<AnswerPiece>(event).text;
    if (texts.size() == 3) third.set_value();
  }

  std::promise<void> allowed, third;
  std::string texts;
  std::thread::id thread;
};

AnswerEvent piece(std::string text) { return AnswerPiece{.text = std::move(text)}; }

TEST(ReplyQueue, KeepsTheOrderWhileThePusherGoesOn) {
  ReplyQueue queue;
  const auto notes = std::make_shared<Notes>();
  queue.push(notes, 0, piece("a"));
  queue.flush();
  queue.push(notes, 1, piece("b"));
  queue.flush();
  queue.push(notes, 2, piece("c"));
  queue.flush();
  notes->allowed.set_value();
  notes->third.get_future().wait();
  EXPECT_EQ(notes->texts, "abc");
  EXPECT_NE(notes->thread, std::this_thread::get_id());
}

TEST(ReplyQueue, StoppingHandsOutWhatIsThere) {
  const auto notes = std::make_shared<Notes>();
  ReplyQueue queue;
  queue.push(notes, 0, piece("a"));
  queue.flush();
  queue.push(notes, 1, piece("b"));  // not flushed
  notes->allowed.set_value();
  queue.stop();
  EXPECT_EQ(notes->texts, "ab");
  EXPECT_EQ(notes.use_count(), 1);
}

}  // namespace
}  // namespace moe4::server
