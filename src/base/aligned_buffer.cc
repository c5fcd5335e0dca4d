// Anonymous mappings with a huge-page hint.
#include "base/aligned_buffer.h"

#include <sys/mman.h>

#include <cstdint>
#include <limits>

#include "base/memory_limit.h"

namespace moe4 {
namespace {

constexpr size_t kHugePage = size_t{2} << 20;
constexpr size_t kPage = 4096;

}  // namespace

AlignedBuffer::AlignedBuffer(size_t bytes) : size_(bytes) {
  if (bytes == 0) return;
  const size_t align = bytes >= kHugePage ? kHugePage : kPage;
  if (bytes > SIZE_MAX - 2 * kHugePage) {
    throw OutOfMemory(std::numeric_limits<int64_t>::max());
  }
  const size_t rounded = (bytes + align - 1) / align * align;
  const size_t reserve = rounded + (align > kPage ? align : 0);
  void* mapped = mmap(nullptr, reserve, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) {
    throw OutOfMemory(static_cast<int64_t>(bytes));
  }
  const auto start = reinterpret_cast<uintptr_t>(mapped);
  const uintptr_t aligned = (start + align - 1) / align * align;
  if (aligned > start) munmap(mapped, aligned - start);
  if (start + reserve > aligned + rounded) {
    munmap(reinterpret_cast<void*>(aligned + rounded), start + reserve - (aligned + rounded));
  }
  if (align == kHugePage) madvise(reinterpret_cast<void*>(aligned), rounded, MADV_HUGEPAGE);
  data_ = std::unique_ptr<std::byte, UnmapMemory>(reinterpret_cast<std::byte*>(aligned),
                                                  UnmapMemory{rounded});
}

void UnmapMemory::operator()(std::byte* p) const { munmap(p, bytes); }

}  // namespace moe4
