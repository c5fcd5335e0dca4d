// PagedAttention for pieces of prompts, head_dim up to 256: tiles of queries that pass over their
// keys with a running maximum (FlashAttention-2, arXiv 2307.08691).
//
// A block has 64 positions of a sequence, those of one page, and one or two heads of a KV head; a
// warp has 16 of its rows, an operand of mma.m16n8k16, whose scores, weights and sums stay in
// registers. Two stages of keys and values in shared memory, the next on its way while one is used,
// one barrier a tile. Only the last tile needs the causal mask, and with a window the first ones.
//
// A row's bits depend on its own query and keys: tiles begin at multiples of their size, and a
// tile of which a row sees nothing leaves its sums as they are. Longest rows start first.
#include "device/cuda/launch.h"
#include "device/cuda/ptx/launch.cuh"
#include "ops/attention/cuda/tiles.cuh"

namespace moe4::cuda {
namespace {

constexpr int kWarpsOfHead = kKeyBlock / 16;
constexpr int kQueryPanel = kKeyBlock * kRowBytes;  // of one head

template <int Panels, int Heads, int Keys>
struct PromptConfig {
  static constexpr int kPanels = Panels;
  static constexpr int kHeads = Heads;
  static constexpr int kKeys = Keys;  // of a tile
  static constexpr int kThreads = 32 * kWarpsOfHead * Heads;
  static constexpr int kTilePanel = Keys * kRowBytes;
  static constexpr int kStage = 2 * Panels * kTilePanel;  // keys, values
  static constexpr int kSharedBytes = Heads * Panels * kQueryPanel + 2 * kStage;
};

template <class Config>
__global__ void __launch_bounds__(Config::kThreads)
    prompt_kernel(const __grid_constant__ AttentionParams p, int first_sequence) {
  constexpr int kPanels = Config::kPanels, kKeys = Config::kKeys;
  constexpr int kKeyTiles = kKeys / 8, kValueTiles = 8 * kPanels;
  constexpr int kTilePanel = Config::kTilePanel;
  extern __shared__ __align__(1024) uint8_t shared[];
  const uint32_t stages = shared_address(shared);
  const uint32_t queries = stages + 2 * Config::kStage;

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
  const int kv_head = first_head / p.group;
  const int first_position = page * kKeyBlock;

  const int32_t* blocks = p.blocks + sequence * p.max_blocks;
  const std::byte* all_keys = p.pages + kv_head * int64_t{kKeyBlock} * p.key_bytes();
  const std::byte* all_values =
      p.pages + p.values_in_page + kv_head * int64_t{kKeyBlock} * p.value_bytes();
  const int num_keys = min(end, first_position + kKeyBlock);
  const int first_tile = first_key(p, max(start, first_position)) / kKeys;
  const int last_tile = (num_keys - 1) / kKeys;
  const auto copy_stage = [&](int tile, int block) {
    if (tile <= last_tile) {
      const uint32_t stage = stages + tile % 2 * Config::kStage;
      const int first_row = tile * kKeys % kKeyBlock;  // in the page
      const int rows = num_keys - tile * kKeys;
      copy_tile<kKeys, Config::kThreads>(
          p, stage, all_keys + block * p.page_bytes + first_row * p.key_bytes(), p.head_dim,
          kPanels, rows);
      if (!p.latent) {
        copy_tile<kKeys, Config::kThreads>(
            p, stage + kPanels * kTilePanel,
            all_values + block * p.page_bytes + first_row * p.value_bytes(), p.value_dim, kPanels,
            rows);
      }
    }
    copy_commit();
  };
  const auto block_of = [&](int tile) { return blocks[min(tile, last_tile) * kKeys / kKeyBlock]; };
  int block = block_of(first_tile + 1);
  copy_stage(first_tile, block_of(first_tile));

  put_queries<Config::kHeads, kPanels, Config::kThreads>(p, queries, first_head, first_token,
                                                         first_position, start, end);

  const int lane = lane_id(), warp = static_cast<int>(threadIdx.x / 32);
  const int g = lane / 4, t = lane % 4;
  const int head_in_block = warp / kWarpsOfHead, first_row = warp % kWarpsOfHead * 16;
  const uint32_t own_queries = queries + head_in_block * kPanels * kQueryPanel;
  const int position = first_position + first_row + g;  // of row g; of the other 8 more
  Weights total[2];
  float values[kValueTiles][4] = {};

  for (int tile = first_tile; tile <= last_tile; ++tile) {
    copy_wait<0>();
    __syncthreads();  // this tile is there, and all are done with the one before
    copy_stage(tile + 1, block);
    block = block_of(tile + 2);
    const uint32_t keys_at = stages + tile % 2 * Config::kStage;
    const uint32_t values_at = p.latent ? keys_at : keys_at + kPanels * kTilePanel;

    float scores[kKeyTiles][4] = {};
#pragma unroll
    for (int step = 0; step < 4 * kPanels; ++step) {
      uint32_t a[4];
      load_tile(a, own_queries + step / 4 * kQueryPanel +
                       in_panel(first_row + lane % 16, step % 4 * 2 + lane / 16));
#pragma unroll
      for (int pair = 0; pair < kKeyTiles / 2; ++pair) {
        uint32_t b[4];
        load_tile(b,
                  keys_at + step / 4 * kTilePanel +
                      in_panel(16 * pair + lane % 8 + lane / 16 * 8, step % 4 * 2 + lane / 8 % 2));
        multiply_f16(scores[2 * pair], scores[2 * pair + 1], a, b);
      }
    }
    // Whether some row of the block does not see all keys of the tile.
    if ((tile + 1) * kKeys > first_position ||
        tile * kKeys < first_key(p, first_position + kKeyBlock - 1)) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int last = position + 8 * half, lowest = first_key(p, last);
#pragma unroll
        for (int i = 0; i < 2 * kKeyTiles; ++i) {
          const int key = tile * kKeys + i / 2 * 8 + 2 * t + i % 2;
          if (key > last || key < lowest) scores[i / 2][2 * half + i % 2] = -INFINITY;
        }
      }
    }

    uint32_t weights[kKeyTiles][2];  // [..][half]: F16 pairs
    MergeFactors factors[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float top = total[half].top;
#pragma unroll
      for (int i = 0; i < kKeyTiles; ++i) {
        top = fmaxf(top, fmaxf(scores[i][2 * half], scores[i][2 * half + 1]));
      }
      top = fmaxf(top, __shfl_xor_sync(0xffffffff, top, 1));
      top = fmaxf(top, __shfl_xor_sync(0xffffffff, top, 2));
      const float least = top == -INFINITY ? 0.0f : top;
      float sum = 0;
#pragma unroll
      for (int i = 0; i < kKeyTiles; ++i) {
        weights[i][half] = pack_f16(exp2_fast(scores[i][2 * half] - least),
                                    exp2_fast(scores[i][2 * half + 1] - least));
        const float2 rounded = unpack_f16(weights[i][half]);
        sum += rounded.x + rounded.y;
      }
      // The thread's own keys alone: four threads have a row's.
      factors[half] = {exp2_fast(total[half].top - least), 1.0f};
      total[half].sum = __fmaf_rn(total[half].sum, factors[half].keep, sum);
      total[half].top = top;
    }
    // Most tiles have no new maximum: times 1 changes nothing.
    if (__any_sync(0xffffffff, factors[0].keep != 1.0f || factors[1].keep != 1.0f)) {
#pragma unroll
      for (int i = 0; i < kValueTiles; ++i) {
#pragma unroll
        for (int j = 0; j < 4; ++j) values[i][j] *= factors[j / 2].keep;
      }
    }
#pragma unroll
    for (int step = 0; step < kKeys / 16; ++step) {
      const uint32_t a[4] = {weights[2 * step][0], weights[2 * step][1], weights[2 * step + 1][0],
                             weights[2 * step + 1][1]};
#pragma unroll
      for (int pair = 0; pair < kValueTiles / 2; ++pair) {
        const int chunk = 2 * pair + lane / 16;
        uint32_t b[4];
        load_tile_transposed(
            b, values_at + pair / 4 * kTilePanel + in_panel(16 * step + lane % 16, chunk % 8));
        multiply_f16(values[2 * pair], values[2 * pair + 1], a, b);
      }
    }
  }

#pragma unroll
  for (int half = 0; half < 2; ++half) {
    Weights weights = total[half];
    weights.sum += __shfl_xor_sync(0xffffffff, weights.sum, 1);
    weights.sum += __shfl_xor_sync(0xffffffff, weights.sum, 2);
    const int at = position + 8 * half;
    if (at < start || at >= end) continue;
    const HeadOutput out(p, first_token + at - start, first_head + head_in_block, weights);
    out.write_every<kValueTiles>(2 * t, 8, [&](int i) {
      return float2{values[i][2 * half], values[i][2 * half + 1]};
    });
  }
}

// Calls f(PromptConfig{}) with that of the shape.
template <class F>
void with_config(const AttentionShape& shape, const F& f) {
  const bool two = shape.prompt_heads == 2;
  switch (shape.value_panels) {
    case 1:
      return two ? f(PromptConfig<1, 2, 64>{}) : f(PromptConfig<1, 1, 64>{});
    case 2:
      return two ? f(PromptConfig<2, 2, 64>{}) : f(PromptConfig<2, 1, 64>{});
    default:
      if (shape.prompt_keys == 32) return f(PromptConfig<4, 1, 32>{});
      return two ? f(PromptConfig<4, 2, 64>{}) : f(PromptConfig<4, 1, 64>{});
  }
}

}  // namespace

bool prepare_prompts(AttentionShape& shape, int max_shared_bytes) {
  const int most_heads = shape.prompt_heads;
  for (const int keys : {64, 32}) {
    for (const int heads : {2, 1}) {
      if (heads > most_heads || (keys == 32 && (heads == 2 || shape.value_panels != 4))) continue;
      shape.prompt_heads = heads;
      shape.prompt_keys = keys;
      bool fits = false;
      with_config(shape, [&](auto config) {
        using Config = decltype(config);
        fits = Config::kSharedBytes <= max_shared_bytes;
        if (!fits) return;
        MOE4_CUDA_CHECK(cudaFuncSetAttribute(prompt_kernel<Config>,
                                             cudaFuncAttributeMaxDynamicSharedMemorySize,
                                             Config::kSharedBytes));
      });
      if (fits) return true;
    }
  }
  return false;
}

void attend_prompts(const AttentionShape& shape, const AttentionParams& params, int first_sequence,
                    int num_sequences, int max_tokens, const KernelLaunch& how) {
  // A piece that begins inside a page touches one page more.
  const int64_t pages = ceil_div(int64_t{max_tokens}, int64_t{kKeyBlock}) + 1;
  with_config(shape, [&](auto config) {
    using Config = decltype(config);
    launch(prompt_kernel<Config>,
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
