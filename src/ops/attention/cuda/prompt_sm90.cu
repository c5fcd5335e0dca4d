// PagedAttention for pieces of prompts on SM90: the tiles and the arithmetic of prompt.cu with
// wgmma.
//
// A block has 64 positions of a sequence and one or two heads of a KV head, a warpgroup each.
// Queries, keys and values lie in shared memory in the 128-byte swizzle, which is how wgmma reads
// them; scores, weights and sums stay in registers. While the tensor cores multiply the queries
// with the next tile's keys the warpgroup makes weights of this tile's scores (FlashAttention-3,
// arXiv 2407.08608), and the other warpgroup is somewhere else. Of keys and of values there are two
// stages: keys two tiles ahead, values one.
//
// Head_dim 256, two heads: 192 KB of shared memory; 128 registers of sums, twice 32 of scores.
#include "device/cuda/launch.h"
#include "device/cuda/ptx/launch.cuh"
#include "device/cuda/ptx/wgmma_f16_sm90.cuh"
#include "device/cuda/ptx/wgmma_sm90.cuh"
#include "ops/attention/cuda/tiles.cuh"

namespace moe4::cuda {
namespace {

constexpr int kWarps = 4;  // of a head
constexpr int kPanel = kKeyBlock * kRowBytes;
constexpr int kKeyTiles = kKeyBlock / 8;

template <int Panels, int Heads>
struct Sm90Config {
  static constexpr int kPanels = Panels;
  static constexpr int kHeads = Heads;
  static constexpr int kThreads = 32 * kWarps * Heads;
  static constexpr int kStage = kPanels * kPanel;  // of keys, of values
  static constexpr int kSharedBytes = kHeads * kStage + 4 * kStage + 1024;
};

// Weights of a tile's scores as F16 pairs in wgmma's A registers, [k16][register]; scales the sums
// before to the new maximum.
template <int Values>
__device__ __forceinline__ void make_weights(const float (&scores)[4 * kKeyTiles],
                                             Weights (&total)[2], float (&values)[Values],
                                             uint32_t (&weights)[kKeyTiles / 2][4]) {
  float keep[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float top = total[half].top;
#pragma unroll
    for (int i = 0; i < kKeyTiles; ++i) {
      top = fmaxf(top, fmaxf(scores[4 * i + 2 * half], scores[4 * i + 2 * half + 1]));
    }
    top = fmaxf(top, __shfl_xor_sync(0xffffffff, top, 1));
    top = fmaxf(top, __shfl_xor_sync(0xffffffff, top, 2));
    const float least = top == -INFINITY ? 0.0f : top;
    float sum = 0;  // of the thread's own keys: four threads have a row's
#pragma unroll
    for (int i = 0; i < kKeyTiles; ++i) {
      const uint32_t pair = pack_f16(exp2_fast(scores[4 * i + 2 * half] - least),
                                     exp2_fast(scores[4 * i + 2 * half + 1] - least));
      const float2 rounded = unpack_f16(pair);
      sum += rounded.x + rounded.y;
      weights[i / 2][i % 2 * 2 + half] = pair;
    }
    keep[half] = exp2_fast(total[half].top - least);
    total[half].sum = __fmaf_rn(total[half].sum, keep[half], sum);
    total[half].top = top;
  }
#pragma unroll
  for (int i = 0; i < Values; ++i) values[i] *= keep[i / 2 % 2];
}

template <class Config, bool Windowed>
__global__ void __launch_bounds__(Config::kThreads, 1)
    prompt_kernel_sm90(const __grid_constant__ AttentionParams p, int first_sequence) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  constexpr int kPanels = Config::kPanels, kThreads = Config::kThreads;
  constexpr int kValues = 32 * kPanels;  // a thread's sums
  extern __shared__ uint8_t shared[];
  const uint32_t queries = (shared_address(shared) + 1023) / 1024 * 1024;
  const uint32_t keys = queries + Config::kHeads * kPanels * kPanel;
  const uint32_t values = keys + 2 * Config::kStage;

  wait_for_previous_kernel();
  launch_dependents();
  const int sequence = first_sequence + static_cast<int>(blockIdx.z);
  const int first_token = p.query_start[sequence];
  const int tokens = p.query_start[sequence + 1] - first_token;
  const int start = p.context_len[sequence] - tokens;  // positions
  const int end = min(p.context_len[sequence], p.end_of_prompts);
  if (end <= start) return;
  const int page = (end - 1) / kKeyBlock - static_cast<int>(blockIdx.y);  // longest first
  if (page < start / kKeyBlock) return;
  const int first_head = static_cast<int>(blockIdx.x) * Config::kHeads;
  const int first_position = page * kKeyBlock;

  const int32_t* blocks = p.blocks + sequence * p.max_blocks;
  const int64_t rows_before = first_head / p.group * int64_t{kKeyBlock};
  const std::byte* all_keys = p.pages + rows_before * p.key_bytes();
  const std::byte* all_values = p.pages + p.values_in_page + rows_before * p.value_bytes();
  const int num_keys = min(end, first_position + kKeyBlock);
  const int first_tile = first_key(p, max(start, first_position)) / kKeyBlock;
  const int last_tile = page;
  const auto block_of = [&](int tile) { return blocks[min(tile, last_tile)]; };
  const auto copy = [&](uint32_t stages, int tile, int block, const std::byte* from, int width) {
    if (tile > last_tile) return;
    copy_tile<kKeyBlock, kThreads>(p, stages + tile % 2 * Config::kStage,
                                   from + block * p.page_bytes, width, kPanels,
                                   num_keys - tile * kKeyBlock);
  };
  int block = block_of(first_tile), next_block = block_of(first_tile + 1);
  copy(keys, first_tile, block, all_keys, p.head_dim);
  copy_commit();
  copy(keys, first_tile + 1, next_block, all_keys, p.head_dim);
  copy(values, first_tile, block, all_values, p.value_width());
  copy_commit();
  block = next_block;  // of the next values to come; next_block: of the next keys
  next_block = block_of(first_tile + 2);

  put_queries<Config::kHeads, kPanels, kThreads>(p, queries, first_head, first_token,
                                                 first_position, start, end);

  const int lane = lane_id(), warp = static_cast<int>(threadIdx.x / 32);
  const int t = lane % 4, head = warp / kWarps;
  const int position = first_position + warp % kWarps * 16 + lane / 4;  // of row g
  const uint64_t own_queries = rows_descriptor(queries + head * kPanels * kPanel);
  const auto multiply_keys = [&](int tile, float(&scores)[32]) {
    const uint64_t tile_keys = rows_descriptor(keys + tile % 2 * Config::kStage);
#pragma unroll
    for (int step = 0; step < 4 * kPanels; ++step) {
      const uint64_t at = step / 4 * (kPanel / 16) + step % 4 * 2;
      multiply_rows(scores, own_queries + at, tile_keys + at, step > 0);
    }
    wgmma_commit();
  };
  const int lowest[2] = {Windowed ? first_key(p, position) : 0,
                         Windowed ? first_key(p, position + 8) : 0};
  const auto mask = [&](int tile, float(&scores)[32]) {
#pragma unroll
    for (int i = 0; i < 32; ++i) {
      const int half = i / 2 % 2, last = position + half * 8;
      const int key = tile * kKeyBlock + i / 4 * 8 + 2 * t + i % 2;
      if (key > last || (Windowed && key < lowest[half])) scores[i] = -INFINITY;
    }
  };
  Weights total[2];
  float sums[kValues] = {};
  uint32_t weights[kKeyTiles / 2][4];
  const auto multiply_values = [&](int tile) {
    const uint64_t tile_values = columns_descriptor(values + tile % 2 * Config::kStage, kPanel);
    wgmma_fence();
#pragma unroll
    for (int step = 0; step < kKeyTiles / 2; ++step) {
      multiply_columns(sums, weights[step], tile_values + 128 * step);
    }
    wgmma_commit();
  };

  float scores[32];
  copy_wait<1>();
  fence_async_proxy();
  __syncthreads();
  wgmma_fence();
  multiply_keys(first_tile, scores);
  wgmma_wait<0>();
  for (int tile = first_tile; tile < last_tile; ++tile) {
    copy_wait<0>();
    fence_async_proxy();
    __syncthreads();  // the next keys and these values are there, those before are done with
    copy(keys, tile + 2, next_block, all_keys, p.head_dim);
    copy(values, tile + 1, block, all_values, p.value_width());
    copy_commit();
    block = next_block;
    next_block = block_of(tile + 3);
    float next[32];
    wgmma_fence();
    multiply_keys(tile + 1, next);
    if constexpr (Windowed) mask(tile, scores);
    make_weights(scores, total, sums, weights);
    multiply_values(tile);
    wgmma_wait<0>();
#pragma unroll
    for (int i = 0; i < 32; ++i) scores[i] = next[i];
  }
  copy_wait<0>();
  fence_async_proxy();
  __syncthreads();
  mask(last_tile, scores);
  make_weights(scores, total, sums, weights);
  multiply_values(last_tile);
  wgmma_wait<0>();

#pragma unroll
  for (int half = 0; half < 2; ++half) {
    Weights all = total[half];
    all.sum += __shfl_xor_sync(0xffffffff, all.sum, 1);
    all.sum += __shfl_xor_sync(0xffffffff, all.sum, 2);
    const int at = position + 8 * half;
    if (at < start || at >= end) continue;
    const HeadOutput out(p, first_token + at - start, first_head + head, all);
    out.write_every<kValues / 4>(2 * t, 8, [&](int i) {
      return float2{sums[4 * i + 2 * half], sums[4 * i + 2 * half + 1]};
    });
  }
#endif
}

// Calls f(Sm90Config{}) with that of the shape.
template <class F>
void with_config(const AttentionShape& shape, const F& f) {
  const bool two = shape.prompt_heads == 2;
  switch (shape.value_panels) {
    case 1:
      return two ? f(Sm90Config<1, 2>{}) : f(Sm90Config<1, 1>{});
    case 2:
      return two ? f(Sm90Config<2, 2>{}) : f(Sm90Config<2, 1>{});
    default:
      return two ? f(Sm90Config<4, 2>{}) : f(Sm90Config<4, 1>{});
  }
}

}  // namespace

bool prepare_prompts_sm90(const AttentionShape& shape) {
  with_config(shape, [&](auto config) {
    using Config = decltype(config);
    for (const auto kernel :
         {prompt_kernel_sm90<Config, false>, prompt_kernel_sm90<Config, true>}) {
      MOE4_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                           Config::kSharedBytes));
    }
  });
  return true;
}

void attend_prompts_sm90(const AttentionShape& shape, const AttentionParams& params,
                         int first_sequence, int num_sequences, int max_tokens,
                         const KernelLaunch& how) {
  // A piece that begins inside a page touches one page more.
  const int64_t pages = ceil_div(int64_t{max_tokens}, int64_t{kKeyBlock}) + 1;
  with_config(shape, [&](auto config) {
    using Config = decltype(config);
    launch(
        params.is_limited() ? prompt_kernel_sm90<Config, true> : prompt_kernel_sm90<Config, false>,
        {.grid = dim3(static_cast<unsigned>(params.num_heads / Config::kHeads),
                      static_cast<unsigned>(pages), static_cast<unsigned>(num_sequences)),
         .block = dim3(Config::kThreads),
         .shared_bytes = Config::kSharedBytes,
         .stream = how.stream,
         .dependent = how.dependent},
        params, first_sequence);
  });
}

}  // namespace moe4::cuda
