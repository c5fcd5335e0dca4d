// Loads libcuda at run time: a program built without CUDA can still plan for the GPU it sees.
#include "base/cuda_probe.h"

#include <dlfcn.h>

#include <string>

#include "base/error.h"

namespace moe4 {
namespace {

// Of the CUDA driver API (cuda.h): CUdevice and CUresult are ints, 0 is success.
constexpr int kMultiprocessorCount = 16;
constexpr int kComputeCapabilityMajor = 75;
constexpr int kComputeCapabilityMinor = 76;

[[noreturn]] void unavailable(const std::string& why) {
  throw Error(ErrorCode::kUnavailable,
              why + "; use --device cpu, or name an architecture to plan for, e.g. sm_121");
}

// Null where there is none. Never closed: the CUDA runtime may use the same library later.
void* driver_library() {
  static void* const driver = dlopen("libcuda.so.1", RTLD_NOW);
  return driver;
}

}  // namespace

Device probe_cuda_device(int index) {
  void* const driver = driver_library();
  if (driver == nullptr) unavailable("no NVIDIA driver (libcuda.so.1) on this machine");
  const auto init = reinterpret_cast<int (*)(unsigned)>(dlsym(driver, "cuInit"));
  const auto get = reinterpret_cast<int (*)(int*, int)>(dlsym(driver, "cuDeviceGet"));
  const auto attribute =
      reinterpret_cast<int (*)(int*, int, int)>(dlsym(driver, "cuDeviceGetAttribute"));
  if (init == nullptr || get == nullptr || attribute == nullptr)
    unavailable("the NVIDIA driver library lacks cuDeviceGetAttribute");
  int gpu = 0, major = 0, minor = 0, count = 0;
  if (init(0) != 0 || get(&gpu, index) != 0)
    unavailable("the NVIDIA driver finds no GPU " + std::to_string(index));
  if (attribute(&major, kComputeCapabilityMajor, gpu) != 0 ||
      attribute(&minor, kComputeCapabilityMinor, gpu) != 0 ||
      attribute(&count, kMultiprocessorCount, gpu) != 0)
    unavailable("the NVIDIA driver does not tell the GPU's compute capability");
  return {.kind = Device::Kind::kCuda, .sm = major * 10 + minor, .index = index, .sm_count = count};
}

int64_t probe_cuda_memory(int index) {
  void* const driver = driver_library();
  if (driver == nullptr) return 0;
  const auto init = reinterpret_cast<int (*)(unsigned)>(dlsym(driver, "cuInit"));
  const auto get = reinterpret_cast<int (*)(int*, int)>(dlsym(driver, "cuDeviceGet"));
  const auto total = reinterpret_cast<int (*)(size_t*, int)>(dlsym(driver, "cuDeviceTotalMem_v2"));
  int gpu = 0;
  size_t bytes = 0;
  if (init == nullptr || get == nullptr || total == nullptr) return 0;
  if (init(0) != 0 || get(&gpu, index) != 0 || total(&bytes, gpu) != 0) return 0;
  return static_cast<int64_t>(bytes);
}

}  // namespace moe4
