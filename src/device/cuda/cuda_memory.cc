// Memory, copies and streams by the CUDA runtime.
#include "device/cuda_memory.h"

#include <fmt/format.h>

#include "base/error.h"
#include "device/cuda/device_buffer.h"

namespace moe4::cuda {
namespace {

cudaStream_t handle_of(const Stream& stream) { return static_cast<cudaStream_t>(stream.handle); }

}  // namespace

std::byte* allocate_bytes(const Device& device, size_t bytes) {
  if (bytes == 0) return nullptr;
  const DeviceGuard guard(device.index);
  void* p = nullptr;
  const cudaError_t error = cudaMalloc(&p, bytes);
  if (error == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    const MemoryOfDevice memory = cuda::memory_of(device);
    throw Error(ErrorCode::kUnavailable,
                fmt::format("GPU {} has no room for {:.2f} GB: {:.2f} of its {:.2f} GB are free",
                            device.index, static_cast<double>(bytes) / 1e9,
                            static_cast<double>(memory.free) / 1e9,
                            static_cast<double>(memory.total) / 1e9));
  }
  MOE4_CUDA_CHECK(error);
  return static_cast<std::byte*>(p);
}

std::byte* allocate_pinned_bytes(const Device& device, size_t bytes) {
  if (bytes == 0) return nullptr;
  const DeviceGuard guard(device.index);
  void* p = nullptr;
  MOE4_CUDA_CHECK(cudaMallocHost(&p, bytes));
  return static_cast<std::byte*>(p);
}

void free_bytes(const Device& device, std::byte* p, bool is_pinned) {
  if (p == nullptr) return;
  const DeviceGuard guard(device.index);
  if (is_pinned) {
    cudaFreeHost(p);
  } else {
    cudaFree(p);
  }
}

void copy_bytes(const Stream& stream, void* to, const void* from, size_t bytes) {
  MOE4_CUDA_CHECK(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, handle_of(stream)));
}

void wait_for(const Stream& stream) { MOE4_CUDA_CHECK(cudaStreamSynchronize(handle_of(stream))); }

void* make_stream(const Device& device) {
  const DeviceGuard guard(device.index);
  cudaStream_t stream = nullptr;
  MOE4_CUDA_CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  return stream;
}

void destroy_stream(const Stream& stream) { cudaStreamDestroy(handle_of(stream)); }

void* make_event(const Device& device) {
  const DeviceGuard guard(device.index);
  cudaEvent_t event = nullptr;
  MOE4_CUDA_CHECK(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
  return event;
}

void destroy_event(void* event) { cudaEventDestroy(static_cast<cudaEvent_t>(event)); }

void record_event(void* event, const Stream& stream) {
  MOE4_CUDA_CHECK(cudaEventRecord(static_cast<cudaEvent_t>(event), handle_of(stream)));
}

void wait_for_event(void* event) {
  MOE4_CUDA_CHECK(cudaEventSynchronize(static_cast<cudaEvent_t>(event)));
}

MemoryOfDevice memory_of(const Device& device) {
  const DeviceGuard guard(device.index);
  size_t free = 0, total = 0;
  MOE4_CUDA_CHECK(cudaMemGetInfo(&free, &total));
  return {static_cast<int64_t>(free), static_cast<int64_t>(total)};
}

}  // namespace moe4::cuda
