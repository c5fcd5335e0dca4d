// A library that CUDA programs load by themselves (CUDA_INJECTION64_PATH names it): writes when
// every kernel began and ended, in graphs too, to the file that MOE4_KERNEL_TIMES names.
//
//   g++ -O2 -fPIC -shared bench/kernel_times.cc -o kernel_times.so -I$CUDA/include -L$CUDA/lib64
//   -lcupti CUDA_INJECTION64_PATH=./kernel_times.so MOE4_KERNEL_TIMES=times.csv moe4 bench ...
//   scripts/kernel_table.py times.csv
#include <cupti.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <string>
#include <vector>

namespace {

struct Kernel {
  uint64_t begin, end;
  std::string name;
};
std::mutex mutex;
std::vector<Kernel> kernels;

constexpr size_t kBufferBytes = size_t{8} << 20;

void CUPTIAPI give_buffer(uint8_t** buffer, size_t* size, size_t* max_records) {
  *buffer = static_cast<uint8_t*>(std::aligned_alloc(8, kBufferBytes));
  *size = kBufferBytes;
  *max_records = 0;
}

void CUPTIAPI take_buffer(CUcontext, uint32_t, uint8_t* buffer, size_t, size_t valid) {
  const std::lock_guard lock(mutex);
  CUpti_Activity* record = nullptr;
  while (cuptiActivityGetNextRecord(buffer, valid, &record) == CUPTI_SUCCESS) {
    if (record->kind != CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL) continue;
    const auto* kernel = reinterpret_cast<const CUpti_ActivityKernel9*>(record);
    kernels.push_back({kernel->start, kernel->end, kernel->name});
  }
  std::free(buffer);
}

void write_down() {
  cuptiActivityFlushAll(1);
  const char* path = std::getenv("MOE4_KERNEL_TIMES");
  FILE* out = path != nullptr ? std::fopen(path, "w") : nullptr;
  if (out == nullptr) return;
  const std::lock_guard lock(mutex);
  for (const Kernel& k : kernels) {
    std::fprintf(out, "%llu;%llu;%s\n", static_cast<unsigned long long>(k.begin),
                 static_cast<unsigned long long>(k.end), k.name.c_str());
  }
  std::fclose(out);
}

}  // namespace

extern "C" int InitializeInjection() {
  cuptiActivityRegisterCallbacks(give_buffer, take_buffer);
  cuptiActivityEnable(CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL);
  std::atexit(write_down);
  return 1;
}
