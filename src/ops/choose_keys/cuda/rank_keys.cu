// ChooseKeys on NVIDIA GPUs, its scores: products of all queries of a token with the keys before
// it on tensor cores.
//
// A block has a token and a span of keys. Its queries are turned and split into two F16 numbers
// each (ops/cuda/index_scores.cuh): a head's power of 2 passes relu(), and the head's weight takes
// it back. A warp has 32 keys in registers and passes over the heads: the sum over heads then is
// one thread's, but for four of them at the end. 64 heads: 33 KB, 4 blocks an SM.
//
// A score is of one query and one key, whatever the span, so bits depend on nothing else.
#include <cuda_bf16.h>

#include "base/checked_math.h"
#include "device/cuda/launch.h"
#include "device/cuda/ptx/barrier.cuh"
#include "device/cuda/ptx/launch.cuh"
#include "device/cuda/ptx/warp.cuh"
#include "ops/choose_keys/cuda/kernels.h"
#include "ops/cuda/index_scores.cuh"
#include "ops/cuda/row_values.cuh"

namespace moe4::cuda {
namespace {

constexpr int kWarps = 4, kThreads = 32 * kWarps;
static_assert(kKeysOfScoreBlock == kWarps * kWarpKeys && kPageTokens % kWarpKeys == 0);

// Heads are taken by 16, with zeros for those that there are not.
__host__ __device__ constexpr int head_tiles(int num_heads) { return (num_heads + 15) / 16 * 2; }
size_t shared_bytes(int num_heads) {
  return static_cast<size_t>(head_tiles(num_heads)) *
         (kQueryTileBytes + kQueriesOfTile * sizeof(float));
}

__device__ __forceinline__ float value_at(const std::byte* rows, int64_t i, bool is_bf16) {
  return is_bf16 ? to_float(reinterpret_cast<const __nv_bfloat16*>(rows)[i])
                 : reinterpret_cast<const float*>(rows)[i];
}

// Eight values side by side; i is a multiple of 8.
__device__ __forceinline__ void load8(const std::byte* rows, int64_t i, bool is_bf16,
                                      float (&x)[8]) {
  if (is_bf16) {
    const uint4 bits = *reinterpret_cast<const uint4*>(rows + 2 * i);
    const uint32_t pairs[4] = {bits.x, bits.y, bits.z, bits.w};
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      x[2 * j] = __uint_as_float(pairs[j] << 16);
      x[2 * j + 1] = __uint_as_float(pairs[j] & 0xffff0000u);
    }
    return;
  }
#pragma unroll
  for (int j = 0; j < 8; j += 4) {
    const float4 part = *reinterpret_cast<const float4*>(rows + 4 * (i + j));
    x[j] = part.x, x[j + 1] = part.y, x[j + 2] = part.z, x[j + 3] = part.w;
  }
}

// By how much the elements that a thread puts are turned: x[d] cosine + x[its partner] sine.
struct Turn {
  bool is_part = false;
  float cosine[8], sine[8];

  __device__ Turn(const ChooseParams& p, const float* angles, int first) {
    is_part = first >= p.turned && first < p.turned + 2 * p.half;
    if (!is_part) return;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const int d = first - p.turned + i, angle = p.rotates_pairs ? d / 2 : d % p.half;
      const bool is_first = p.rotates_pairs ? i % 2 == 0 : d < p.half;
      cosine[i] = angles[angle];
      sine[i] = is_first ? -angles[p.half + angle] : angles[p.half + angle];
    }
  }
};

// Turns eight elements of a head, scales it and puts it where fragments of B are; the block's
// threads have eight heads, 16 threads each. Writes what takes the scale back.
__device__ __forceinline__ void put_head(const ChooseParams& p, const Turn& turn, int tile,
                                         float (&x)[8], uint8_t* queries, float* head_weights) {
  const int chunk = static_cast<int>(threadIdx.x % 16), row = static_cast<int>(threadIdx.x / 16);
  // In chunks: half and what does not turn are multiples of 8 (supports.cc).
  const int distance = p.half / 8;
  const bool is_first = chunk - p.turned / 8 < distance;
  const int partner = is_first ? chunk + distance : chunk - distance;
  float other[8];
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    other[i] = p.rotates_pairs ? x[i ^ 1] : __shfl_sync(0xffffffff, x[i], partner, 16);
  }
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    if (turn.is_part) x[i] = x[i] * turn.cosine[i] + other[i] * turn.sine[i];
  }
  const float back = put_query(queries + tile * kQueryTileBytes, row, chunk, x);
  if (chunk == 0) head_weights[tile * kQueriesOfTile + row] = back;
}

// Queries of a token as fragments of B, and what each head's dot products are multiplied by. All
// threads call it; behind it everything is there.
__device__ __forceinline__ void put_queries(const ChooseParams& p, int64_t token, uint8_t* queries,
                                            float* head_weights) {
  constexpr int kAhead = 4;  // tiles whose loads are on their way
  static_assert(kThreads == 16 * kQueriesOfTile);
  const int thread = static_cast<int>(threadIdx.x), d = thread % 16 * 8;
  const int tiles = head_tiles(p.num_heads);
  float weight = 0;  // of the head that is the thread's number: there are 128 at most (supports.cc)
  if (thread < p.num_heads) {
    weight = value_at(p.weights, token * p.weight_stride + thread, p.weights_are_bf16);
  }
  const Turn turn(p, p.angles + token * p.angle_stride, d);
  for (int first = 0; first < tiles; first += kAhead) {
    float x[kAhead][8] = {};
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const int head = (first + i) * kQueriesOfTile + thread / 16;
      if (head >= p.num_heads || d >= p.dim) continue;
      load8(p.q, token * p.q_stride + head * p.dim + d, p.q_is_bf16, x[i]);
    }
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      if (first + i < tiles) put_head(p, turn, first + i, x[i], queries, head_weights);
    }
  }
  __syncthreads();
  if (thread < tiles * kQueriesOfTile) head_weights[thread] *= weight;
  __syncthreads();
}

// 16-bit rows of the keys that a thread loads: of its warp's 32 every eighth.
template <bool kShared>
struct KeyRows {
  const __half* row[4];

  // `first`: the warp's first key, `own` of 8 this thread's.
  __device__ KeyRows(const ChooseParams& p, const int32_t* blocks, int first, int own, int end) {
    if constexpr (kShared) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int key = min(first + 8 * i + own, end - 1);
        row[i] = page(p, blocks, p.places.page(key)) + p.places.place(key) * p.dim;
      }
    } else {  // 32 keys side by side
      const __half* rows = page(p, blocks, first / kPageTokens) + first % kPageTokens * p.dim;
#pragma unroll
      for (int i = 0; i < 4; ++i) row[i] = rows + (8 * i + own) * p.dim;
    }
  }

 private:
  static __device__ const __half* page(const ChooseParams& p, const int32_t* blocks, int64_t i) {
    return reinterpret_cast<const __half*>(p.pages + blocks[i] * p.page_bytes);
  }
};

template <bool kShared>
__global__ void __launch_bounds__(kThreads, 4)
    rank_kernel(const __grid_constant__ ChooseParams p, int span) {
  extern __shared__ __align__(16) uint8_t queries[];
  __shared__ int sequence;
  wait_for_previous_kernel();
  launch_dependents();
  const int token = p.first_token + static_cast<int>(blockIdx.x);
  const int begin = static_cast<int>(blockIdx.y) * span;
  const int num_keys = p.num_keys(p.positions[token]), end = min(begin + span, num_keys);
  if (num_keys <= p.most || begin >= end) return;
  if (threadIdx.x == 0) sequence = -1;
  __syncthreads();
  for (int s = static_cast<int>(threadIdx.x); s < p.num_seqs; s += kThreads) {
    if (p.query_start[s] <= token && token < p.query_start[s + 1]) sequence = s;
  }
  const int tiles = head_tiles(p.num_heads);
  auto* head_weights = reinterpret_cast<float*>(queries + tiles * kQueryTileBytes);
  put_queries(p, token, queries, head_weights);
  if (sequence < 0) return;  // padding

  const int lane = lane_id(), warp = static_cast<int>(threadIdx.x / 32);
  const int g = lane / 4, t = lane % 4;
  const int32_t* blocks = p.blocks + sequence * p.max_blocks;
  const uint32_t fragments = shared_address(queries) + lane * int{sizeof(uint4)};
  const int steps = (p.dim + 31) / 32;
  uint32_t* ranks = p.ranks + blockIdx.x * p.rank_stride;
  for (int first = begin + warp * kWarpKeys; first < end; first += kKeysOfScoreBlock) {
    const KeyRows<kShared> rows(p, blocks, first, g, end);
    uint32_t keys[2][2 * kScoreSteps][4];  // of 16 keys, 16 elements
#pragma unroll
    for (int i = 0; i < 2; ++i) {
#pragma unroll
      for (int step = 0; step < kScoreSteps; ++step) {
        const int d = 32 * step + 8 * t;
        uint4 x[2];  // of keys g and g + 8
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int key = 16 * i + 8 * half + g;
          const bool wanted = d < p.dim && first + key < end;
          const __half* row = rows.row[2 * i + half];
          x[half] = wanted ? *reinterpret_cast<const uint4*>(row + d) : uint4{};
        }
        const uint32_t parts[2][4] = {{x[0].x, x[1].x, x[0].y, x[1].y},
                                      {x[0].z, x[1].z, x[0].w, x[1].w}};
#pragma unroll
        for (int r = 0; r < 4; ++r) {
          keys[i][2 * step][r] = parts[0][r];
          keys[i][2 * step + 1][r] = parts[1][r];
        }
      }
    }
    float scores[2][2] = {};  // of keys 16 i + 8 half + g, of a thread's heads
    for (int tile = 0; tile < tiles; tile += 2) {
      float dots[2][2][4] = {};  // of 8 heads, 16 keys
#pragma unroll
      for (int step = 0; step < kScoreSteps; ++step) {
        if (step >= steps) continue;
#pragma unroll
        for (int part = 0; part < 2; ++part) {
#pragma unroll
          for (int n = 0; n < 2; ++n) {
            const uint4 b = load_shared16(fragments + (tile + n) * kQueryTileBytes +
                                          (2 * step + part) * kQueryFragment);
#pragma unroll
            for (int i = 0; i < 2; ++i) {
              multiply_f16(dots[n][i], keys[i][2 * step], b.x, b.y);
              multiply_f16(dots[n][i], keys[i][2 * step + 1], b.z, b.w);
            }
          }
        }
      }
#pragma unroll
      for (int n = 0; n < 2; ++n) {
        const float2 weights =
            *reinterpret_cast<const float2*>(head_weights + (tile + n) * kQueriesOfTile + 2 * t);
#pragma unroll
        for (int i = 0; i < 2; ++i) {
#pragma unroll
          for (int j = 0; j < 4; ++j) {
            const float dot = dots[n][i][j] <= 0 ? 0.0f : dots[n][i][j];  // NaN stays
            scores[i][j / 2] = __fmaf_rn(j % 2 == 0 ? weights.x : weights.y, dot, scores[i][j / 2]);
          }
        }
      }
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        scores[i][half] += __shfl_xor_sync(0xffffffff, scores[i][half], 1);
        scores[i][half] += __shfl_xor_sync(0xffffffff, scores[i][half], 2);
      }
    }
    const float low = t % 2 == 0 ? scores[0][0] : scores[0][1];
    const float high = t % 2 == 0 ? scores[1][0] : scores[1][1];
    const int key = first + 8 * t + g;
    if (key < end) ranks[key] = rank_of(t < 2 ? low : high);
  }
}

}  // namespace

void prepare_ranks(int num_heads) {
  for (const auto kernel : {rank_kernel<false>, rank_kernel<true>}) {
    MOE4_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                         static_cast<int>(shared_bytes(num_heads))));
  }
}

void rank_keys(const ChooseParams& params, int span, int64_t max_keys, const ChooseLaunch& how) {
  launch(params.are_shared ? rank_kernel<true> : rank_kernel<false>,
         {.grid = dim3(static_cast<unsigned>(how.num_tokens),
                       static_cast<unsigned>(ceil_div(max_keys, int64_t{span}))),
          .block = dim3(kThreads),
          .shared_bytes = shared_bytes(params.num_heads),
          .stream = how.stream,
          .dependent = how.dependent},
         params, span);
}

}  // namespace moe4::cuda
