// The op suites on the GPU: every object of a test lies in pinned memory, which has the same
// address on the device.
#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstdlib>
#include <mutex>
#include <new>

#include "device/cuda/describe_device.h"
#include "device/cuda/device_buffer.h"
#include "support/cuda_calls.h"
#include "support/op_device.h"

namespace {

// Blocks of a power of two, never given back to the system. Without a GPU: malloc.
class PinnedHeap {
 public:
  void* allocate(size_t size) {
    const std::lock_guard lock(mutex_);
    const int order = order_of(size);
    if (void* p = free_[order]) {
      free_[order] = *static_cast<void**>(p);
      return p;
    }
    const size_t bytes = size_t{1} << order;
    if (bytes > kChunk) return pinned(bytes);
    if (left_ < bytes) {
      chunk_ = static_cast<std::byte*>(pinned(kChunk));
      left_ = chunk_ != nullptr ? kChunk : 0;
      if (chunk_ == nullptr) return nullptr;
    }
    // Chunks begin aligned and orders only shrink what is left, so that small blocks may follow.
    left_ -= bytes;
    return chunk_ + left_;
  }
  void give_back(void* p, size_t size) {
    const std::lock_guard lock(mutex_);
    const int order = order_of(size);
    *static_cast<void**>(p) = free_[order];
    free_[order] = p;
  }

 private:
  static constexpr size_t kChunk = size_t{64} << 20;
  static int order_of(size_t size) { return std::bit_width(std::max<size_t>(size, 64) - 1); }
  static void* pinned(size_t bytes) {
    void* p = nullptr;
    if (cudaHostAlloc(&p, bytes, cudaHostAllocDefault) == cudaSuccess) return p;
    cudaGetLastError();
    return std::aligned_alloc(4096, bytes);
  }

  std::mutex mutex_;
  std::array<void*, 48> free_{};
  std::byte* chunk_ = nullptr;
  size_t left_ = 0;
};

// Never destroyed: objects outlive it.
PinnedHeap& heap() {
  alignas(PinnedHeap) static std::byte memory[sizeof(PinnedHeap)];
  static PinnedHeap* const heap = new (memory) PinnedHeap;
  return *heap;
}

constexpr size_t kHeader = 64;  // the size, and alignment for what follows

}  // namespace

void* operator new(size_t size) {
  moe4::testing::count_host_allocation();
  auto* p = static_cast<std::byte*>(heap().allocate(size + kHeader));
  if (p == nullptr) throw std::bad_alloc();
  *reinterpret_cast<size_t*>(p) = size + kHeader;
  return p + kHeader;
}
void operator delete(void* p) noexcept {
  if (p == nullptr) return;
  std::byte* begin = static_cast<std::byte*>(p) - kHeader;
  heap().give_back(begin, *reinterpret_cast<size_t*>(begin));
}
void operator delete(void* p, size_t) noexcept { operator delete(p); }

namespace moe4::testing {
namespace {

Device gpu() {
  static const Device device = cuda::describe_device(0);
  return device;
}

}  // namespace

std::vector<OpOptions> op_options(ThreadPool& threads) {
  if (gpu().is_cpu()) return {};
  return {{.device = gpu(), .threads = &threads}};
}

std::string name_of(const OpOptions& options) { return to_string(options.device); }

std::vector<RowFormat> activation_formats() { return {RowFormat::kF32, RowFormat::kBf16}; }

void run_on_device(const Device& device, size_t bytes, ThreadPool& threads,
                   const std::function<void(std::span<std::byte>, const Stream&)>& f) {
  static bool capture = false;
  capture = !capture;
  cudaStream_t stream = nullptr;
  MOE4_CUDA_CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  const auto memory = cuda::allocate_device<std::byte>(static_cast<int64_t>(bytes));
  if (bytes > 0) MOE4_CUDA_CHECK(cudaMemsetAsync(memory.get(), 0xff, bytes, stream));
  MOE4_CUDA_CHECK(cudaStreamSynchronize(stream));
  if (capture) MOE4_CUDA_CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  const CudaCalls before = cuda_calls();
  f({memory.get(), bytes}, {.device = device, .threads = &threads, .handle = stream});
  const CudaCalls after = cuda_calls();
  EXPECT_EQ(after.host_allocations - before.host_allocations, 0)
      << "an op must not allocate while it runs";
  EXPECT_EQ(after.allocations - before.allocations, 0) << "nor device memory";
  EXPECT_EQ(after.frees - before.frees, 0) << "nor free it";
  EXPECT_EQ(after.synchronisations - before.synchronisations, 0) << "nor wait";
  if (capture) {
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t exec = nullptr;
    MOE4_CUDA_CHECK(cudaStreamEndCapture(stream, &graph));
    MOE4_CUDA_CHECK(cudaGraphInstantiate(&exec, graph, 0));
    MOE4_CUDA_CHECK(cudaGraphLaunch(exec, stream));
    MOE4_CUDA_CHECK(cudaStreamSynchronize(stream));
    MOE4_CUDA_CHECK(cudaGraphExecDestroy(exec));
    MOE4_CUDA_CHECK(cudaGraphDestroy(graph));
  }
  MOE4_CUDA_CHECK(cudaStreamSynchronize(stream));
  MOE4_CUDA_CHECK(cudaStreamDestroy(stream));
}

}  // namespace moe4::testing
