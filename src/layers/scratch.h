// Stack-like memory for activations: grows while a model warms up, then never allocates.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/aligned_buffer.h"
#include "numerics/bf16.h"

namespace moe4 {

/// Not thread-safe: taken from by the thread that drives the layers. Memory is 64-byte aligned and
/// not cleared.
class Scratch {
 public:
  /// Gives back everything taken during its life.
  class Frame {
   public:
    explicit Frame(Scratch& scratch)
        : scratch_(scratch), block_(scratch.block_), used_(scratch.used_) {}
    ~Frame() {
      scratch_.block_ = block_;
      scratch_.used_ = used_;
    }
    Frame(const Frame&) = delete;
    Frame& operator=(const Frame&) = delete;

   private:
    Scratch& scratch_;
    size_t block_, used_;
  };

  template <typename T>
  T* take(int64_t count) {
    return reinterpret_cast<T*>(bytes(static_cast<size_t>(count) * sizeof(T)));
  }
  std::byte* bytes(size_t size);

 private:
  std::vector<AlignedBuffer> blocks_;
  size_t block_ = 0;  // current block; the ones after it are free
  size_t used_ = 0;   // bytes taken of it
};

}  // namespace moe4
