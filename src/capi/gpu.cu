// Conversions around a call of a layer on a GPU.
#include <algorithm>
#include <string>
#include <type_traits>

#include "base/error.h"
#include "capi/gpu.h"
#include "device/cuda/describe_device.h"
#include "device/cuda/launch.h"
#include "moe/expert_map.h"
#include "numerics/bf16.h"
#include "numerics/f16.h"

namespace moe4::capi {
namespace {

using cuda::launch;

constexpr int kBlock = 256;

__device__ float load(Bf16 x) { return to_float(x); }
__device__ float load(F16 x) { return to_float(x); }
__device__ float load(float x) { return x; }
__device__ void store(float x, Bf16* out) { *out = to_bf16(x); }
__device__ void store(float x, F16* out) { *out = to_f16(x); }
__device__ void store(float x, float* out) { *out = x; }

template <typename In, typename Out>
__global__ void convert_kernel(const In* in, int64_t n, Out* out) {
  const int64_t step = int64_t{gridDim.x} * kBlock;
  for (int64_t i = int64_t{blockIdx.x} * kBlock + threadIdx.x; i < n; i += step) {
    store(load(in[i]), out + i);
  }
}

template <typename Id>
__global__ void local_ids_kernel(const Id* ids, int64_t n, const int32_t* expert_map,
                                 int32_t num_experts, int32_t num_local_experts, int32_t* out) {
  const int64_t step = int64_t{gridDim.x} * kBlock;
  for (int64_t i = int64_t{blockIdx.x} * kBlock + threadIdx.x; i < n; i += step) {
    const Id id = ids[i];
    const int32_t small = id < 0 || id >= num_experts ? -1 : static_cast<int32_t>(id);
    out[i] = local_expert(small, expert_map, num_experts, num_local_experts);
  }
}

// Enough blocks for every GPU, each with a loop of its own.
cuda::LaunchShape shape(int64_t n, void* stream) {
  const int64_t blocks = std::min<int64_t>((n + kBlock - 1) / kBlock, 2048);
  return {.grid = dim3(static_cast<unsigned>(blocks)),
          .block = dim3(kBlock),
          .stream = static_cast<cudaStream_t>(stream)};
}

template <typename F>
void with_type(DType dtype, F&& f) {
  switch (dtype) {
    case DType::kBF16:
      return f(Bf16{});
    case DType::kF16:
      return f(F16{});
    case DType::kF32:
      return f(float{});
    default:
      MOE4_CHECK(false);
  }
}

}  // namespace

Device gpu(int ordinal) {
  const Device device = cuda::describe_device(ordinal);
  if (!device.is_cpu()) return device;
  throw Error(ErrorCode::kUnavailable, "this machine has no GPU " + std::to_string(ordinal));
}

std::string gpu_architectures() { return MOE4_GPU_ARCHITECTURES; }

void download_rows(const void* device, size_t row_bytes, size_t stride_bytes, size_t rows,
                   void* host) {
  if (stride_bytes == 0 || rows == 1) {  // every row is the first
    for (size_t r = 0; r < rows; ++r) {
      MOE4_CUDA_CHECK(cudaMemcpy(static_cast<char*>(host) + r * row_bytes, device, row_bytes,
                                 cudaMemcpyDeviceToHost));
    }
    return;
  }
  MOE4_CUDA_CHECK(
      cudaMemcpy2D(host, row_bytes, device, stride_bytes, row_bytes, rows, cudaMemcpyDeviceToHost));
}

void convert_on_gpu(const void* in, DType from, int64_t n, void* out, DType to, void* stream) {
  with_type(from, [&](auto a) {
    with_type(to, [&](auto b) {
      using In = decltype(a);
      using Out = decltype(b);
      launch(convert_kernel<In, Out>, shape(n, stream), static_cast<const In*>(in), n,
             static_cast<Out*>(out));
    });
  });
}

void local_ids_on_gpu(const void* ids, bool is_int64, int64_t n, const int32_t* expert_map,
                      int32_t num_experts, int32_t num_local_experts, int32_t* out, void* stream) {
  const auto run = [&](const auto* typed) {
    using Id = std::remove_cvref_t<decltype(*typed)>;
    launch(local_ids_kernel<Id>, shape(n, stream), typed, n, expert_map, num_experts,
           num_local_experts, out);
  };
  if (is_int64) {
    run(static_cast<const int64_t*>(ids));
  } else {
    run(static_cast<const int32_t*>(ids));
  }
}

}  // namespace moe4::capi
