// cuBLAS through dlopen, so that the program needs it neither to build nor to run.
#include <cuda_bf16.h>
#include <dlfcn.h>
#include <library_types.h>

#include <functional>
#include <optional>
#include <utility>

#include "device/cuda/device_buffer.h"
#include "device/cuda/launch.h"
#include "ops/experts/bench/matrix_peak.h"
#include "ops/experts/bench/timed_graph.h"

namespace moe4::cuda {
namespace {

constexpr int kSize = 8192;
constexpr int kWarmUp = 3, kRuns = 10;

// Close to normal: the sum of four uniform bytes.
__global__ void fill_normal(__nv_bfloat16* out, int64_t count, uint32_t seed) {
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count;
       i += static_cast<int64_t>(gridDim.x) * blockDim.x) {
    uint32_t z = static_cast<uint32_t>(i) * 0x9e3779b9u + seed;
    z = (z ^ (z >> 16)) * 0x85ebca6bu;
    z = (z ^ (z >> 13)) * 0xc2b2ae35u;
    z ^= z >> 16;
    const int sum = static_cast<int>((z & 255) + (z >> 8 & 255) + (z >> 16 & 255) + (z >> 24));
    out[i] = __float2bfloat16((static_cast<float>(sum) - 510.0f) / 148.0f);
  }
}

// Teraflops of `run`, which does `flops` and has run before, fresh and sustained.
MatrixPeak rate_of(cudaStream_t stream, double flops, const std::function<void()>& run,
                   std::string how) {
  TimedGraph products(stream, kRuns, [&](int) { run(); });
  rest();
  TimedGraph(stream, kWarmUp, [&](int) { run(); }).replay();
  const double fresh = products.replay(), sustained = products.time_sustained().mean;
  return {flops / fresh * 1e-6, flops / sustained * 1e-6, std::move(how)};
}

// The few functions of cuBLAS that are needed (cublas_v2.h): enums are ints, 0 is success.
class Cublas {
 public:
  Cublas() {
    for (const char* name : {"libcublas.so.13", "libcublas.so.12", "libcublas.so"}) {
      if ((library_ = dlopen(name, RTLD_NOW)) != nullptr) break;
    }
    if (library_ == nullptr) return;
    const auto create = find<int (*)(void**)>("cublasCreate_v2");
    set_stream_ = find<SetStream>("cublasSetStream_v2");
    multiply_ = find<Multiply>("cublasGemmEx");
    destroy_ = find<int (*)(void*)>("cublasDestroy_v2");
    if (create == nullptr || set_stream_ == nullptr || multiply_ == nullptr ||
        destroy_ == nullptr || create(&handle_) != 0) {
      handle_ = nullptr;
    }
  }
  ~Cublas() {
    if (handle_ != nullptr) destroy_(handle_);
  }
  Cublas(const Cublas&) = delete;
  Cublas& operator=(const Cublas&) = delete;

  bool use(cudaStream_t stream) { return handle_ != nullptr && set_stream_(handle_, stream) == 0; }
  // c = a^T b, all kSize x kSize, BF16 with float32 sums.
  bool multiply(const void* a, const void* b, void* c) {
    const float one = 1.0f, zero = 0.0f;
    return multiply_(handle_, kTransposed, kAsIs, kSize, kSize, kSize, &one, a, CUDA_R_16BF, kSize,
                     b, CUDA_R_16BF, kSize, &zero, c, CUDA_R_16BF, kSize, kFloat32Sums,
                     kAnyAlgorithm) == 0;
  }

 private:
  static constexpr int kAsIs = 0, kTransposed = 1, kFloat32Sums = 68, kAnyAlgorithm = -1;
  using SetStream = int (*)(void*, cudaStream_t);
  using Multiply = int (*)(void*, int, int, int, int, int, const void*, const void*, cudaDataType,
                           int, const void*, cudaDataType, int, const void*, void*, cudaDataType,
                           int, int, int);
  template <typename F>
  F find(const char* name) {
    return reinterpret_cast<F>(dlsym(library_, name));
  }

  void* library_ = nullptr;  // stays open: closing it would tear down its CUDA state
  void* handle_ = nullptr;
  SetStream set_stream_ = nullptr;
  Multiply multiply_ = nullptr;
  int (*destroy_)(void*) = nullptr;
};

std::optional<MatrixPeak> cublas_peak(cudaStream_t stream) {
  Cublas cublas;
  if (!cublas.use(stream)) return std::nullopt;
  const int64_t count = int64_t{kSize} * kSize;
  DeviceArray<__nv_bfloat16> operands[3];
  for (int i = 0; i < 3; ++i) {
    operands[i] = allocate_device<__nv_bfloat16>(count);
    launch(fill_normal, {.grid = dim3(1024), .block = dim3(256), .stream = stream},
           operands[i].get(), count, static_cast<uint32_t>(i));
  }
  bool ok = true;
  const auto run = [&] {
    ok &= cublas.multiply(operands[0].get(), operands[1].get(), operands[2].get());
  };
  run();  // loads what the library needs
  MOE4_CUDA_CHECK(cudaStreamSynchronize(stream));
  if (!ok) return std::nullopt;
  const MatrixPeak peak =
      rate_of(stream, 2.0 * kSize * kSize * kSize, run, "cuBLAS, 8192^3, random normal data");
  return ok ? std::optional(peak) : std::nullopt;
}

constexpr int kPeakThreads = 256;
constexpr int kPeakSteps = 2048;

#ifdef __CUDA_ARCH_FEAT_SM90_ALL
#define MOE4_PEAK_WGMMA 1
#else
#define MOE4_PEAK_WGMMA 0
#endif

// Operations of one thread block: a warpgroup's wgmma is m64n128k16, a warp's mma m16n8k16.
constexpr double kWgmmaFlops = 2.0 * 64 * 128 * 16 * (kPeakThreads / 128) * kPeakSteps;
constexpr double kMmaFlops = 2.0 * 16 * 8 * 16 * 8 * (kPeakThreads / 32) * kPeakSteps;

__device__ uint32_t random_bf16_pair(uint32_t i) {
  uint32_t z = (i + 1) * 0x9e3779b9u;
  z = (z ^ (z >> 15)) * 0x85ebca6bu;
  z ^= z >> 13;
  // Signs and mantissas at random, magnitudes between 0.5 and 2.
  return (z & 0x80ff80ffu) | 0x3f003f00u;
}

// clang-format off
#define MOE4_OUT8(i) "+f"(d[i]), "+f"(d[i+1]), "+f"(d[i+2]), "+f"(d[i+3]), \
                     "+f"(d[i+4]), "+f"(d[i+5]), "+f"(d[i+6]), "+f"(d[i+7])
// clang-format on

__global__ __launch_bounds__(kPeakThreads, 2) void peak_kernel(float* used_wgmma, float* sink) {
  __shared__ alignas(1024) uint32_t b_tile[128 * 64 / 2];  // [128][64] BF16, 128-byte swizzle
  for (int i = static_cast<int>(threadIdx.x); i < 128 * 64 / 2; i += kPeakThreads) {
    b_tile[i] = random_bf16_pair(static_cast<uint32_t>(i));
  }
  __syncthreads();
  uint32_t a[4];
  for (int i = 0; i < 4; ++i) a[i] = random_bf16_pair(threadIdx.x * 4 + i);
  float d[64] = {};
#if MOE4_PEAK_WGMMA
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
  const auto base = static_cast<uint32_t>(__cvta_generic_to_shared(b_tile));
  // K-major, groups of eight rows 1024 bytes apart, 128-byte swizzle.
  const uint64_t descriptor =
      (uint64_t{1} << 62) | (uint64_t{64} << 32) | (uint64_t{1} << 16) | ((base & 0x3ffff) >> 4);
  for (int step = 0; step < kPeakSteps; step += 4) {
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      asm volatile(
          "{\n.reg .pred accumulate;\nsetp.eq.u32 accumulate, 0, 0;\n"
          "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 "
          "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
          "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
          "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
          "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
          "{%64, %65, %66, %67}, %68, accumulate, 1, 1, 0;\n}"
          : MOE4_OUT8(0), MOE4_OUT8(8), MOE4_OUT8(16), MOE4_OUT8(24), MOE4_OUT8(32), MOE4_OUT8(40),
            MOE4_OUT8(48), MOE4_OUT8(56)
          : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(descriptor + 2 * k));
    }
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
    asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
  }
#else
  const uint32_t b0 = b_tile[threadIdx.x], b1 = b_tile[threadIdx.x + kPeakThreads];
  for (int step = 0; step < kPeakSteps; ++step) {
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      asm volatile(
          "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, "
          "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
          : "+f"(d[4 * i]), "+f"(d[4 * i + 1]), "+f"(d[4 * i + 2]), "+f"(d[4 * i + 3])
          : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
    }
  }
#endif
  float sum = 0;
  for (const float x : d) sum += x;
  if (sum == 0.12345f) *sink = sum;  // keeps the products alive
  *used_wgmma = MOE4_PEAK_WGMMA;     // of the machine code that the driver chose
}

MatrixPeak instruction_peak(cudaStream_t stream) {
  int device = 0, sms = 0;
  MOE4_CUDA_CHECK(cudaGetDevice(&device));
  MOE4_CUDA_CHECK(cudaDeviceGetAttribute(&sms, cudaDevAttrMultiProcessorCount, device));
  const auto results = allocate_device<float>(2);
  const int blocks = 2 * sms;
  constexpr int kLaunches = 8;  // together long enough for the clock to settle
  const auto run = [&] {
    for (int i = 0; i < kLaunches; ++i) {
      launch(peak_kernel,
             {.grid = dim3(static_cast<unsigned>(blocks)),
              .block = dim3(kPeakThreads),
              .stream = stream},
             results.get(), results.get() + 1);
    }
  };
  run();
  MOE4_CUDA_CHECK(cudaStreamSynchronize(stream));
  float wgmma = 0;
  MOE4_CUDA_CHECK(cudaMemcpy(&wgmma, results.get(), sizeof wgmma, cudaMemcpyDeviceToHost));
  const double flops = (wgmma != 0 ? kWgmmaFlops : kMmaFlops) * blocks * kLaunches;
  return rate_of(
      stream, flops, run,
      wgmma != 0 ? "a loop of wgmma, no cuBLAS here" : "a loop of mma.sync, no cuBLAS here");
}

}  // namespace

MatrixPeak measure_bf16_peak(cudaStream_t stream) {
  if (const auto peak = cublas_peak(stream)) return *peak;
  return instruction_peak(stream);
}

}  // namespace moe4::cuda
