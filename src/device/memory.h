// Memory of a device, copies and streams: what owners of weights, caches and batches need, with one
// face for the CPU and for GPUs.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "base/aligned_buffer.h"
#include "device/stream.h"

namespace moe4 {

/// Frees a GPU's memory, or host memory that is pinned for it.
struct FreeGpuMemory {
  Device device;
  bool is_pinned = false;
  void operator()(std::byte* p) const;
};

/// Memory on a device, at least 64-byte aligned (256 on a GPU). Zeros on the CPU, anything on a
/// GPU. Throws OutOfMemory (CPU) or Error(kUnavailable) (GPU, naming how much is free) when memory
/// is short.
class DeviceMemory {
 public:
  DeviceMemory() = default;
  DeviceMemory(const Device& device, size_t bytes);
  std::byte* data() const { return data_; }
  size_t size() const { return size_; }

 private:
  AlignedBuffer host_;
  std::unique_ptr<std::byte, FreeGpuMemory> gpu_;
  std::byte* data_ = nullptr;
  size_t size_ = 0;
};

/// Host memory that a device copies from and to without a detour: pinned for a GPU.
class HostMemory {
 public:
  HostMemory() = default;
  HostMemory(const Device& device, size_t bytes);
  std::byte* data() const { return data_; }
  size_t size() const { return size_; }

 private:
  AlignedBuffer host_;
  std::unique_ptr<std::byte, FreeGpuMemory> pinned_;
  std::byte* data_ = nullptr;
  size_t size_ = 0;
};

/// Copies between a device, and host memory of its own kind or any. Enqueued on a GPU; host memory
/// must stay as it is until wait().
void copy(const Stream& stream, void* to, const void* from, size_t bytes);
/// copy() between a device and HostMemory made for it, of a step's few numbers: on a GPU a kernel
/// does it, up to a size, which follows the kernels before it sooner than a copy engine would. Both
/// addresses are multiples of 16.
void copy_little(const Stream& stream, void* to, const void* from, size_t bytes);
/// Until everything that was enqueued is done. Throws Error(kUnavailable) for what failed on the
/// device.
void wait(const Stream& stream);

/// A stream of its own on a device.
class OwnedStream {
 public:
  /// `threads` outlives it.
  OwnedStream(const Device& device, ThreadPool& threads);
  ~OwnedStream();
  OwnedStream(const OwnedStream&) = delete;
  OwnedStream& operator=(const OwnedStream&) = delete;
  const Stream& get() const { return stream_; }

 private:
  Stream stream_;
};

/// A place in what a stream does.
class Event {
 public:
  explicit Event(const Device& device);
  ~Event();
  Event(Event&& other) noexcept : device_(other.device_), handle_(other.handle_) {
    other.handle_ = nullptr;
  }
  Event& operator=(Event&&) = delete;
  /// The place behind everything enqueued so far.
  void record(const Stream& stream);
  /// Until the stream has come there.
  void wait() const;

 private:
  Device device_;
  void* handle_ = nullptr;
};

struct MemoryOfDevice {
  int64_t free = 0, total = 0;  ///< bytes
};
/// Of a GPU as a whole, other programs' use included.
MemoryOfDevice memory_of(const Device& gpu);

}  // namespace moe4
