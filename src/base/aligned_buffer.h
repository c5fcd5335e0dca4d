// Owning, aligned, optionally huge-page memory for packed weights and workspaces.
#pragma once

#include <cstddef>
#include <memory>

namespace moe4 {

struct UnmapMemory {
  size_t bytes = 0;
  void operator()(std::byte* p) const;
};

/// 64-byte aligned; from 2 MiB up it is 2 MiB aligned and asks for transparent huge pages (2 MiB
/// pages are worth 20 % of streaming bandwidth). Contents start as zeros. Throws
/// OutOfMemory when memory is short.
class AlignedBuffer {
 public:
  AlignedBuffer() = default;
  explicit AlignedBuffer(size_t bytes);
  std::byte* data() { return data_.get(); }
  const std::byte* data() const { return data_.get(); }
  size_t size() const { return size_; }

 private:
  std::unique_ptr<std::byte, UnmapMemory> data_;
  size_t size_ = 0;
};

}  // namespace moe4
