// CompressedAttention on NVIDIA GPUs: 16 heads of a token a block, on tensor cores.
//
// A token's keys are gathered, 64 at a time, into a tile of shared memory that serves both
// products, since keys are values: those of its window, then the shared ones, all of them or the
// chosen. The next tile is on its way while one is used, where shared memory has room for two. Each
// warp multiplies its part of the keys with the queries, the weights of all meet in shared memory
// as F16, and each multiplies them with its part of the columns. Tokens that are generated and
// those of prompts are done alike; where there are few, their keys are dealt over blocks.
//
// head_dim 512: 147 KB of shared memory with two tiles, 83 with one; 8 warps.
#include "base/checked_math.h"
#include "device/cuda/launch.h"
#include "device/cuda/ptx/launch.cuh"
#include "ops/attention/cuda/tiles.cuh"
#include "ops/compressed_attention/cuda/kernels.h"

namespace moe4::cuda {
namespace {

constexpr int kRows = kHeadsOfBlock;
constexpr int kPagesOfGroup = 4;
constexpr int kPageShift = 6, kGroupShift = 8;
static_assert(kKeyBlock == 1 << kPageShift && kPagesOfGroup == 1 << (kGroupShift - kPageShift));

constexpr int warps_of(int panels) { return panels > 2 ? 8 : 4; }

// Shared memory beside the tiles: the queries' panels, weights [16][64], and what warps tell each
// other of a row.
constexpr int kQueryPanel = kRows * kRowBytes;
constexpr int kWeightBytes = kRows * kRowBytes;
constexpr int kStatBytes = 2 * 8 * kRows * static_cast<int>(sizeof(float));
constexpr int kTilePanel = kKeyBlock * kRowBytes;

constexpr int shared_bytes(int panels, int tiles) {
  return panels * (tiles * kTilePanel + kQueryPanel) + kWeightBytes + kStatBytes;
}

// Copies a token's keys page by page. Where keys are is found two loads ahead of their copy, since
// each load's address depends on the one before.
template <int Threads>
class Gather {
 public:
  __device__ Gather(const CompressedParams& p, int sequence, int64_t token, int position,
                    int num_keys, int first_page)
      : p_(p),
        window_blocks_(p.window_pages.blocks + sequence * p.window_pages.max_blocks),
        shared_blocks_(p.shared_pages.blocks + sequence * p.shared_pages.max_blocks),
        chosen_(p.num_chosen > 0 ? p.chosen + token * p.num_chosen : nullptr),
        window_keys_(p.window_keys(position)),
        first_position_(position + 1 - window_keys_),
        num_keys_(num_keys),
        page_(first_page) {
    load_keys();
    advance();
  }

  /// The next 64 keys; zeros behind the last, since a weight of 0 times what is there need not be
  /// 0.
  __device__ __forceinline__ void copy(uint32_t tile, int panels) {
    const int chunk = static_cast<int>(threadIdx.x % 8), row_bytes = 2 * p_.head_dim;
    for (int panel = 0; panel < panels; ++panel) {
      const int column = 16 * (8 * panel + chunk);  // bytes
#pragma unroll
      for (int i = 0; i < kOwn; ++i) {
        const bool wanted = from_[i] != nullptr && column < row_bytes;
        copy16(tile + panel * kTilePanel + in_panel(row(i), chunk),
               wanted ? from_[i] + column : p_.window_pages.data, wanted ? 16 : 0);
      }
    }
    advance();
  }

 private:
  static constexpr int kOwn = kKeyBlock * 8 / Threads;  // rows that a thread copies

  __device__ static int row(int i) { return static_cast<int>(threadIdx.x / 8) + i * (Threads / 8); }
  // A position, or a shared key counted from num_keys_ on; -1: none.
  __device__ __forceinline__ void load_keys() {
#pragma unroll
    for (int i = 0; i < kOwn; ++i) {
      const int at = page_ * kKeyBlock + row(i), place = at - window_keys_;
      is_shared_[i] = place >= 0;
      key_[i] = at >= num_keys_      ? -1
                : place < 0          ? first_position_ + at
                : chosen_ == nullptr ? place
                                     : chosen_[place];
    }
    ++page_;
  }
  __device__ __forceinline__ void advance() {
#pragma unroll
    for (int i = 0; i < kOwn; ++i) {
      from_[i] = key_[i] < 0 ? nullptr : is_shared_[i] ? shared_key(key_[i]) : window_key(key_[i]);
    }
    load_keys();
  }
  __device__ __forceinline__ const std::byte* window_key(int position) const {
    const int64_t block = window_blocks_[position / kKeyBlock];
    return p_.window_pages.data + block * p_.window_pages.page_bytes +
           position % kKeyBlock * (2 * p_.head_dim);
  }
  __device__ __forceinline__ const std::byte* shared_key(int key) const {
    const int64_t block = shared_blocks_[p_.places.page(key)];
    return p_.shared_pages.data + block * p_.shared_pages.page_bytes +
           p_.places.place(key) * (2 * p_.head_dim);
  }

  const CompressedParams& p_;
  const int32_t *window_blocks_, *shared_blocks_, *chosen_;
  const int window_keys_, first_position_, num_keys_;
  int page_;
  int key_[kOwn];  // of the page behind the next
  bool is_shared_[kOwn];
  const std::byte* from_[kOwn];  // of the next page
};

// Products of the queries with this warp's keys of a tile: 16 of them (4 warps) or 8 (8 warps).
template <int Panels, int Warps>
__device__ __forceinline__ void multiply_keys(uint32_t queries, uint32_t keys,
                                              float (&scores)[8 / Warps][4]) {
  constexpr int kTiles = 8 / Warps;
  const int lane = lane_id(), warp = static_cast<int>(threadIdx.x / 32);
  float sums[2][kTiles][4] = {};  // of even and odd steps: shorter chains of products
#pragma unroll
  for (int panel = 0; panel < Panels; ++panel) {
#pragma unroll
    for (int step = 0; step < 4; step += 2) {
      uint32_t a[2][4], b[2][4];
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        load_tile(a[i],
                  queries + panel * kQueryPanel + in_panel(lane % 16, 2 * (step + i) + lane / 16));
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

// A partial result of `Count` values of one row.
template <int Count>
struct Partial {
  Weights weights;
  float values[Count] = {};

  __device__ __forceinline__ void add(const Partial& next) {
    const MergeFactors factors = merge(weights, next.weights);
#pragma unroll
    for (int i = 0; i < Count; ++i) values[i] = scaled_sum(values[i], next.values[i], factors);
  }
};

// Writes pairs of neighbouring elements of one head of one token, turned back.
class HeadResult {
 public:
  /// `weights`: of all keys; the sink is added here.
  __device__ HeadResult(const CompressedParams& p, int64_t token, int head, const Weights& weights)
      : p_(p),
        angles_(p.angles + token * p.angle_stride),
        at_(token * p.y_stride + static_cast<int64_t>(head) * p.head_dim) {
    const float sink = p.sinks[head], top = fmaxf(weights.top, sink);
    const float keys = exp2f(weights.top - top);
    factor_ = keys / (weights.sum * keys + exp2f(sink - top));
  }

  /// Elements d and d + 1, d even.
  __device__ __forceinline__ void write(int d, float2 x) const {
    if (d >= p_.head_dim) return;
    x = {__fmul_rn(x.x, factor_), __fmul_rn(x.y, factor_)};
    const int turned = d - (p_.head_dim - 2 * p_.half);
    if (turned >= 0) {
      const float cosine = angles_[turned / 2], sine = angles_[p_.half + turned / 2];
      x = {__fmaf_rn(x.x, cosine, __fmul_rn(x.y, sine)),
           __fmaf_rn(x.y, cosine, __fmul_rn(-x.x, sine))};
    }
    if (p_.y_is_bf16) {
      *reinterpret_cast<__nv_bfloat162*>(reinterpret_cast<__nv_bfloat16*>(p_.y) + at_ + d) =
          __floats2bfloat162_rn(x.x, x.y);
    } else {
      *reinterpret_cast<float2*>(reinterpret_cast<float*>(p_.y) + at_ + d) = x;
    }
  }

 private:
  const CompressedParams& p_;
  const float* angles_;
  int64_t at_;
  float factor_;
};

template <int Panels>
__global__ void __launch_bounds__(32 * warps_of(Panels))
    attend_kernel(const __grid_constant__ CompressedParams p, int num_tiles) {
  constexpr int kWarps = warps_of(Panels), kThreads = 32 * kWarps;
  constexpr int kKeyTiles = 8 / kWarps;             // of 8 keys, a warp's
  constexpr int kValueTiles = 8 * Panels / kWarps;  // of 8 columns, a warp's
  extern __shared__ __align__(1024) uint8_t shared[];
  const uint32_t tiles = shared_address(shared);
  constexpr uint32_t kTileBytes = Panels * kTilePanel;
  uint8_t* after = shared + num_tiles * kTileBytes;
  const uint32_t queries = shared_address(after);
  const uint32_t weights = queries + Panels * kQueryPanel;
  auto* tops = reinterpret_cast<float*>(after + Panels * kQueryPanel + kWeightBytes);
  float* sums = tops + kWarps * kRows;

  // Heads of a token side by side: their keys are the same.
  const int head_tiles = (p.num_heads + kRows - 1) / kRows;
  const int token = static_cast<int>(blockIdx.x) / head_tiles;
  const int first_head = static_cast<int>(blockIdx.x) % head_tiles * kRows;
  const int num_rows = min(kRows, p.num_heads - first_head), span = static_cast<int>(blockIdx.y);
  // The batch is older than the step's first kernel.
  int sequence = -1;
  for (int from = 0; from < p.num_seqs; from += kThreads) {
    const int s = from + static_cast<int>(threadIdx.x);
    const bool is_here =
        s < p.num_seqs && p.query_start[s] <= token && token < p.query_start[s + 1];
    if (is_here) *reinterpret_cast<int*>(tops) = s;
    if (__syncthreads_or(is_here ? 1 : 0) != 0) sequence = *reinterpret_cast<int*>(tops);
  }
  const int position = p.positions[token], num_keys = p.num_keys(position);
  const int pages = (num_keys + kKeyBlock - 1) / kKeyBlock;
  const int first_page = p.num_spans > 1 ? span << (p.span_shift - kPageShift) : 0;
  const int end_page =
      p.num_spans > 1 ? min(first_page + (1 << (p.span_shift - kPageShift)), pages) : pages;
  wait_for_previous_kernel();
  launch_dependents();
  if (sequence < 0 || first_page >= end_page) return;  // padding, or a shorter context

  Gather<kThreads> gather(p, sequence, token, position, num_keys, first_page);
  int next_page = first_page, next_buffer = 0;
  const auto copy_next = [&] {
    if (next_page < end_page) {
      gather.copy(tiles + next_buffer * kTileBytes, Panels);
      next_buffer = next_buffer + 1 < num_tiles ? next_buffer + 1 : 0;
      ++next_page;
    }
    copy_commit();
  };
  // Queries first, which would wait behind the tiles; they are put to shared memory after those
  // are on their way.
  constexpr int kQueryRows = kRows * 16 / kThreads;  // of a thread
  const int query_row = static_cast<int>(threadIdx.x / 16);
  const int quarter = static_cast<int>(threadIdx.x % 16);
  float4 query_parts[kQueryRows][Panels];
#pragma unroll
  for (int j = 0; j < kQueryRows; ++j) {
    const int row = query_row + j * (kThreads / 16);
    const float* query =
        p.queries + token * p.query_stride + static_cast<int64_t>(first_head + row) * p.head_dim;
#pragma unroll
    for (int panel = 0; panel < Panels; ++panel) {
      const int d = 64 * panel + quarter * 4;
      const bool wanted = row < num_rows && d < p.head_dim;
      query_parts[j][panel] = wanted ? *reinterpret_cast<const float4*>(query + d) : float4{};
    }
  }
  for (int i = 0; i < num_tiles; ++i) copy_next();
#pragma unroll
  for (int j = 0; j < kQueryRows; ++j) {
#pragma unroll
    for (int panel = 0; panel < Panels; ++panel) {
      put_query(queries + panel * kQueryPanel, query_row + j * (kThreads / 16), quarter,
                query_parts[j][panel], p.scale);
    }
  }

  const int lane = lane_id(), warp = static_cast<int>(threadIdx.x / 32);
  const int g = lane / 4, t = lane % 4;
  // Of rows g and g + 8, columns 2t and 2t + 1 of each 8 of the warp's.
  Partial<2 * kValueTiles> group[2], total[2];
  int buffer = 0;
  for (int page = first_page; page < end_page; ++page) {
    const uint32_t keys = tiles + buffer * kTileBytes;
    buffer = buffer + 1 < num_tiles ? buffer + 1 : 0;
    if (num_tiles > 1) {
      copy_wait<1>();
    } else {
      copy_wait<0>();
    }
    __syncthreads();  // keys are there (and the queries)
    float scores[kKeyTiles][4];
    multiply_keys<Panels, kWarps>(queries, keys, scores);
    float top[2] = {-INFINITY, -INFINITY};
#pragma unroll
    for (int tile = 0; tile < kKeyTiles; ++tile) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int key = page * kKeyBlock + (warp * kKeyTiles + tile) * 8 + 2 * t + i % 2;
        if (key >= num_keys) scores[tile][i] = -INFINITY;
        top[i / 2] = fmaxf(top[i / 2], scores[tile][i]);
      }
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      top[half] = fmaxf(top[half], __shfl_xor_sync(0xffffffff, top[half], 1));
      top[half] = fmaxf(top[half], __shfl_xor_sync(0xffffffff, top[half], 2));
      if (t == 0) tops[warp * kRows + g + 8 * half] = top[half];
    }
    __syncthreads();
    float sum[2] = {};
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      for (int w = 0; w < kWarps; ++w) {
        top[half] = fmaxf(top[half], tops[w * kRows + g + 8 * half]);
      }
    }
#pragma unroll
    for (int tile = 0; tile < kKeyTiles; ++tile) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        // Scores that are no numbers leave no largest one.
        const float least = top[half] == -INFINITY ? 0.0f : top[half];
        const uint32_t pair = pack_f16(exp2_fast(scores[tile][2 * half] - least),
                                       exp2_fast(scores[tile][2 * half + 1] - least));
        const float2 rounded = unpack_f16(pair);
        sum[half] += rounded.x + rounded.y;
        const uint32_t to = weights + in_panel(g + 8 * half, warp * kKeyTiles + tile) + 4 * t;
        asm volatile("st.shared.u32 [%0], %1;" ::"r"(to), "r"(pair) : "memory");
      }
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      sum[half] += __shfl_xor_sync(0xffffffff, sum[half], 1);
      sum[half] += __shfl_xor_sync(0xffffffff, sum[half], 2);
      if (t == 0) sums[warp * kRows + g + 8 * half] = sum[half];
    }
    __syncthreads();  // weights are there
    MergeFactors factors[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      Weights of_page{.top = top[half]};
      for (int w = 0; w < kWarps; ++w) of_page.sum += sums[w * kRows + g + 8 * half];
      factors[half] = merge(group[half].weights, of_page);
    }
    uint32_t a[4][4];
#pragma unroll
    for (int step = 0; step < 4; ++step) {
      load_tile(a[step], weights + in_panel(lane % 16, 2 * step + lane / 16));
    }
#pragma unroll
    for (int pair = 0; pair < kValueTiles / 2; ++pair) {
      const int chunk = warp * kValueTiles + 2 * pair + lane / 16;  // of 8 columns
      const uint32_t panel = keys + chunk / 8 * kTilePanel;
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
          float& value = group[i / 2].values[2 * (2 * pair + tile) + i % 2];
          value = scaled_sum(value, products[tile][i], factors[i / 2]);
        }
      }
    }
    if (page % kPagesOfGroup == kPagesOfGroup - 1 || page + 1 == end_page) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        total[half].add(group[half]);
        group[half] = {};
      }
    }
    __syncthreads();  // all warps are done with the keys
    copy_next();
  }

#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = g + 8 * half, head = first_head + row;
    if (row >= num_rows) continue;
    const int first_column = warp * kValueTiles * 8 + 2 * t;
    if (p.num_spans > 1) {
      const int64_t i = (static_cast<int64_t>(token) * p.num_heads + head) * p.num_spans + span;
#pragma unroll
      for (int tile = 0; tile < kValueTiles; ++tile) {
        const int d = first_column + 8 * tile;
        if (d >= p.head_dim) continue;
        *reinterpret_cast<float2*>(p.values + i * p.head_dim + d) = {
            total[half].values[2 * tile], total[half].values[2 * tile + 1]};
      }
      if (warp == 0 && t == 0) p.sums[i] = {total[half].weights.top, total[half].weights.sum};
      continue;
    }
    const HeadResult out(p, token, head, total[half].weights);
#pragma unroll
    for (int tile = 0; tile < kValueTiles; ++tile) {
      out.write(first_column + 8 * tile,
                {total[half].values[2 * tile], total[half].values[2 * tile + 1]});
    }
  }
}

// A block has a head of a token, a thread two of its columns.
__global__ void __launch_bounds__(256) merge_kernel(const __grid_constant__ CompressedParams p) {
  constexpr int kAheadSpans = 4;  // whose loads are on their way; pages: a group
  static_assert(kAheadSpans == kPagesOfGroup);
  const int token = static_cast<int>(blockIdx.x), head = static_cast<int>(blockIdx.y);
  const int d = 2 * static_cast<int>(threadIdx.x);
  const int spans = (p.num_keys(p.positions[token]) + (1 << p.span_shift) - 1) >> p.span_shift;
  const bool is_padding = token >= p.query_start[p.num_seqs];
  wait_for_previous_kernel();
  launch_dependents();
  if (is_padding) return;
  const int64_t first = (static_cast<int64_t>(token) * p.num_heads + head) * p.num_spans;
  Partial<2> total;
  for (int from = 0; from < spans; from += kAheadSpans) {
    Partial<2> own[kAheadSpans];
#pragma unroll
    for (int i = 0; i < kAheadSpans; ++i) {
      if (from + i >= spans) continue;
      const int64_t at = first + from + i;
      const float2 sums = p.sums[at];
      const float2 values = *reinterpret_cast<const float2*>(p.values + at * p.head_dim + d);
      own[i] = {{sums.x, sums.y}, {values.x, values.y}};
    }
    Partial<2> group;
#pragma unroll
    for (int i = 0; i < kAheadSpans; ++i) {
      if (from + i >= spans) continue;
      if (p.span_shift == kPageShift) {
        group.add(own[i]);
      } else {
        total.add(own[i]);
      }
    }
    if (p.span_shift == kPageShift) total.add(group);
  }
  HeadResult(p, token, head, total.weights).write(d, {total.values[0], total.values[1]});
}

using AttendKernel = void (*)(CompressedParams, int);
int panels_of(int64_t head_dim) {
  return head_dim <= 64 ? 1 : head_dim <= 128 ? 2 : head_dim <= 256 ? 4 : 8;
}
AttendKernel kernel_of(int panels) {
  switch (panels) {
    case 1:
      return attend_kernel<1>;
    case 2:
      return attend_kernel<2>;
    case 4:
      return attend_kernel<4>;
    default:
      return attend_kernel<8>;
  }
}

}  // namespace

int prepare_compressed(int64_t head_dim, int max_shared_bytes) {
  const int panels = panels_of(head_dim);
  int tiles = 2;
  while (tiles > 0 && shared_bytes(panels, tiles) > max_shared_bytes) --tiles;
  if (tiles > 0) {
    MOE4_CUDA_CHECK(cudaFuncSetAttribute(kernel_of(panels),
                                         cudaFuncAttributeMaxDynamicSharedMemorySize,
                                         shared_bytes(panels, tiles)));
  }
  return tiles;
}

void attend_compressed(const CompressedParams& params, const CompressedLaunch& how) {
  const int panels = panels_of(params.head_dim);
  const int64_t tiles = ceil_div(int64_t{params.num_heads}, int64_t{kRows});
  launch(kernel_of(panels),
         {.grid = dim3(static_cast<unsigned>(params.num_tokens * tiles),
                       static_cast<unsigned>(params.num_spans)),
          .block = dim3(static_cast<unsigned>(32 * warps_of(panels))),
          .shared_bytes = static_cast<size_t>(shared_bytes(panels, how.num_tiles)),
          .stream = how.stream,
          .dependent = how.dependent},
         params, how.num_tiles);
}

void merge_compressed(const CompressedParams& params, const CompressedLaunch& how) {
  launch(merge_kernel,
         {.grid = dim3(static_cast<unsigned>(params.num_tokens),
                       static_cast<unsigned>(params.num_heads)),
          .block = dim3(static_cast<unsigned>(params.head_dim / 2)),
          .stream = how.stream,
          .dependent = how.dependent},
         params);
}

}  // namespace moe4::cuda
