// Host memory here, a GPU's through cuda_memory.h.
#include "device/memory.h"

#include <cstring>

#include "base/error.h"
#include "device/cuda_memory.h"

namespace moe4 {

void FreeGpuMemory::operator()(std::byte* p) const { cuda::free_bytes(device, p, is_pinned); }

DeviceMemory::DeviceMemory(const Device& device, size_t bytes) : size_(bytes) {
  if (device.is_cpu()) {
    host_ = AlignedBuffer(bytes);
    data_ = host_.data();
  } else {
    gpu_ = {cuda::allocate_bytes(device, bytes), FreeGpuMemory{device, false}};
    data_ = gpu_.get();
  }
}

HostMemory::HostMemory(const Device& device, size_t bytes) : size_(bytes) {
  if (device.is_cpu()) {
    host_ = AlignedBuffer(bytes);
    data_ = host_.data();
  } else {
    pinned_ = {cuda::allocate_pinned_bytes(device, bytes), FreeGpuMemory{device, true}};
    data_ = pinned_.get();
  }
}

void copy(const Stream& stream, void* to, const void* from, size_t bytes) {
  if (bytes == 0) return;
  if (stream.device.is_cpu()) {
    std::memcpy(to, from, bytes);
  } else {
    cuda::copy_bytes(stream, to, from, bytes);
  }
}

void copy_little(const Stream& stream, void* to, const void* from, size_t bytes) {
  if (stream.device.is_cpu() || bytes == 0) return copy(stream, to, from, bytes);
  MOE4_CHECK(reinterpret_cast<uintptr_t>(to) % 16 == 0 &&
             reinterpret_cast<uintptr_t>(from) % 16 == 0);
  cuda::copy_little_bytes(stream, to, from, bytes);
}

void wait(const Stream& stream) {
  if (!stream.device.is_cpu()) cuda::wait_for(stream);
}

OwnedStream::OwnedStream(const Device& device, ThreadPool& threads)
    : stream_{.device = device, .threads = &threads} {
  if (!device.is_cpu()) stream_.handle = cuda::make_stream(device);
}

OwnedStream::~OwnedStream() {
  if (!stream_.device.is_cpu()) cuda::destroy_stream(stream_);
}

Event::Event(const Device& device) : device_(device) {
  if (!device.is_cpu()) handle_ = cuda::make_event(device);
}

Event::~Event() {
  if (handle_ != nullptr) cuda::destroy_event(handle_);
}

void Event::record(const Stream& stream) {
  if (handle_ != nullptr) cuda::record_event(handle_, stream);
}

void Event::wait() const {
  if (handle_ != nullptr) cuda::wait_for_event(handle_);
}

MemoryOfDevice memory_of(const Device& gpu) { return cuda::memory_of(gpu); }

}  // namespace moe4
