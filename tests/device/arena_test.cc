// The stack of memory that steps run in.
#include "device/arena.h"

#include <gtest/gtest.h>

#include "base/aligned_buffer.h"
#include "base/error.h"

namespace moe4 {
namespace {

// Some code that takes memory: what it takes at once is 256 + 1024 + 512 bytes.
std::byte* work(Arena& arena) {
  Arena::Frame frame(arena);
  std::byte* first = arena.bytes(1);
  arena.take<float>(256);
  {
    Arena::Frame inner(arena);
    arena.bytes(257);
  }
  arena.bytes(300);
  return first;
}

TEST(Arena, MeasuringFindsWhatTheSameCodeThenNeeds) {
  Arena measuring = Arena::measuring();
  EXPECT_EQ(work(measuring), nullptr);
  ASSERT_EQ(measuring.peak(), 256u + 1024 + 512);

  AlignedBuffer memory(measuring.peak() + 256);
  const auto offset = -reinterpret_cast<uintptr_t>(memory.data()) % Arena::kAlignment;
  Arena arena({memory.data() + offset, measuring.peak()});
  for (int round = 0; round < 2; ++round) EXPECT_EQ(work(arena), memory.data() + offset);
  EXPECT_EQ(arena.peak(), measuring.peak());
}

TEST(Arena, RunningOutIsAnErrorAndNotForeignMemory) {
  Arena measuring = Arena::measuring();
  work(measuring);
  AlignedBuffer memory(size_t{4} << 20);  // 2 MiB aligned
  Arena arena({memory.data(), measuring.peak() - 1});
  EXPECT_THROW(work(arena), Error);
}

TEST(Arena, EverythingIsAligned) {
  AlignedBuffer memory(size_t{4} << 20);
  Arena arena({memory.data(), memory.size()});
  for (const size_t size : {1, 255, 256, 257}) {
    EXPECT_EQ(reinterpret_cast<uintptr_t>(arena.bytes(size)) % Arena::kAlignment, 0u);
  }
}

}  // namespace
}  // namespace moe4
