// Blocks that fill a multiprocessor's shared memory and wait for a word in host memory.
#include <chrono>
#include <stdexcept>

#include "device/cuda/cuda_check.h"
#include "ops/experts/held_multiprocessors.h"

namespace moe4::testing {
namespace {

__global__ void hold(volatile int* words) {
  atomicAdd_system(const_cast<int*>(words), 1);
  while (words[1] == 0) __nanosleep(1000);
}

}  // namespace

HeldMultiprocessors::HeldMultiprocessors(int count) {
  void* pinned = nullptr;
  MOE4_CUDA_CHECK(cudaHostAlloc(&pinned, 2 * sizeof(int), cudaHostAllocMapped));
  words_ = static_cast<volatile int*>(pinned);
  words_[0] = 0;
  words_[1] = 0;
  MOE4_CUDA_CHECK(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
  int device = 0, shared_bytes = 0;
  MOE4_CUDA_CHECK(cudaGetDevice(&device));
  MOE4_CUDA_CHECK(
      cudaDeviceGetAttribute(&shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
  MOE4_CUDA_CHECK(
      cudaFuncSetAttribute(hold, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes));
  hold<<<count, 1, shared_bytes, stream_>>>(words_);
  MOE4_CUDA_CHECK(cudaGetLastError());
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(30);
  while (words_[0] < count) {
    if (std::chrono::steady_clock::now() < deadline) continue;
    words_[1] = 1;
    throw std::runtime_error("another program holds multiprocessors of this GPU");
  }
}

HeldMultiprocessors::~HeldMultiprocessors() {
  words_[1] = 1;
  cudaStreamSynchronize(stream_);
  cudaStreamDestroy(stream_);
  cudaFreeHost(const_cast<int*>(words_));
}

}  // namespace moe4::testing
