// Bookkeeping of the stack.
#include "device/arena.h"

#include <algorithm>

#include "base/error.h"

namespace moe4 {

Arena::Arena(std::span<std::byte> memory) : memory_(memory) {
  MOE4_CHECK(reinterpret_cast<uintptr_t>(memory.data()) % kAlignment == 0);
}

Arena Arena::within(std::span<std::byte> memory) {
  const size_t over = reinterpret_cast<uintptr_t>(memory.data()) % kAlignment;
  return Arena(memory.subspan(over == 0 ? 0 : kAlignment - over));
}

Arena Arena::measuring() {
  Arena arena;
  arena.measuring_ = true;
  return arena;
}

std::byte* Arena::bytes(size_t size) {
  const size_t begin = used_;
  used_ += (size + kAlignment - 1) / kAlignment * kAlignment;
  peak_ = std::max(peak_, used_);
  if (measuring_) return nullptr;
  MOE4_CHECK(used_ <= memory_.size());
  return memory_.data() + begin;
}

}  // namespace moe4
