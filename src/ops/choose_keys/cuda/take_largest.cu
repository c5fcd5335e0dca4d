// ChooseKeys on NVIDIA GPUs, its choice: a block a token takes the largest of its keys' ranks
// (ops/cuda/largest_ranks.cuh).
#include "device/cuda/launch.h"
#include "device/cuda/ptx/launch.cuh"
#include "ops/choose_keys/cuda/kernels.h"
#include "ops/cuda/largest_ranks.cuh"

namespace moe4::cuda {
namespace {

constexpr int kThreads = LargestRanks::kThreads;

__global__ void __launch_bounds__(kThreads) take_kernel(const __grid_constant__ ChooseParams p) {
  __shared__ LargestRanks::Shared shared;
  wait_for_previous_kernel();
  launch_dependents();
  const int token = p.first_token + static_cast<int>(blockIdx.x);
  if (token >= p.query_start[p.num_seqs]) return;  // padding
  const int num_keys = p.num_keys(p.positions[token]);
  int32_t* chosen = p.chosen + static_cast<int64_t>(token) * p.most;
  if (num_keys <= p.most) {
    for (int i = static_cast<int>(threadIdx.x); i < p.most; i += kThreads) {
      chosen[i] = i < num_keys ? i : -1;
    }
    return;
  }
  LargestRanks::take(p.ranks + blockIdx.x * p.rank_stride, num_keys, p.most, shared, chosen);
}

}  // namespace

void take_largest(const ChooseParams& params, const ChooseLaunch& how) {
  launch(take_kernel,
         {.grid = dim3(static_cast<unsigned>(how.num_tokens)),
          .block = dim3(kThreads),
          .stream = how.stream,
          .dependent = how.dependent},
         params);
}

}  // namespace moe4::cuda
