// Work items cut into one contiguous run a thread, with help for whoever is late.
#pragma once

#include <atomic>
#include <cstdint>
#include <new>

namespace moe4::cpu {

/// A thread takes the items of its own run in order, so that it streams through memory, and then
/// helps the next threads from the ends of their runs, so that all finish within one item of each
/// other and nobody takes what its owner already asked memory for.
class WorkRanges {
 public:
  struct alignas(64) Range {
    std::atomic<uint64_t> left{0};  // first item in the low half, one past the last in the high
  };

  WorkRanges() = default;
  /// `storage`: [threads] ranges, raw memory is fine; reset() comes first.
  WorkRanges(Range* storage, int threads) : ranges_(storage), threads_(threads) {}

  /// By one thread, before a barrier. Fewer than 2^31 items.
  void reset(int64_t items) {
    for (int t = 0; t < threads_; ++t) {
      Range* range = new (&ranges_[t]) Range;
      range->left.store(pack(items * t / threads_, items * (t + 1) / threads_),
                        std::memory_order_relaxed);
    }
  }

  /// The next item for `thread`; -1 when nothing is left.
  int64_t take(int thread) {
    for (int i = 0; i < threads_; ++i) {
      std::atomic<uint64_t>& left = ranges_[(thread + i) % threads_].left;
      uint64_t seen = left.load(std::memory_order_relaxed);
      while (first(seen) < end(seen)) {
        const bool own = i == 0;
        const uint64_t rest =
            own ? pack(first(seen) + 1, end(seen)) : pack(first(seen), end(seen) - 1);
        if (left.compare_exchange_weak(seen, rest, std::memory_order_relaxed)) {
          return own ? first(seen) : end(seen) - 1;
        }
      }
    }
    return -1;
  }

  /// What take() would return now.
  int64_t peek(int thread) const {
    for (int i = 0; i < threads_; ++i) {
      const uint64_t seen = ranges_[(thread + i) % threads_].left.load(std::memory_order_relaxed);
      if (first(seen) < end(seen)) return i == 0 ? first(seen) : end(seen) - 1;
    }
    return -1;
  }

 private:
  static uint64_t pack(int64_t first, int64_t end) {
    return static_cast<uint64_t>(first) | static_cast<uint64_t>(end) << 32;
  }
  static int64_t first(uint64_t left) { return static_cast<int64_t>(left & 0xffffffff); }
  static int64_t end(uint64_t left) { return static_cast<int64_t>(left >> 32); }

  Range* ranges_ = nullptr;
  int threads_ = 0;
};

}  // namespace moe4::cpu
