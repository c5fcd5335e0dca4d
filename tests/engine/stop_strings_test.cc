// Stop strings however they are cut into pieces.
#include "engine/stop_strings.h"

#include <gtest/gtest.h>

namespace moe4 {
namespace {

// Feeds `text` in pieces of `size` bytes; what was shown, and whether a stop string ended it.
std::pair<std::string, bool> feed(const std::vector<std::string>& stops, const std::string& text,
                                  size_t size) {
  StopStrings watcher(stops);
  std::string shown;
  for (size_t at = 0; at < text.size() && !watcher.found(); at += size) {
    shown += watcher.push(text.substr(at, size));
  }
  const bool found = watcher.found();
  shown += watcher.finish();
  return {shown, found};
}

TEST(StopStrings, AreFoundHoweverTheTextIsCut) {
  for (size_t size = 1; size < 20; ++size) {
    EXPECT_EQ(feed({"\n\nUser:"}, "Hello\n\nUser: hi", size),
              std::pair("Hello" + std::string(), true))
        << size;
  }
}

TEST(StopStrings, TextThatOnlyBeginsLikeOneIsShownInTheEnd) {
  for (size_t size = 1; size < 12; ++size) {
    EXPECT_EQ(feed({"abcd"}, "xxabcabx abc", size), std::pair(std::string("xxabcabx abc"), false));
  }
}

TEST(StopStrings, RepeatedBeginningsAreFoundToo) {
  for (size_t size = 1; size < 8; ++size) {
    EXPECT_EQ(feed({"aab"}, "aaaab", size), std::pair(std::string("aa"), true));
  }
}

TEST(StopStrings, TheEarliestOfSeveralCuts) {
  for (size_t size = 1; size < 8; ++size) {
    EXPECT_EQ(feed({"two", "on"}, "zero one two", size), std::pair(std::string("zero "), true));
  }
}

TEST(StopStrings, SayWhichHasCome) {
  StopStrings watcher({"two", "one"});
  watcher.push("zero on");
  EXPECT_EQ(watcher.which(), "");
  watcher.push("e two");
  EXPECT_EQ(watcher.which(), "one");
}

TEST(StopStrings, NothingIsHeldBackThatCannotBeginOne) {
  StopStrings watcher({"stop"});
  EXPECT_EQ(watcher.push("hello"), "hello");
  EXPECT_EQ(watcher.push(" s"), " ");
  EXPECT_EQ(watcher.push("t"), "");
  EXPECT_EQ(watcher.push("ay"), "stay");
}

TEST(StopStrings, EmptyOnesNeverStop) {
  EXPECT_EQ(feed({""}, "text", 1), std::pair(std::string("text"), false));
}

}  // namespace
}  // namespace moe4
