// The wrappers. The list of wrapped functions is in CMakeLists.txt beside this file.
#include "support/cuda_calls.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdlib>
#include <mutex>
#include <unordered_map>

namespace moe4::testing {
namespace {

struct State {
  std::mutex mutex;
  CudaCalls calls;
  std::unordered_map<void*, int64_t> sizes;
  int64_t bytes = 0, peak = 0;
};
State& state() {
  static State s;
  return s;
}
thread_local int64_t host_allocations = 0;

cudaError_t allocated(cudaError_t result, void** p, size_t bytes, bool on_device) {
  State& s = state();
  const std::lock_guard lock(s.mutex);
  ++s.calls.allocations;
  if (result == cudaSuccess && on_device) {
    s.sizes[*p] = static_cast<int64_t>(bytes);
    s.bytes += static_cast<int64_t>(bytes);
    s.peak = std::max(s.peak, s.bytes);
  }
  return result;
}

void freed(void* p) {
  State& s = state();
  const std::lock_guard lock(s.mutex);
  ++s.calls.frees;
  const auto found = s.sizes.find(p);
  if (found == s.sizes.end()) return;
  s.bytes -= found->second;
  s.sizes.erase(found);
}

void synchronised() {
  State& s = state();
  const std::lock_guard lock(s.mutex);
  ++s.calls.synchronisations;
}

/// What GPUs of another compute capability answer (pretended_sm() in cuda_calls.h).
void pretend(cudaDeviceAttr attribute, int* value) {
  const int sm = pretended_sm();
  if (sm == 0) return;
  if (attribute == cudaDevAttrComputeCapabilityMajor) *value = sm / 10;
  if (attribute == cudaDevAttrComputeCapabilityMinor) *value = sm % 10;
  // CUDA C++ Programming Guide, technical specifications: 163 KB a block on 8.0 and 8.7, 99 KB on
  // 8.6, 8.9 and 12.x.
  if (attribute == cudaDevAttrMaxSharedMemoryPerBlockOptin) {
    *value = std::min(*value, sm == 90 || sm == 100 ? 227 << 10 : sm == 80 ? 163 << 10 : 99 << 10);
  }
}

}  // namespace

CudaCalls cuda_calls() {
  State& s = state();
  const std::lock_guard lock(s.mutex);
  CudaCalls calls = s.calls;
  calls.host_allocations = host_allocations;
  return calls;
}
void count_host_allocation() { ++host_allocations; }
int pretended_sm() {
  static const int sm = [] {
    const char* text = std::getenv("MOE4_TEST_SM");
    return text == nullptr ? 0 : std::atoi(text);
  }();
  return sm;
}
int64_t device_bytes() {
  const std::lock_guard lock(state().mutex);
  return state().bytes;
}
int64_t peak_device_bytes() {
  const std::lock_guard lock(state().mutex);
  return state().peak;
}
void reset_peak_device_bytes() {
  const std::lock_guard lock(state().mutex);
  state().peak = state().bytes;
}

}  // namespace moe4::testing

// NOLINTBEGIN: names are the linker's
using moe4::testing::allocated;
using moe4::testing::freed;
using moe4::testing::pretend;
using moe4::testing::synchronised;

extern "C" {

cudaError_t __real_cudaMalloc(void** p, size_t bytes);
cudaError_t __wrap_cudaMalloc(void** p, size_t bytes) {
  return allocated(__real_cudaMalloc(p, bytes), p, bytes, true);
}
cudaError_t __real_cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device);
cudaError_t __wrap_cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  const cudaError_t result = __real_cudaDeviceGetAttribute(value, attribute, device);
  if (result == cudaSuccess) pretend(attribute, value);
  return result;
}
cudaError_t __real_cudaMallocAsync(void** p, size_t bytes, cudaStream_t stream);
cudaError_t __wrap_cudaMallocAsync(void** p, size_t bytes, cudaStream_t stream) {
  return allocated(__real_cudaMallocAsync(p, bytes, stream), p, bytes, true);
}
cudaError_t __real_cudaMallocManaged(void** p, size_t bytes, unsigned flags);
cudaError_t __wrap_cudaMallocManaged(void** p, size_t bytes, unsigned flags) {
  return allocated(__real_cudaMallocManaged(p, bytes, flags), p, bytes, true);
}
cudaError_t __real_cudaMallocHost(void** p, size_t bytes);
cudaError_t __wrap_cudaMallocHost(void** p, size_t bytes) {
  return allocated(__real_cudaMallocHost(p, bytes), p, bytes, false);
}
cudaError_t __real_cudaHostAlloc(void** p, size_t bytes, unsigned flags);
cudaError_t __wrap_cudaHostAlloc(void** p, size_t bytes, unsigned flags) {
  return allocated(__real_cudaHostAlloc(p, bytes, flags), p, bytes, false);
}
cudaError_t __real_cudaFree(void* p);
cudaError_t __wrap_cudaFree(void* p) {
  freed(p);
  return __real_cudaFree(p);
}
cudaError_t __real_cudaFreeAsync(void* p, cudaStream_t stream);
cudaError_t __wrap_cudaFreeAsync(void* p, cudaStream_t stream) {
  freed(p);
  return __real_cudaFreeAsync(p, stream);
}
cudaError_t __real_cudaFreeHost(void* p);
cudaError_t __wrap_cudaFreeHost(void* p) {
  freed(p);
  return __real_cudaFreeHost(p);
}
cudaError_t __real_cudaDeviceSynchronize();
cudaError_t __wrap_cudaDeviceSynchronize() {
  synchronised();
  return __real_cudaDeviceSynchronize();
}
cudaError_t __real_cudaStreamSynchronize(cudaStream_t stream);
cudaError_t __wrap_cudaStreamSynchronize(cudaStream_t stream) {
  synchronised();
  return __real_cudaStreamSynchronize(stream);
}
cudaError_t __real_cudaEventSynchronize(cudaEvent_t event);
cudaError_t __wrap_cudaEventSynchronize(cudaEvent_t event) {
  synchronised();
  return __real_cudaEventSynchronize(event);
}
cudaError_t __real_cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind);
cudaError_t __wrap_cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
  synchronised();
  return __real_cudaMemcpy(to, from, bytes, kind);
}
cudaError_t __real_cudaMemcpy2D(void* to, size_t to_pitch, const void* from, size_t from_pitch,
                                size_t width, size_t height, cudaMemcpyKind kind);
cudaError_t __wrap_cudaMemcpy2D(void* to, size_t to_pitch, const void* from, size_t from_pitch,
                                size_t width, size_t height, cudaMemcpyKind kind) {
  synchronised();
  return __real_cudaMemcpy2D(to, to_pitch, from, from_pitch, width, height, kind);
}

}  // extern "C"
// NOLINTEND
