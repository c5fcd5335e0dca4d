// A list that a signal handler may walk while threads add and remove entries.
#pragma once

#include <atomic>
#include <type_traits>

namespace moe4 {

/// Entries are never freed but used again, so that a walk is safe at any time. `T` is copied as
/// bytes.
template <typename T>
class SignalSafeList {
  static_assert(std::is_trivially_copyable_v<T>);

 public:
  struct Entry {
    std::atomic<int> state{kFree};
    T value;
    Entry* next = nullptr;
  };

  Entry* add(const T& value) {
    for (Entry* e = head_.load(std::memory_order_acquire); e != nullptr; e = e->next) {
      int expected = kFree;
      if (!e->state.compare_exchange_strong(expected, kClaimed, std::memory_order_acq_rel))
        continue;
      e->value = value;
      e->state.store(kLive, std::memory_order_release);
      return e;
    }
    auto* fresh = new Entry;
    fresh->value = value;
    fresh->state.store(kLive, std::memory_order_relaxed);
    fresh->next = head_.load(std::memory_order_relaxed);
    while (!head_.compare_exchange_weak(fresh->next, fresh, std::memory_order_acq_rel)) {
    }
    return fresh;
  }
  void remove(Entry* entry) { entry->state.store(kFree, std::memory_order_release); }

  /// fn(value) for every entry. Async-signal-safe when fn is.
  template <typename Fn>
  void for_each(const Fn& fn) const {
    for (const Entry* e = head_.load(std::memory_order_acquire); e != nullptr; e = e->next) {
      if (e->state.load(std::memory_order_acquire) == kLive) fn(e->value);
    }
  }

 private:
  static constexpr int kFree = 0, kClaimed = 1, kLive = 2;

  std::atomic<Entry*> head_{nullptr};
};

}  // namespace moe4
