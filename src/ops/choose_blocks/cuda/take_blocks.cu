// ChooseBlocks on NVIDIA GPUs, its choice: a block of threads a token and head makes ranks of key
// blocks from those of their runs, the last ones' as large as can be, and takes the largest
// (ops/cuda/largest_ranks.cuh).
#include "device/cuda/launch.h"
#include "device/cuda/ptx/launch.cuh"
#include "ops/choose_blocks/cuda/kernels.h"
#include "ops/cuda/index_scores.cuh"
#include "ops/cuda/largest_ranks.cuh"

namespace moe4::cuda {
namespace {

constexpr int kThreads = LargestRanks::kThreads;

__global__ void __launch_bounds__(kThreads)
    take_blocks_kernel(const __grid_constant__ ChooseBlocksParams p) {
  __shared__ LargestRanks::Shared shared;
  wait_for_previous_kernel();
  launch_dependents();
  const int token = p.first_token + static_cast<int>(blockIdx.x);
  if (token >= p.query_start[p.num_seqs]) return;  // padding
  const int head = static_cast<int>(blockIdx.y), thread = static_cast<int>(threadIdx.x);
  const int position = p.positions[token], own = position / p.block_size;
  int32_t* chosen = p.chosen + (token * int64_t{p.num_heads} + head) * p.most;
  if (own < p.most) {
    for (int i = thread; i < p.most; i += kThreads) chosen[i] = i <= own ? i : -1;
    return;
  }
  const int64_t row = blockIdx.x * int64_t{p.num_heads} + head;
  const uint32_t* runs = p.runs + row * p.run_stride;
  uint32_t* ranks = p.ranks + row * p.rank_stride;
  const int runs_of_block = p.block_size / p.run_keys, num_runs = position / p.run_keys + 1;
  for (int block = thread; block <= own; block += kThreads) {
    uint32_t rank = block > own - p.local ? rank_of(INFINITY) : 0;
    const int first = block * runs_of_block, end = min(first + runs_of_block, num_runs);
    for (int run = first; run < end; ++run) rank = max(rank, runs[run]);
    ranks[block] = rank;
  }
  __syncthreads();
  LargestRanks::take(ranks, own + 1, p.most, shared, chosen);
}

}  // namespace

void take_blocks(const ChooseBlocksParams& params, const ChooseBlocksLaunch& how) {
  launch(take_blocks_kernel,
         {.grid = dim3(static_cast<unsigned>(params.end_token - params.first_token),
                       static_cast<unsigned>(params.num_heads)),
          .block = dim3(kThreads),
          .stream = how.stream,
          .dependent = how.dependent},
         params);
}

}  // namespace moe4::cuda
