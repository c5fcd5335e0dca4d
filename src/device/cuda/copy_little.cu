// A few numbers between pinned memory and the device, by a kernel: between two kernels it needs no
// hand-over to a copy engine and back.
#include <algorithm>

#include "base/checked_math.h"
#include "device/cuda/launch.h"
#include "device/cuda_memory.h"

namespace moe4::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kPieceBytes = 16;
// What the threads of 16 blocks ask for at once; a copy engine has caught up by then.
constexpr size_t kMostBytes = 16 * kThreads * kPieceBytes;

__global__ void copy_little_kernel(char* to, const char* from, int bytes) {
  const int at = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x) * kPieceBytes;
  if (at + kPieceBytes <= bytes) {
    *reinterpret_cast<int4*>(to + at) = *reinterpret_cast<const int4*>(from + at);
  } else {
    for (int i = at; i < bytes; ++i) to[i] = from[i];
  }
}

}  // namespace

void copy_little_bytes(const Stream& stream, void* to, const void* from, size_t bytes) {
  if (bytes > kMostBytes) return copy_bytes(stream, to, from, bytes);
  const auto pieces = ceil_div(static_cast<int>(bytes), kPieceBytes);
  launch(copy_little_kernel,
         {.grid = dim3(static_cast<unsigned>(ceil_div(pieces, kThreads))),
          .block = dim3(kThreads),
          .stream = static_cast<cudaStream_t>(stream.handle)},
         static_cast<char*>(to), static_cast<const char*>(from), static_cast<int>(bytes));
}

}  // namespace moe4::cuda
