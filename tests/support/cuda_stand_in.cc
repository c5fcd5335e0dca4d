// The functions of the CUDA runtime that the program calls, and those that nvcc's code calls.
#include "support/cuda_stand_in.h"

#include <cuda.h>
#include <cuda_runtime_api.h>
#include <cxxabi.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <utility>

namespace moe4::testing {
namespace {

constexpr int kDefaultSharedBytes = 48 << 10;  // that need no permission
constexpr unsigned kPortableCluster = 8, kMostCluster = 16;

struct Kernel {
  std::string name;
  int dynamic_shared_bytes = kDefaultSharedBytes;
  bool large_clusters = false;
};

struct State {
  std::mutex mutex;
  StandInGpu gpu;
  std::map<const void*, Kernel> kernels;  // by their host function
  std::map<const void*, size_t> allocations;
  int64_t launches = 0;
  std::vector<std::string> refused;
  bool captures = false;
  cudaError_t last = cudaSuccess;
};
State& state() {
  static State s;
  return s;
}

std::string demangled(const char* name) {
  int status = 0;
  const std::unique_ptr<char, void (*)(void*)> text(
      abi::__cxa_demangle(name, nullptr, nullptr, &status), std::free);
  return status == 0 ? text.get() : name;
}

cudaError_t fail(cudaError_t error) { return state().last = error; }

// What a GPU would say of a launch; empty: nothing.
std::string refusal(const Kernel& kernel, const cudaLaunchConfig_t& config) {
  const StandInGpu& gpu = state().gpu;
  const dim3 grid = config.gridDim, block = config.blockDim;
  const auto text = [](const char* what, int64_t asked, int64_t allowed) {
    return std::string(what) + " " + std::to_string(asked) + ", allowed " + std::to_string(allowed);
  };
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return "an empty grid";
  if (grid.x > 0x7fffffffu) return text("blocks along x", grid.x, 0x7fffffff);
  if (std::max(grid.y, grid.z) > 65535) {
    return text("blocks along y or z", std::max(grid.y, grid.z), 65535);
  }
  const int64_t threads = int64_t{block.x} * block.y * block.z;
  if (threads == 0 || threads > 1024) return text("threads of a block", threads, 1024);
  const auto shared = static_cast<int64_t>(config.dynamicSmemBytes);
  if (shared > kernel.dynamic_shared_bytes) {
    return text("bytes of shared memory", shared, kernel.dynamic_shared_bytes);
  }
  for (unsigned i = 0; i < config.numAttrs; ++i) {
    const cudaLaunchAttribute& attribute = config.attrs[i];
    if (attribute.id == cudaLaunchAttributeProgrammaticStreamSerialization && gpu.sm < 90) {
      return "a dependent launch before SM90";
    }
    if (attribute.id != cudaLaunchAttributeClusterDimension) continue;
    const unsigned x = attribute.val.clusterDim.x, y = attribute.val.clusterDim.y,
                   z = attribute.val.clusterDim.z;
    if (gpu.sm < 90) return "a cluster before SM90";
    const unsigned most = kernel.large_clusters ? kMostCluster : kPortableCluster;
    if (x * y * z > most) return text("blocks of a cluster", x * y * z, most);
    if (grid.x % x != 0 || grid.y % y != 0 || grid.z % z != 0) {
      return "a grid that its clusters do not divide";
    }
  }
  return {};
}

cudaError_t launched(const cudaLaunchConfig_t& config, const void* function) {
  State& s = state();
  const std::lock_guard lock(s.mutex);
  ++s.launches;
  const auto kernel = s.kernels.find(function);
  if (kernel == s.kernels.end()) {
    s.refused.push_back("a function that is no kernel");
    return fail(cudaErrorInvalidDeviceFunction);
  }
  const std::string reason = refusal(kernel->second, config);
  if (reason.empty()) return cudaSuccess;
  s.refused.push_back(kernel->second.name + ": " + reason);
  return fail(cudaErrorInvalidValue);
}

// Zeros that take no memory before they are written.
cudaError_t allocate(void** p, size_t bytes) {
  void* const memory = mmap(nullptr, std::max<size_t>(bytes, 1), PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) return fail(cudaErrorMemoryAllocation);
  const std::lock_guard lock(state().mutex);
  state().allocations[memory] = std::max<size_t>(bytes, 1);
  *p = memory;
  return cudaSuccess;
}

cudaError_t release(void* p) {
  if (p == nullptr) return cudaSuccess;
  State& s = state();
  const std::lock_guard lock(s.mutex);
  const auto found = s.allocations.find(p);
  if (found == s.allocations.end()) return fail(cudaErrorInvalidValue);
  munmap(p, found->second);
  s.allocations.erase(found);
  return cudaSuccess;
}

// cuTensorMapEncodeTiled(), which makes nothing of what a driver would take.
CUresult encode_nothing(CUtensorMap* map, CUtensorMapDataType, cuuint32_t rank, void* address,
                        const cuuint64_t* sizes, const cuuint64_t* strides, const cuuint32_t* box,
                        const cuuint32_t*, CUtensorMapInterleave, CUtensorMapSwizzle,
                        CUtensorMapL2promotion, CUtensorMapFloatOOBfill) {
  *map = {};
  bool taken = rank >= 3 && rank <= 5 && reinterpret_cast<uintptr_t>(address) % 16 == 0;
  for (cuuint32_t i = 0; taken && i < rank; ++i) {
    taken = sizes[i] > 0 && box[i] > 0 && box[i] <= 256 && (i == 0 || strides[i - 1] % 16 == 0);
  }
  return taken ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

// What stands for a stream, an event or a graph: nobody looks inside.
template <class Handle>
cudaError_t make_handle(Handle* handle) {
  *handle = reinterpret_cast<Handle>(new char);
  return cudaSuccess;
}
template <class Handle>
cudaError_t drop_handle(Handle handle) {
  delete reinterpret_cast<char*>(handle);
  return cudaSuccess;
}

}  // namespace

void use_stand_in(const StandInGpu& gpu) {
  State& s = state();
  const std::lock_guard lock(s.mutex);
  s.gpu = gpu;
  for (auto& [function, kernel] : s.kernels) kernel = Kernel{.name = kernel.name};
}

int64_t stand_in_launches() { return state().launches; }

std::vector<std::string> take_refused_launches() {
  const std::lock_guard lock(state().mutex);
  return std::exchange(state().refused, {});
}

}  // namespace moe4::testing

using namespace moe4::testing;

extern "C" {

// ---- what nvcc's code calls --------------------------------------------------------------------

void** __cudaRegisterFatBinary(void*) {
  static void* handle = nullptr;
  return &handle;
}
void __cudaRegisterFatBinaryEnd(void**) {}
void __cudaUnregisterFatBinary(void**) {}
void __cudaRegisterFunction(void**, const char* function, char*, const char* name, int, uint3*,
                            uint3*, dim3*, dim3*, int*) {
  state().kernels[function] = Kernel{.name = demangled(name)};
}
void __cudaRegisterVar(void**, char*, char*, const char*, int, size_t, int, int) {}
cudaError_t __cudaPopCallConfiguration(dim3*, dim3*, size_t*, void*) {
  return fail(cudaErrorInvalidConfiguration);  // all launches say what they want
}
cudaError_t __cudaGetKernel(cudaKernel_t* kernel, const void* function) {
  *kernel = reinterpret_cast<cudaKernel_t>(const_cast<void*>(function));
  return cudaSuccess;
}
cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3 grid, dim3 block, void**, size_t shared,
                               cudaStream_t stream) {
  cudaLaunchConfig_t config = {};
  config.gridDim = grid, config.blockDim = block, config.dynamicSmemBytes = shared;
  config.stream = stream;
  return launched(config, reinterpret_cast<const void*>(kernel));
}

// ---- devices -----------------------------------------------------------------------------------

cudaError_t cudaGetDeviceCount(int* count) {
  *count = 1;
  return cudaSuccess;
}
cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) {
  return device == 0 ? cudaSuccess : fail(cudaErrorInvalidDevice);
}
cudaError_t cudaDeviceSynchronize() { return cudaSuccess; }
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  const StandInGpu& gpu = state().gpu;
  switch (attribute) {
    case cudaDevAttrComputeCapabilityMajor:
      *value = gpu.sm / 10;
      return cudaSuccess;
    case cudaDevAttrComputeCapabilityMinor:
      *value = gpu.sm % 10;
      return cudaSuccess;
    case cudaDevAttrMultiProcessorCount:
      *value = gpu.sm_count;
      return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = gpu.shared_bytes;
      return cudaSuccess;
    default:
      *value = 0;
      return cudaSuccess;
  }
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) {
  *properties = {};
  std::strcpy(properties->name, "stand-in");
  properties->major = state().gpu.sm / 10, properties->minor = state().gpu.sm % 10;
  properties->multiProcessorCount = state().gpu.sm_count;
  properties->totalGlobalMem = static_cast<size_t>(state().gpu.memory);
  return cudaSuccess;
}
cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  *free = *total = static_cast<size_t>(state().gpu.memory);
  return cudaSuccess;
}
cudaError_t cudaGetLastError() { return std::exchange(state().last, cudaSuccess); }
const char* cudaGetErrorName(cudaError_t) { return "stand-in error"; }
const char* cudaGetErrorString(cudaError_t) { return "refused by the stand-in for CUDA's runtime"; }

// ---- the driver --------------------------------------------------------------------------------

cudaError_t cudaGetDriverEntryPointByVersion(const char* symbol, void** function, unsigned,
                                             unsigned long long,
                                             cudaDriverEntryPointQueryResult* result) {
  const bool found = std::strcmp(symbol, "cuTensorMapEncodeTiled") == 0;
  *function = found ? reinterpret_cast<void*>(encode_nothing) : nullptr;
  *result = found ? cudaDriverEntryPointSuccess : cudaDriverEntryPointSymbolNotFound;
  return cudaSuccess;
}

// ---- memory ------------------------------------------------------------------------------------

cudaError_t cudaMalloc(void** p, size_t bytes) { return allocate(p, bytes); }
cudaError_t cudaMallocHost(void** p, size_t bytes) { return allocate(p, bytes); }
cudaError_t cudaFree(void* p) { return release(p); }
cudaError_t cudaFreeHost(void* p) { return release(p); }
cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind) {
  std::memcpy(to, from, bytes);
  return cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t) {
  return state().captures ? cudaSuccess : cudaMemcpy(to, from, bytes, kind);
}
cudaError_t cudaMemcpy2D(void* to, size_t to_pitch, const void* from, size_t from_pitch,
                         size_t width, size_t height, cudaMemcpyKind) {
  for (size_t i = 0; i < height; ++i) {
    std::memcpy(static_cast<char*>(to) + i * to_pitch,
                static_cast<const char*>(from) + i * from_pitch, width);
  }
  return cudaSuccess;
}
cudaError_t cudaMemset(void* p, int value, size_t bytes) {
  if (value != 0) std::memset(p, value, bytes);  // zeros are there
  return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void* p, int value, size_t bytes, cudaStream_t) {
  return cudaMemset(p, value, bytes);
}

// ---- streams, events, graphs -------------------------------------------------------------------

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  return make_handle(stream);
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) { return drop_handle(stream); }
cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }
cudaError_t cudaEventCreate(cudaEvent_t* event) { return make_handle(event); }
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) { return make_handle(event); }
cudaError_t cudaEventDestroy(cudaEvent_t event) { return drop_handle(event); }
cudaError_t cudaEventRecord(cudaEvent_t, cudaStream_t) { return cudaSuccess; }
cudaError_t cudaEventSynchronize(cudaEvent_t) { return cudaSuccess; }
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t, cudaEvent_t) {
  *milliseconds = 1.0f;
  return cudaSuccess;
}
cudaError_t cudaStreamBeginCapture(cudaStream_t, cudaStreamCaptureMode) {
  state().captures = true;
  return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t, cudaGraph_t* graph) {
  state().captures = false;
  return make_handle(graph);
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* exec, cudaGraph_t, unsigned long long) {
  return make_handle(exec);
}
cudaError_t cudaGraphUpload(cudaGraphExec_t, cudaStream_t) { return cudaSuccess; }
cudaError_t cudaGraphLaunch(cudaGraphExec_t, cudaStream_t) { return cudaSuccess; }
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) { return drop_handle(exec); }
cudaError_t cudaGraphDestroy(cudaGraph_t graph) { return drop_handle(graph); }
cudaError_t cudaLaunchHostFunc(cudaStream_t, cudaHostFn_t function, void* data) {
  if (!state().captures) function(data);
  return cudaSuccess;
}

// ---- kernels -----------------------------------------------------------------------------------

cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* config, const void* function, void**) {
  return launched(*config, function);
}
cudaError_t cudaFuncSetAttribute(const void* function, cudaFuncAttribute attribute, int value) {
  State& s = state();
  const std::lock_guard lock(s.mutex);
  const auto kernel = s.kernels.find(function);
  if (kernel == s.kernels.end()) return fail(cudaErrorInvalidDeviceFunction);
  if (attribute == cudaFuncAttributeNonPortableClusterSizeAllowed) {
    kernel->second.large_clusters = value != 0;
  }
  if (attribute == cudaFuncAttributeMaxDynamicSharedMemorySize) {
    if (value < 0 || value > s.gpu.shared_bytes) return fail(cudaErrorInvalidValue);
    kernel->second.dynamic_shared_bytes = value;
  }
  return cudaSuccess;
}
cudaError_t cudaOccupancyMaxActiveClusters(int* clusters, const void*,
                                           const cudaLaunchConfig_t* config) {
  unsigned size = 1;
  for (unsigned i = 0; i < config->numAttrs; ++i) {
    const cudaLaunchAttribute& attribute = config->attrs[i];
    if (attribute.id == cudaLaunchAttributeClusterDimension) size = attribute.val.clusterDim.x;
  }
  *clusters = state().gpu.sm_count / static_cast<int>(size);
  return cudaSuccess;
}
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* blocks, const void*, int,
                                                                   size_t, unsigned) {
  *blocks = 1;
  return cudaSuccess;
}

}  // extern "C"
