// clock64() and globaltimer of every SM, before and after.
#include <algorithm>
#include <vector>

#include "device/cuda/launch.h"
#include "ops/experts/bench/sm_clock.h"

namespace moe4::cuda {
namespace {

constexpr int kBlocksPerSm = 4;  // so that every SM gets one

__global__ void sample_clocks(ClockSample* samples) {
  uint32_t sm;
  ClockSample sample;
  asm volatile("mov.u32 %0, %%smid;" : "=r"(sm));
  asm volatile("mov.u64 %0, %%clock64;" : "=l"(sample.cycles)::"memory");
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(sample.nanoseconds)::"memory");
  sample.sm = sm;
  samples[blockIdx.x] = sample;
}

}  // namespace

SmClock::SmClock() {
  int device = 0;
  MOE4_CUDA_CHECK(cudaGetDevice(&device));
  MOE4_CUDA_CHECK(cudaDeviceGetAttribute(&sms_, cudaDevAttrMultiProcessorCount, device));
  blocks_ = sms_ * kBlocksPerSm;
  samples_ = allocate_device<ClockSample>(2 * blocks_);
}

void SmClock::sample(int which, cudaStream_t stream) {
  launch(sample_clocks,
         {.grid = dim3(static_cast<unsigned>(blocks_)), .block = dim3(1), .stream = stream},
         samples_.get() + which * blocks_);
  MOE4_CUDA_CHECK(cudaStreamSynchronize(stream));
}

double SmClock::stop(cudaStream_t stream) {
  sample(1, stream);
  std::vector<ClockSample> all(2 * blocks_), before(sms_), after(sms_);
  MOE4_CUDA_CHECK(cudaMemcpy(all.data(), samples_.get(), all.size() * sizeof(ClockSample),
                             cudaMemcpyDeviceToHost));
  for (int i = 0; i < 2 * blocks_; ++i) {
    if (all[i].sm < before.size()) (i < blocks_ ? before : after)[all[i].sm] = all[i];
  }
  std::vector<double> megahertz;
  for (int sm = 0; sm < sms_; ++sm) {
    const uint64_t begin = before[sm].nanoseconds, end = after[sm].nanoseconds;
    if (begin == 0 || end <= begin) continue;  // an SM without a block
    megahertz.push_back(1e3 * static_cast<double>(after[sm].cycles - before[sm].cycles) /
                        static_cast<double>(end - begin));
  }
  if (megahertz.empty()) return 0;
  std::sort(megahertz.begin(), megahertz.end());
  return megahertz[megahertz.size() / 2];
}

}  // namespace moe4::cuda
