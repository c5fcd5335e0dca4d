// PagedAttention for tokens that are generated, and for heads too wide for attend_prompts():
// sequences are split along their keys.
//
// A block has up to 16 rows, the heads of a KV head for some tokens, one operand of mma.m16n8k16,
// and passes over its keys a page at a time: each warp multiplies its part of the 64 keys with the
// queries, the weights of all meet in shared memory as F16, and each warp multiplies them with its
// part of the values' columns. Tiles of keys and values alternate in `num_tiles` buffers of shared
// memory, the next on its way while one is used; latent attention has one tile for both. The first
// tiles are on their way to the L2 while the kernel in front still runs.
//
// Chosen keys, and those of chosen blocks, are gathered as they are copied. A block's rows are
// heads of one token, which has keys of its own; counted in their order they are pages, groups and
// spans as all keys are.
//
// Spans of a sequence leave partial results, which the last block to come merges in their order,
// or, where they are many, merge_kernel().
//
// Head_dim 256: 75 KB of shared memory and 128 registers, two blocks an SM. What a block takes for
// a page is latency (products in chains, four barriers), so it has eight warps.
#include <type_traits>

#include "device/cuda/launch.h"
#include "device/cuda/ptx/launch.cuh"
#include "device/cuda/ptx/prefetch.cuh"
#include "ops/attention/cuda/tiles.cuh"

namespace moe4::cuda {
namespace {

constexpr int kRows = 16;
constexpr int kPagesOfGroup = 4;

// Narrow heads are faster with more blocks an SM, wide ones with more warps a block.
constexpr int warps_of(int value_panels) { return value_panels > 2 ? 8 : 4; }
// Blocks an SM, which its registers must suffice for.
constexpr int blocks_of(int value_panels) { return value_panels == 4 ? 2 : 1; }

// Shared memory beside the tiles: the queries' panels, weights [16][64], and what warps tell each
// other of a row.
constexpr int kQueryPanel = kRows * kRowBytes;
constexpr int kWeightBytes = kRows * kRowBytes;
constexpr int kStatBytes = 2 * 8 * kRows * static_cast<int>(sizeof(float));
constexpr int kTilePanel = kKeyBlock * kRowBytes;

// Where rows of a block are.
struct Rows16 {
  int sequence, kv_head;
  int first_token;  // of the sequence
  int first_row;    // of kv_head's rows: row r is head r % group of the sequence's token r / group
  int count;        // 1 .. 16
  int start;        // position of the first token

  __device__ int position(const AttentionParams& p, int row) const {
    return start + (first_row + row) / p.group;
  }
};

// Multiplies the queries with this warp's keys: 16 of them (4 warps) or 8 (8 warps).
template <int Panels, int Warps>
__device__ __forceinline__ void multiply_keys(uint32_t queries, uint32_t keys,
                                              float (&scores)[8 / Warps][4]) {
  constexpr int kTiles = 8 / Warps;
  const int lane = lane_id(), warp = static_cast<int>(threadIdx.x / 32);
  float sums[2][kTiles][4] = {};  // of even and odd steps: shorter chains of products
  const int query_row = lane % 16, query_chunk = lane / 16;
#pragma unroll
  for (int panel = 0; panel < Panels; ++panel) {
#pragma unroll
    for (int step = 0; step < 4; step += 2) {
      uint32_t a[2][4], b[2][4];
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        load_tile(a[i], queries + panel * kQueryPanel +
                            in_panel(query_row, 2 * (step + i) + query_chunk));
      }
      if constexpr (kTiles == 2) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          load_tile(b[i], keys + panel * kTilePanel +
                              in_panel(16 * warp + lane % 8 + lane / 16 * 8,
                                       2 * (step + i) + lane / 8 % 2));
          multiply_f16(sums[i][0], sums[i][1], a[i], b[i]);
        }
      } else {
        load_tile(b[0],
                  keys + panel * kTilePanel + in_panel(8 * warp + lane % 8, 2 * step + lane / 8));
        multiply_f16(sums[0][0], a[0], b[0][0], b[0][1]);
        multiply_f16(sums[1][0], a[1], b[0][2], b[0][3]);
      }
    }
  }
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
    for (int i = 0; i < 4; ++i) scores[tile][i] = sums[0][tile][i] + sums[1][tile][i];
  }
}

// In place of ChosenRows where all keys are seen.
struct NoRows {
  __device__ NoRows(const AttentionParams&, const int32_t*, int, const int32_t*, int) {}
};

// A partial result as a thread has it: rows g and g + 8, columns 2t and 2t + 1 of each 8 of the
// warp's.
template <int Tiles>
struct Partial {
  Weights weights[2];
  float values[Tiles][4];

  __device__ void clear() {
    weights[0] = weights[1] = {};
#pragma unroll
    for (int tile = 0; tile < Tiles; ++tile) {
#pragma unroll
      for (int i = 0; i < 4; ++i) values[tile][i] = 0;
    }
  }
  __device__ void add(const Partial& next) {
    const MergeFactors factors[2] = {merge(weights[0], next.weights[0]),
                                     merge(weights[1], next.weights[1])};
#pragma unroll
    for (int tile = 0; tile < Tiles; ++tile) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        values[tile][i] = scaled_sum(values[tile][i], next.values[tile][i], factors[i / 2]);
      }
    }
  }
};

// A partial result of one row as a merging thread has it: some columns.
template <int Count>
struct Columns {
  Weights weights;
  float values[Count]{};

  __device__ __forceinline__ void add(const Columns& next) {
    const MergeFactors factors = merge(weights, next.weights);
#pragma unroll
    for (int i = 0; i < Count; ++i) values[i] = scaled_sum(values[i], next.values[i], factors);
  }
};
using Column = Columns<2>;

// Merges the groups or super-groups that all blocks of these rows left and writes y.
// `first`: where the partial results of row 0 begin; `num_keys`: of every row, where it has a list.
template <int Threads, SeenKeys Seen>
__device__ __forceinline__ void merge_rows(const AttentionParams& p, const SplitShape& split,
                                           const Rows16& rows, int first_span, int64_t first,
                                           int num_keys) {
  constexpr int kColumns = 8, kAhead = 8;  // spans whose loads are on their way
  const int vectors = p.value_dim / kColumns, spans_of_super = 1 << (10 - split.span_shift);
  for (int i = static_cast<int>(threadIdx.x); i < rows.count * vectors; i += Threads) {
    const int row = i / vectors, d = i % vectors * kColumns;
    const int position = rows.position(p, row);
    const int begin = first_key(p, position) >> split.span_shift;
    const int last_key = Seen == SeenKeys::kAll ? position : num_keys - 1;
    const int end = (last_key >> split.span_shift) + 1;
    const int64_t at = first + static_cast<int64_t>(row) * split.num_spans - first_span;
    Columns<kColumns> total, super;
    for (int from = begin; from < end; from += kAhead) {
      Columns<kColumns> own[kAhead];
#pragma unroll
      for (int j = 0; j < kAhead; ++j) {
        if (from + j >= end) continue;
        const int64_t span = at + from + j;
        const float2 sums = __ldcg(split.sums + span);
        own[j].weights = {sums.x, sums.y};
#pragma unroll
        for (int k = 0; k < kColumns; k += 4) {
          const float4 x =
              __ldcg(reinterpret_cast<const float4*>(split.values + span * p.value_dim + d + k));
          own[j].values[k] = x.x, own[j].values[k + 1] = x.y;
          own[j].values[k + 2] = x.z, own[j].values[k + 3] = x.w;
        }
      }
#pragma unroll
      for (int j = 0; j < kAhead; ++j) {
        const int span = from + j;
        if (span >= end) continue;
        super.add(own[j]);
        if (span + 1 == end || (span + 1) % spans_of_super == 0) {
          total.add(super);
          super = {};
        }
      }
    }
    const int r = rows.first_row + row;
    HeadOutput(p, rows.first_token + r / p.group, rows.kv_head * p.group + r % p.group,
               total.weights)
        .template write_every<kColumns / 2>(d, 2, [&](int j) {
          return float2{total.values[2 * j], total.values[2 * j + 1]};
        });
  }
}

template <int Panels, int ValuePanels, int Warps, SeenKeys Seen>
__global__ void __launch_bounds__(32 * Warps, blocks_of(ValuePanels))
    split_kernel(const __grid_constant__ AttentionParams p,
                 const __grid_constant__ SplitShape split, int num_tiles) {
  constexpr bool kChosen = Seen != SeenKeys::kAll;
  constexpr int kThreads = 32 * Warps;
  constexpr int kKeyTiles = 8 / Warps;                  // of 8 keys, a warp's
  constexpr int kValueTiles = 8 * ValuePanels / Warps;  // of 8 columns, a warp's
  extern __shared__ __align__(1024) uint8_t shared[];
  const uint32_t tiles = shared_address(shared);
  constexpr uint32_t tile_bytes = Panels * kTilePanel;
  uint8_t* after = shared + num_tiles * tile_bytes;
  const uint32_t queries = shared_address(after);
  const uint32_t weights = queries + Panels * kQueryPanel;
  auto* tops = reinterpret_cast<float*>(after + Panels * kQueryPanel + kWeightBytes);
  float* sums = tops + Warps * kRows;

  Rows16 rows;
  rows.sequence = split.first_sequence + static_cast<int>(blockIdx.y);
  const int block_span = static_cast<int>(blockIdx.z);
  // KV heads first: blocks beside each other read the same pages. Spans last: those at the ends of
  // contexts are short.
  rows.kv_head = static_cast<int>(blockIdx.x) % p.num_kv_heads;
  const int row_tile = static_cast<int>(blockIdx.x) / p.num_kv_heads;
  const int tiles_of_token = (p.group + kRows - 1) / kRows;  // of chosen keys
  rows.first_row = kChosen ? row_tile / tiles_of_token * p.group + row_tile % tiles_of_token * kRows
                           : row_tile * kRows;
  const int32_t* blocks = p.blocks + rows.sequence * p.max_blocks;
  // Loads that wait for nothing: the first page too, where no window decides which that is.
  const int64_t guess = int64_t{block_span} << split.span_shift >> 6;
  const int guessed = !kChosen && !p.is_limited() && guess < p.max_blocks ? blocks[guess] : 0;
  rows.first_token = p.query_start[rows.sequence];
  const int tokens = p.query_start[rows.sequence + 1] - rows.first_token;
  rows.start = p.context_len[rows.sequence] - tokens;
  const int end_row = kChosen ? (rows.first_row / p.group + 1) * p.group : tokens * p.group;
  rows.count = rows.first_row < tokens * p.group ? min(kRows, end_row - rows.first_row) : 0;
  if (kChosen && rows.position(p, 0) < split.first_position) rows.count = 0;
  // Lists of blocks say how many keys there are.
  if (Seen == SeenKeys::kChosenBlocks) wait_for_previous_kernel();
  // Spans are counted from the one with the first key that the sequence's first token sees.
  const int first_span = first_key(p, rows.start) >> split.span_shift;
  const int64_t span = first_span + block_span;
  const int64_t span_begin = span << split.span_shift;
  const int token = rows.first_token + rows.first_row / p.group;  // of chosen keys
  const int last_position = rows.position(p, rows.count - 1);
  const int num_keys = kChosen && rows.count > 0 ? p.num_keys(token, rows.kv_head, last_position)
                                                 : last_position + 1;
  const int lowest = first_key(p, rows.position(p, 0));
  const int begin = static_cast<int>(max(span_begin, static_cast<int64_t>(lowest)));
  const int end = static_cast<int>(
      min(span_begin + (int64_t{1} << split.span_shift), static_cast<int64_t>(num_keys)));
  const bool has_keys = rows.count > 0 && begin < end;
  const int first_page = begin / kKeyBlock, last_page = (end - 1) / kKeyBlock;
  const int64_t rows_before = rows.kv_head * int64_t{kKeyBlock};
  const std::byte* all_keys = p.pages + rows_before * p.key_bytes();
  const std::byte* all_values = p.pages + p.values_in_page + rows_before * p.value_bytes();
  int block = 0;
  if (has_keys && !kChosen) {
    block = !p.is_limited() ? guessed : blocks[first_page];
    constexpr int kLine = 128;
    const int64_t page = block * p.page_bytes;
    const int keys = min(kKeyBlock, num_keys - first_page * kKeyBlock);
    const int bytes = keys * p.key_bytes(), bytes_of_values = keys * p.value_bytes();
    for (int i = static_cast<int>(threadIdx.x) * kLine; i < bytes; i += kThreads * kLine) {
      prefetch_l2(all_keys + page + i);
      if (!p.latent && i < bytes_of_values) prefetch_l2(all_values + page + i);
    }
  }
  wait_for_previous_kernel();
  launch_dependents();
  if (!has_keys) return;

  using Gather = std::conditional_t<kChosen, ChosenRows<kThreads, Seen>, NoRows>;
  Gather gather(p, p.list(token, rows.kv_head), num_keys, blocks, first_page);
  // Tiles in order: keys and values of each page in turn, or, latent, keys alone.
  const int tiles_of_page = p.latent ? 1 : 2;
  int next_page = first_page, next_tile = 0, next_buffer = 0;
  const auto copy_next = [&] {
    if (next_page <= last_page) {
      const bool is_values = next_tile > 0;
      const std::byte* from = is_values ? all_values : all_keys;
      const int width = is_values ? p.value_dim : p.head_dim;
      if constexpr (kChosen) {
        gather.copy(p, tiles + next_buffer * tile_bytes, from, width, Panels);
      } else {
        copy_tile<kKeyBlock, kThreads>(p, tiles + next_buffer * tile_bytes,
                                       from + block * p.page_bytes, width, Panels,
                                       num_keys - next_page * kKeyBlock);
      }
      next_buffer = next_buffer + 1 < num_tiles ? next_buffer + 1 : 0;
      if (++next_tile == tiles_of_page) {
        next_tile = 0;
        ++next_page;
        if constexpr (kChosen) {
          gather.advance();
        } else if (next_page <= last_page) {
          block = blocks[next_page];
        }
      }
    }
    copy_commit();
  };
  // The oldest tile on its way has landed, for this thread.
  const auto wait_for_tile = [&] {
    if (num_tiles > 1) {
      copy_wait<1>();
    } else {
      copy_wait<0>();
    }
  };
  // Queries first, which would wait behind the tiles; they are put to shared memory after those
  // are on their way.
  constexpr int kQueryRows = kRows * 16 / kThreads;  // of a thread
  float4 query_parts[kQueryRows][Panels];
#pragma unroll
  for (int j = 0; j < kQueryRows; ++j) {
    const int row = static_cast<int>(threadIdx.x / 16) + j * (kThreads / 16);
    const int r = rows.first_row + row;
    const float* query = p.queries + (rows.first_token + r / p.group) * p.query_stride +
                         (rows.kv_head * p.group + r % p.group) * p.head_dim;
#pragma unroll
    for (int panel = 0; panel < Panels; ++panel) {
      const int d = 64 * panel + static_cast<int>(threadIdx.x % 16) * 4;
      const bool wanted = row < rows.count && d < p.head_dim;
      query_parts[j][panel] = wanted ? *reinterpret_cast<const float4*>(query + d) : float4{};
    }
  }
  for (int i = 0; i < num_tiles; ++i) copy_next();

#pragma unroll
  for (int j = 0; j < kQueryRows; ++j) {
#pragma unroll
    for (int panel = 0; panel < Panels; ++panel) {
      put_query(queries + panel * kQueryPanel,
                static_cast<int>(threadIdx.x / 16) + j * (kThreads / 16),
                static_cast<int>(threadIdx.x % 16), query_parts[j][panel], p.scale);
    }
  }

  const int lane = lane_id(), warp = static_cast<int>(threadIdx.x / 32);
  const int g = lane / 4, t = lane % 4;
  int last_key[2], lowest_key[2];  // that rows g and g + 8 see
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = g + 8 * half;
    last_key[half] = row < rows.count ? rows.position(p, row) : -1;
    lowest_key[half] = first_key(p, last_key[half]);
    if (kChosen) last_key[half] = min(last_key[half], num_keys - 1);
  }
  Partial<kValueTiles> group, super;
  group.clear();
  super.clear();
  uint32_t buffer = 0;
  for (int page = first_page; page <= last_page; ++page) {
    const uint32_t keys = tiles + buffer * tile_bytes;
    if (!p.latent) buffer = static_cast<int>(buffer) + 1 < num_tiles ? buffer + 1 : 0;
    const uint32_t values = tiles + buffer * tile_bytes;
    buffer = static_cast<int>(buffer) + 1 < num_tiles ? buffer + 1 : 0;

    wait_for_tile();
    __syncthreads();  // keys are there (and the queries)
    float scores[kKeyTiles][4];
    multiply_keys<Panels, Warps>(queries, keys, scores);
    float top[2] = {-INFINITY, -INFINITY};
#pragma unroll
    for (int tile = 0; tile < kKeyTiles; ++tile) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int key = page * kKeyBlock + (warp * kKeyTiles + tile) * 8 + 2 * t + i % 2;
        const bool seen = key <= last_key[i / 2] && key >= lowest_key[i / 2];
        if (!seen) scores[tile][i] = -INFINITY;
        top[i / 2] = fmaxf(top[i / 2], scores[tile][i]);
      }
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      top[half] = fmaxf(top[half], __shfl_xor_sync(0xffffffff, top[half], 1));
      top[half] = fmaxf(top[half], __shfl_xor_sync(0xffffffff, top[half], 2));
      if (t == 0) tops[warp * kRows + g + 8 * half] = top[half];
    }
    __syncthreads();  // all warps are done with the keys
    if (!p.latent) copy_next();

    float sum[2] = {};
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      for (int w = 0; w < Warps; ++w) top[half] = fmaxf(top[half], tops[w * kRows + g + 8 * half]);
    }
#pragma unroll
    for (int tile = 0; tile < kKeyTiles; ++tile) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        // A row may see no key of the page; its weights are then 0.
        const float least = top[half] == -INFINITY ? 0.0f : top[half];
        const uint32_t pair = pack_f16(exp2_fast(scores[tile][2 * half] - least),
                                       exp2_fast(scores[tile][2 * half + 1] - least));
        const float2 rounded = unpack_f16(pair);
        sum[half] += rounded.x + rounded.y;
        const int row = g + 8 * half;
        asm volatile("st.shared.u32 [%0], %1;" ::"r"(
                         weights + in_panel(row, warp * kKeyTiles + tile) + 4 * t),
                     "r"(pair)
                     : "memory");
      }
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      sum[half] += __shfl_xor_sync(0xffffffff, sum[half], 1);
      sum[half] += __shfl_xor_sync(0xffffffff, sum[half], 2);
      if (t == 0) sums[warp * kRows + g + 8 * half] = sum[half];
    }
    if (!p.latent) wait_for_tile();
    __syncthreads();  // weights and values are there
    MergeFactors factors[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      Weights of_page{.top = top[half]};
      for (int w = 0; w < Warps; ++w) of_page.sum += sums[w * kRows + g + 8 * half];
      factors[half] = merge(group.weights[half], of_page);
    }
    uint32_t a[4][4];
#pragma unroll
    for (int step = 0; step < 4; ++step) {
      load_tile(a[step], weights + in_panel(lane % 16, 2 * step + lane / 16));
    }
#pragma unroll
    for (int pair = 0; pair < kValueTiles / 2; ++pair) {
      const int chunk = warp * kValueTiles + 2 * pair + lane / 16;  // of 8 columns
      const uint32_t panel = values + chunk / 8 * kTilePanel;
      float products[2][4] = {};
#pragma unroll
      for (int step = 0; step < 4; ++step) {
        uint32_t b[4];
        load_tile_transposed(b, panel + in_panel(16 * step + lane % 16, chunk % 8));
        multiply_f16(products[0], products[1], a[step], b);
      }
#pragma unroll
      for (int tile = 0; tile < 2; ++tile) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          float& value = group.values[2 * pair + tile][i];
          value = scaled_sum(value, products[tile][i], factors[i / 2]);
        }
      }
    }
    if (page % kPagesOfGroup == kPagesOfGroup - 1 || page == last_page) {
      super.add(group);
      group.clear();
    }
    __syncthreads();  // all warps are done with the values
    copy_next();
  }

  // Blocks that have keys for these rows.
  const int num_parts = ((num_keys - 1) >> split.span_shift) - (lowest >> split.span_shift) + 1;
  const bool is_part = split.tickets != nullptr ? num_parts > 1 : split.num_spans > 1;
  const int64_t first_partial =
      ((static_cast<int64_t>(blockIdx.y) * p.num_kv_heads + rows.kv_head) * split.max_tokens *
           p.group +
       rows.first_row) *
      split.num_spans;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = g + 8 * half;
    if (row >= rows.count) continue;
    const int r = rows.first_row + row;
    const int first_column = warp * kValueTiles * 8 + 2 * t;
    if (is_part) {
      const int64_t i = first_partial + static_cast<int64_t>(row) * split.num_spans + block_span;
#pragma unroll
      for (int tile = 0; tile < kValueTiles; ++tile) {
        const int d = first_column + 8 * tile;
        if (d >= p.value_dim) continue;
        *reinterpret_cast<float2*>(split.values + i * p.value_dim + d) = {
            super.values[tile][2 * half], super.values[tile][2 * half + 1]};
      }
      if (warp == 0 && t == 0) split.sums[i] = {super.weights[half].top, super.weights[half].sum};
      continue;
    }
    const HeadOutput out(p, rows.first_token + r / p.group, rows.kv_head * p.group + r % p.group,
                         super.weights[half]);
    out.write_every<kValueTiles>(first_column, 8, [&](int tile) {
      return float2{super.values[tile][2 * half], super.values[tile][2 * half + 1]};
    });
  }
  if (!is_part || split.tickets == nullptr) return;
  auto* const is_last = reinterpret_cast<int*>(tops);
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    int32_t* ticket = split.tickets + static_cast<int64_t>(blockIdx.y) * gridDim.x + blockIdx.x;
    *is_last = atomicAdd(ticket, 1) + 1 == num_parts ? 1 : 0;
    if (*is_last != 0) *ticket = 0;  // for the next launch
    __threadfence();
  }
  __syncthreads();
  if (*is_last != 0) {
    merge_rows<kThreads, Seen>(p, split, rows, first_span, first_partial, num_keys);
  }
}

constexpr int kMergeParts = 4;     // threads that share a column
constexpr int kMergeColumns = 64;  // pairs of a block
constexpr int kMergeThreads = kMergeParts * kMergeColumns;
constexpr int kPartSpans = 4;

// Many spans. A block has a head of a token and up to 128 of its columns. Sixteen spans at a time:
// each part reads four and, where they are pages of a group or groups of a super-group, merges
// them; part 0 merges what the parts have, in the order that SplitShape says.
__global__ void __launch_bounds__(kMergeThreads)
    merge_kernel(const __grid_constant__ AttentionParams p,
                 const __grid_constant__ SplitShape split) {
  constexpr int kSpans = kMergeParts * kPartSpans;
  __shared__ float4 merged[kSpans][kMergeColumns];  // {top, sum, values}
  const int sequence = split.first_sequence + static_cast<int>(blockIdx.z);
  const int head = static_cast<int>(blockIdx.x), kv_head = head / p.group;
  const int first_token = p.query_start[sequence];
  const int tokens = p.query_start[sequence + 1] - first_token;
  const int start = p.context_len[sequence] - tokens;
  const int token = static_cast<int>(blockIdx.y) % split.max_tokens;
  const int column = static_cast<int>(threadIdx.x) % kMergeColumns;
  const int part = static_cast<int>(threadIdx.x) / kMergeColumns;
  const int d = (static_cast<int>(blockIdx.y) / split.max_tokens * kMergeColumns + column) * 2;
  const int first_span = first_key(p, start) >> split.span_shift;
  const int begin = first_key(p, start + token) >> split.span_shift;
  const int row = token * p.group + head % p.group;
  const int64_t first =
      ((static_cast<int64_t>(blockIdx.z) * p.num_kv_heads + kv_head) * split.max_tokens * p.group +
       row) *
          split.num_spans -
      first_span;
  // The batch is older than the step's first kernel.
  wait_for_previous_kernel();
  launch_dependents();
  if (token >= tokens) return;
  const int num_keys = p.num_keys(first_token + token, kv_head, start + token);
  const int end = ((num_keys - 1) >> split.span_shift) + 1;
  const float2 gates = element_gates(p, first_token + token, head, d);
  Column total;
  for (int from = begin / kSpans * kSpans; from < end; from += kSpans) {
    Column own[kPartSpans];
#pragma unroll
    for (int i = 0; i < kPartSpans; ++i) {
      const int span = from + part * kPartSpans + i;
      if (span < begin || span >= end || d >= p.value_dim) continue;
      const float2 sums = split.sums[first + span];
      const float2 values =
          *reinterpret_cast<const float2*>(split.values + (first + span) * p.value_dim + d);
      own[i] = {{sums.x, sums.y}, {values.x, values.y}};
    }
    const auto put = [&](int i, const Column& x) {
      merged[i][column] = {x.weights.top, x.weights.sum, x.values[0], x.values[1]};
    };
    const auto get = [&](int i) {
      const float4 x = merged[i][column];
      return Column{{x.x, x.y}, {x.z, x.w}};
    };
    const bool are_supers = split.span_shift == 10;
    if (are_supers) {
#pragma unroll
      for (int i = 0; i < kPartSpans; ++i) put(part * kPartSpans + i, own[i]);
    } else {
      Column of_part;
#pragma unroll
      for (int i = 0; i < kPartSpans; ++i) of_part.add(own[i]);
      put(part, of_part);
    }
    __syncthreads();
    if (part == 0) {
      if (split.span_shift == 6) {  // the parts have groups
        Column super;
#pragma unroll
        for (int i = 0; i < kMergeParts; ++i) super.add(get(i));
        total.add(super);
      } else {
        for (int i = 0; i < (are_supers ? kSpans : kMergeParts); ++i) total.add(get(i));
      }
    }
    __syncthreads();
  }
  if (part > 0 || d >= p.value_dim) return;
  HeadOutput(p, first_token + token, head, total.weights)
      .write(d, {total.values[0], total.values[1]}, gates);
}

using SplitKernel = void (*)(AttentionParams, SplitShape, int);

template <SeenKeys Seen>
SplitKernel split_kernel_of(int value_panels) {
  switch (value_panels) {
    case 1:
      return split_kernel<1, 1, warps_of(1), Seen>;
    case 2:
      return split_kernel<2, 2, warps_of(2), Seen>;
    case 4:
      return split_kernel<4, 4, warps_of(4), Seen>;
    default:  // not with blocks: supports.cc
      if constexpr (Seen == SeenKeys::kChosenBlocks) return nullptr;
      return split_kernel<kMaxKeyPanels, 8, warps_of(8), Seen>;
  }
}
SplitKernel split_kernel_of(const AttentionShape& shape) {
  switch (shape.seen) {
    case SeenKeys::kAll:
      return split_kernel_of<SeenKeys::kAll>(shape.value_panels);
    case SeenKeys::kChosenKeys:
      return split_kernel_of<SeenKeys::kChosenKeys>(shape.value_panels);
    case SeenKeys::kChosenBlocks:
      return split_kernel_of<SeenKeys::kChosenBlocks>(shape.value_panels);
  }
  return nullptr;
}

int shared_bytes(const AttentionShape& shape) {
  return shape.key_panels * (shape.split_tiles * kTilePanel + kQueryPanel) + kWeightBytes +
         kStatBytes;
}

}  // namespace

bool prepare_split(AttentionShape& shape, int max_shared_bytes) {
  const SplitKernel kernel = split_kernel_of(shape);
  shape.split_tiles = 2;
  while (shared_bytes(shape) > max_shared_bytes) {
    if (--shape.split_tiles == 0) return false;
  }
  MOE4_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                       shared_bytes(shape)));
  return true;
}

void attend_split(const AttentionShape& shape, const AttentionParams& params,
                  const SplitShape& split, const KernelLaunch& how) {
  const int64_t tiles = split_row_tiles(split.max_tokens, params.group, shape.seen);
  launch(split_kernel_of(shape),
         {.grid = dim3(static_cast<unsigned>(tiles * params.num_kv_heads),
                       static_cast<unsigned>(split.num_sequences),
                       static_cast<unsigned>(split.num_spans)),
          .block = dim3(static_cast<unsigned>(32 * warps_of(shape.value_panels))),
          .shared_bytes = static_cast<size_t>(shared_bytes(shape)),
          .stream = how.stream,
          .dependent = how.dependent},
         params, split, shape.split_tiles);
}

void merge_splits(const AttentionParams& params, const SplitShape& split, const KernelLaunch& how) {
  const int64_t columns = ceil_div(int64_t{params.value_dim}, int64_t{2 * kMergeColumns});
  launch(merge_kernel,
         {.grid = dim3(static_cast<unsigned>(params.num_heads),
                       static_cast<unsigned>(split.max_tokens * columns),
                       static_cast<unsigned>(split.num_sequences)),
          .block = dim3(kMergeThreads),
          .stream = how.stream,
          .dependent = how.dependent},
         params, split);
}

}  // namespace moe4::cuda
