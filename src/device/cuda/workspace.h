// Carves typed, aligned arrays out of a caller's workspace; with a null base it only measures.
#pragma once

#include <cstddef>
#include <cstdint>

namespace moe4::cuda {

class WorkspaceCarver {
 public:
  explicit WorkspaceCarver(std::byte* base = nullptr) : base_(base) {}

  /// The next array of `count` elements, 256-byte aligned. Null when measuring.
  template <typename T>
  T* take(int64_t count) {
    const size_t begin = used_;
    used_ += (static_cast<size_t>(count) * sizeof(T) + 255) / 256 * 256;
    return base_ == nullptr ? nullptr : reinterpret_cast<T*>(base_ + begin);
  }
  size_t used() const { return used_; }

 private:
  std::byte* base_;
  size_t used_ = 0;
};

}  // namespace moe4::cuda
