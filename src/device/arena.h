// A stack of memory for what lives within one step.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace moe4 {

/// Hands out parts of one allocation, so that a step allocates nothing. A measuring arena has no
/// memory: it hands out null and remembers the most that was taken at once. Whoever needs to know
/// how much a piece of code takes runs that same code with a measuring arena, so the two cannot
/// drift apart. Not thread-safe; taken from by the thread that drives a step.
class Arena {
 public:
  static constexpr size_t kAlignment = 256;  ///< of everything handed out

  /// `memory`, 256-byte aligned, stays the caller's and must outlive the arena.
  explicit Arena(std::span<std::byte> memory);
  /// The aligned part of memory that begins anywhere: up to kAlignment bytes are lost.
  static Arena within(std::span<std::byte> memory);
  /// An arena that only counts.
  static Arena measuring();

  bool is_measuring() const { return measuring_; }
  /// The most bytes taken at once so far.
  size_t peak() const { return peak_; }

  /// `count` values of T, not initialised. Throws Error(kInternal) when the arena is too small:
  /// its size comes from a measuring run, so that is a mistake of ours.
  template <typename T>
  T* take(int64_t count) {
    return reinterpret_cast<T*>(bytes(static_cast<size_t>(count) * sizeof(T)));
  }
  std::byte* bytes(size_t size);

  /// Gives back everything taken during its life.
  class Frame {
   public:
    explicit Frame(Arena& arena) : arena_(arena), used_(arena.used_) {}
    ~Frame() { arena_.used_ = used_; }
    Frame(const Frame&) = delete;
    Frame& operator=(const Frame&) = delete;

   private:
    Arena& arena_;
    size_t used_;
  };

 private:
  Arena() = default;

  std::span<std::byte> memory_;
  size_t used_ = 0;
  size_t peak_ = 0;
  bool measuring_ = false;
};

}  // namespace moe4
