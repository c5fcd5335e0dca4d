// Work items cut into one contiguous run a thread, with help for whoever is late.
#pragma once

#include <atomic>
#include <cstdint>
#include <new>

namespace moe4::cpu {

/// A thread takes the items of its own run in order, so that it streams through memory, and then
/// those of the next threads' runs, so that all finish within one item of each other.
class WorkRanges {
 public:
  struct alignas(64) Range {
    std::atomic<int64_t> next{0};
    int64_t end = 0;
  };

  WorkRanges() = default;
  /// `storage`: [threads] ranges, raw memory is fine; reset() comes first.
  WorkRanges(Range* storage, int threads) : ranges_(storage), threads_(threads) {}

  /// By one thread, before a barrier.
  void reset(int64_t items) {
    for (int t = 0; t < threads_; ++t) {
      Range* range = new (&ranges_[t]) Range;
      range->next.store(items * t / threads_, std::memory_order_relaxed);
      range->end = items * (t + 1) / threads_;
    }
  }

  /// The next item for `thread`; -1 when nothing is left.
  int64_t take(int thread) {
    for (int i = 0; i < threads_; ++i) {
      Range& range = ranges_[(thread + i) % threads_];
      if (range.next.load(std::memory_order_relaxed) >= range.end) continue;
      const int64_t item = range.next.fetch_add(1, std::memory_order_relaxed);
      if (item < range.end) return item;
    }
    return -1;
  }

 private:
  Range* ranges_ = nullptr;
  int threads_ = 0;
};

}  // namespace moe4::cpu
