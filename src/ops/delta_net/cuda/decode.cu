// Sequences that generate, all of DeltaNet in one launch, for one or a few tokens each:
//
//   x = silu(conv(qkv));  q, k, v;  u = beta (v - decay k^T S);  S <- decay S + k u
//   o = decay q^T S + (q k) u;  y = norm(o) silu(z)
//
// S [key_dim, 32] of a group of 128 threads stays in registers from load to store: thread 32 w + l
// has the rows 4 w + l / 8 + 16 i and the four columns from 4 (l % 8), so that a warp reads whole
// lines. k^T S and q^T S of the old state are summed together; that is one exchange a token.
//
// A head is value_dim / 32 groups. A block has one or more of them, a cluster all that share a key
// head: its blocks tell each other their sums of squares, and its last barrier separates those who
// read the convolution's past from the one who writes it. Where there are no clusters a block is a
// head and another kernel keeps the inputs. Bits do not depend on how groups are laid out.
#include <cmath>

#include "device/cuda/launch.h"
#include "device/cuda/ptx/barrier.cuh"
#include "device/cuda/ptx/cluster.cuh"
#include "device/cuda/ptx/launch.cuh"
#include "ops/cuda/recurrent.cuh"
#include "ops/delta_net/cuda/kernels.h"

namespace moe4::cuda {
namespace {

constexpr int kMaxDim = 128;                         // of keys and values
constexpr int kGroup = 128, kGroupColumns = 32;      // threads and columns
constexpr int kWarps = kGroup / 32;                  // of a group
constexpr int kMaxGroups = kMaxDim / kGroupColumns;  // of a head
constexpr int kRows = kMaxDim / 16;                  // of a thread
// Channels a thread convolves: q and k, and the values of its block's columns.
constexpr int kSlots = (2 * kMaxDim + kGroupColumns + kGroup - 1) / kGroup;
constexpr int kTaps = DeviceConv::kMaxTaps;
constexpr float kL2Epsilon = 1e-6f;

template <typename In, typename Y>
struct Params {
  RecurrentBatch batch;
  RowsOf<In> qkv, z;
  RowsOf<float> a, b;
  RowsOf<Y> y;
  DeviceConv conv;
  const float *decay_rate, *dt_bias, *norm;
  int key_dim, value_dim, num_key_heads, heads_per_key;
  int column_blocks;  // that share a head
  bool keeps_inputs;  // of the convolution
  int64_t memory_offset;
  float norm_eps, query_scale;
};

struct Shared {
  float mixed[2 * kMaxDim + kMaxGroups * kGroupColumns];  // q, k, v after the convolution
  float parts[kMaxGroups][kWarps][2][kGroupColumns];      // of k^T S and q^T S
  float squares[2][kMaxGroups];                           // of o, from all groups of the head
};

__device__ __forceinline__ float sum_of_warp(float x) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) x += __shfl_xor_sync(0xffffffff, x, offset);
  return x;
}

__device__ __forceinline__ float dot4(float4 a, float4 b) {
  return a.x * b.x + a.y * b.y + a.z * b.z + a.w * b.w;
}

// All blocks of the cluster, or this one.
__device__ __forceinline__ void cluster_barrier(bool in_cluster) {
#if __CUDA_ARCH__ >= 900
  if (in_cluster) {
    arrive_in_cluster_releasing();
    wait_for_cluster();
    return;
  }
#endif
  __syncthreads();
}

template <typename In, typename Y>
__global__ void __launch_bounds__(kMaxGroups* kGroup) decode_kernel(const Params<In, Y> p) {
  __shared__ Shared shared;
  const bool in_cluster = gridDim.x > 1 && p.keeps_inputs;
  const int tid = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
  const int column_block = static_cast<int>(blockIdx.x) % p.column_blocks;
  const int key_head = static_cast<int>(blockIdx.y);
  const int head = key_head * p.heads_per_key + static_cast<int>(blockIdx.x) / p.column_blocks;
  const int groups = threads / kGroup, group = tid / kGroup;
  const int warp = tid % kGroup / 32, lane = tid % 32, quad = lane % 8;
  const int row = warp * 4 + lane / 8;  // the first of this thread's
  const int first_column = column_block * groups * kGroupColumns;
  const int column = first_column + group * kGroupColumns + quad * 4;
  const bool has_column = column < p.value_dim;

  // The channels that this thread convolves, -1: none, and where they go.
  int channel[kSlots], place[kSlots];
  float weight[kSlots][kTaps] = {}, past[kSlots][kTaps - 1] = {};
#pragma unroll
  for (int i = 0; i < kSlots; ++i) {
    const int n = i * threads + tid, value = n - 2 * kMaxDim, part = n / kMaxDim;
    place[i] = n;
    channel[i] = -1;
    if (value < 0) {
      if (n % kMaxDim < p.key_dim) {
        channel[i] = (part * p.num_key_heads + key_head) * p.key_dim + n % kMaxDim;
      }
    } else if (value < groups * kGroupColumns && first_column + value < p.value_dim) {
      channel[i] = 2 * p.num_key_heads * p.key_dim + head * p.value_dim + first_column + value;
    }
#pragma unroll
    for (int j = 0; j < kTaps; ++j) {
      if (channel[i] >= 0 && j < p.conv.taps) {
        weight[i][j] = p.conv.weight[j * p.conv.channels + channel[i]];
      }
    }
  }
  for (int i = tid; i < 2 * kMaxDim + kMaxGroups * kGroupColumns; i += threads) {
    shared.mixed[i] = 0.0f;
  }
  const float decay_rate = p.decay_rate[head], dt_bias = p.dt_bias[head];
#if __CUDA_ARCH__ >= 900
  if (in_cluster) arrive_in_cluster();
#endif
  wait_for_previous_kernel();
  launch_dependents();

  const RecurrentSequence sequence = p.batch.sequence(static_cast<int>(blockIdx.z));
#if __CUDA_ARCH__ >= 900
  if (in_cluster) wait_for_cluster();  // all blocks are there to be written to
#endif
  if (sequence.tokens <= 0) return;
  float* const memory = sequence.state + p.memory_offset +
                        static_cast<int64_t>(head) * p.key_dim * p.value_dim + column;
  float4 s[kRows];
#pragma unroll
  for (int i = 0; i < kRows; ++i) {
    s[i] = {};
    if (!sequence.fresh && has_column && row + 16 * i < p.key_dim) {
      s[i] = load4(memory + (row + 16 * i) * p.value_dim);
    }
  }
#pragma unroll
  for (int i = 0; i < kSlots; ++i) {
#pragma unroll
    for (int j = 0; j < kTaps - 1; ++j) {
      if (channel[i] >= 0 && j < p.conv.taps - 1) {
        past[i][j] = p.conv.input(sequence, p.qkv, -1 - j, channel[i]);
      }
    }
  }

  for (int t = 0; t < sequence.tokens; ++t) {
    const int64_t token = sequence.first + t;
#pragma unroll
    for (int i = 0; i < kSlots; ++i) {
      if (channel[i] < 0) continue;
      const float x = to_float(p.qkv.row(token)[channel[i]]);
      float sum = x * weight[i][0];
#pragma unroll
      for (int j = kTaps - 1; j > 0; --j) {
        if (j < p.conv.taps) sum += past[i][j - 1] * weight[i][j];
        if (j > 1) past[i][j - 1] = past[i][j - 2];
      }
      past[i][0] = x;
      shared.mixed[place[i]] = silu(sum);
    }
    const float decay = expf(decay_rate * softplus(p.a.row(token)[head] + dt_bias));
    const float beta = sigmoid(p.b.row(token)[head]);
    // The columns that this thread will write.
    const bool writes = warp == 0 && lane < kGroupColumns / 4 && has_column;
    float4 z = {}, norm = {};
    if (writes) {
      z = load4(p.z.row(token) + head * p.value_dim + column);
      norm = load4(p.norm + column);
    }
    __syncthreads();

    const float4 q = load4(shared.mixed + lane * 4), k = load4(shared.mixed + kMaxDim + lane * 4);
    const float k_factor = rsqrtf(sum_of_warp(dot4(k, k)) + kL2Epsilon);
    const float q_factor = rsqrtf(sum_of_warp(dot4(q, q)) + kL2Epsilon) * p.query_scale;
    const float qk = sum_of_warp(dot4(q, k)) * k_factor * q_factor;
    float4 ks = {}, qs = {};
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      const float qi = shared.mixed[row + 16 * i], ki = shared.mixed[kMaxDim + row + 16 * i];
      ks.x += ki * s[i].x, ks.y += ki * s[i].y, ks.z += ki * s[i].z, ks.w += ki * s[i].w;
      qs.x += qi * s[i].x, qs.y += qi * s[i].y, qs.z += qi * s[i].z, qs.w += qi * s[i].w;
    }
#pragma unroll
    for (int offset = 8; offset < 32; offset *= 2) {
      ks.x += __shfl_xor_sync(0xffffffff, ks.x, offset);
      ks.y += __shfl_xor_sync(0xffffffff, ks.y, offset);
      ks.z += __shfl_xor_sync(0xffffffff, ks.z, offset);
      ks.w += __shfl_xor_sync(0xffffffff, ks.w, offset);
      qs.x += __shfl_xor_sync(0xffffffff, qs.x, offset);
      qs.y += __shfl_xor_sync(0xffffffff, qs.y, offset);
      qs.z += __shfl_xor_sync(0xffffffff, qs.z, offset);
      qs.w += __shfl_xor_sync(0xffffffff, qs.w, offset);
    }
    if (lane < 8) {
      store4(&shared.parts[group][warp][0][quad * 4], ks);
      store4(&shared.parts[group][warp][1][quad * 4], qs);
    }
    __syncthreads();
    ks = qs = {};
#pragma unroll
    for (int w = 0; w < kWarps; ++w) {
      const float4 from_k = load4(&shared.parts[group][w][0][quad * 4]);
      const float4 from_q = load4(&shared.parts[group][w][1][quad * 4]);
      ks.x += from_k.x, ks.y += from_k.y, ks.z += from_k.z, ks.w += from_k.w;
      qs.x += from_q.x, qs.y += from_q.y, qs.z += from_q.z, qs.w += from_q.w;
    }
    const float4 v = load4(&shared.mixed[2 * kMaxDim + group * kGroupColumns + quad * 4]);
    const float known = decay * k_factor, asked = decay * q_factor;
    const float4 u{beta * (v.x - known * ks.x), beta * (v.y - known * ks.y),
                   beta * (v.z - known * ks.z), beta * (v.w - known * ks.w)};
    const float4 o{asked * qs.x + qk * u.x, asked * qs.y + qk * u.y, asked * qs.z + qk * u.z,
                   asked * qs.w + qk * u.w};
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      const float ki = shared.mixed[kMaxDim + row + 16 * i] * k_factor;
      s[i] = {decay * s[i].x + ki * u.x, decay * s[i].y + ki * u.y, decay * s[i].z + ki * u.z,
              decay * s[i].w + ki * u.w};
    }

    // Columns past value_dim have v = 0 and S = 0, so o = 0.
    float squares = dot4(o, o);
#pragma unroll
    for (int offset = 1; offset < 8; offset *= 2) {
      squares += __shfl_xor_sync(0xffffffff, squares, offset);
    }
    if (warp == 0 && lane < p.column_blocks) {
      float* const to = &shared.squares[t % 2][column_block * groups + group];
#if __CUDA_ARCH__ >= 900
      if (in_cluster) {
        const unsigned rank = blockIdx.x - static_cast<unsigned>(column_block - lane);
        store_in_cluster4(address_in_block(shared_address(to), rank), squares);
      } else {
        *to = squares;
      }
#else
      *to = squares;
#endif
    }
    cluster_barrier(in_cluster);
    if (writes) {
      float all = 0;
      for (int g = 0; g < p.column_blocks * groups; ++g) all += shared.squares[t % 2][g];
      const float factor = rsqrtf(all / static_cast<float>(p.value_dim) + p.norm_eps);
      store4(p.y.row(token) + head * p.value_dim + column,
             float4{o.x * factor * norm.x * silu(z.x), o.y * factor * norm.y * silu(z.y),
                    o.z * factor * norm.z * silu(z.z), o.w * factor * norm.w * silu(z.w)});
    }
  }

#pragma unroll
  for (int i = 0; i < kRows; ++i) {
    if (has_column && row + 16 * i < p.key_dim) {
      store4(memory + (row + 16 * i) * p.value_dim, s[i]);
    }
  }
  if (!p.keeps_inputs) return;
#pragma unroll
  for (int i = 0; i < kSlots; ++i) {
    // The first block of the cluster writes q and k for all.
    if (channel[i] < 0 || (place[i] < 2 * kMaxDim && blockIdx.x != 0)) continue;
#pragma unroll
    for (int j = 0; j < kTaps - 1; ++j) {
      if (j < p.conv.taps - 1) {
        sequence.state[static_cast<int64_t>(p.conv.taps - 2 - j) * p.conv.channels + channel[i]] =
            past[i][j];
      }
    }
  }
}

// The convolution's inputs for the next step, where the kernel before could not.
template <typename In>
__global__ void __launch_bounds__(256)
    keep_inputs_kernel(RecurrentBatch batch, RowsOf<In> qkv, DeviceConv conv) {
  wait_for_previous_kernel();
  launch_dependents();
  const RecurrentSequence sequence = batch.sequence(static_cast<int>(blockIdx.y));
  const int channel = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (sequence.tokens > 0 && channel < conv.channels) conv.keep_inputs(sequence, qkv, channel);
}

template <typename In, typename Y>
void launch_decodes(const DeltaNetCall& call) {
  const DeltaNet::Problem& problem = call.problem;
  const Batch& batch = *call.args.batch;
  const int heads_per_key = static_cast<int>(problem.num_value_heads / problem.num_key_heads);
  const int head_groups = static_cast<int>(ceil_div(problem.value_dim, int64_t{kGroupColumns}));
  const bool clusters = call.sm >= 90;
  // Few sequences: many small blocks, each of which loads its part of the state at once.
  int groups = clusters ? 1 : head_groups;
  while (heads_per_key * ceil_div(head_groups, groups) > 8) groups *= 2;
  const int column_blocks = ceil_div(head_groups, groups);
  const int cluster = heads_per_key * column_blocks;
  const bool keeps_inputs = clusters || cluster == 1;
  const Params<In, Y> params{.batch = {batch, call.args.cache},
                             .qkv = RowsOf<In>(call.args.qkv),
                             .z = RowsOf<In>(call.args.z),
                             .a = RowsOf<float>(call.args.a),
                             .b = RowsOf<float>(call.args.b),
                             .y = RowsOf<Y>(call.args.y),
                             .conv = {call.weights.conv, static_cast<int>(problem.channels()),
                                      static_cast<int>(problem.conv_taps)},
                             .decay_rate = call.weights.decay_rate,
                             .dt_bias = call.weights.dt_bias,
                             .norm = call.weights.norm,
                             .key_dim = static_cast<int>(problem.key_dim),
                             .value_dim = static_cast<int>(problem.value_dim),
                             .num_key_heads = static_cast<int>(problem.num_key_heads),
                             .heads_per_key = heads_per_key,
                             .column_blocks = column_blocks,
                             .keeps_inputs = keeps_inputs,
                             .memory_offset = problem.memory_offset(),
                             .norm_eps = problem.norm.eps,
                             .query_scale = 1.0f / std::sqrt(static_cast<float>(problem.key_dim))};
  const auto seqs = static_cast<unsigned>(batch.num_decodes);
  launch(decode_kernel<In, Y>,
         {.grid = dim3(static_cast<unsigned>(cluster), static_cast<unsigned>(problem.num_key_heads),
                       seqs),
          .block = dim3(static_cast<unsigned>(groups * kGroup)),
          .stream = call.stream,
          .dependent = clusters,
          .cluster = clusters ? static_cast<unsigned>(cluster) : 1},
         params);
  if (keeps_inputs) return;
  launch(keep_inputs_kernel<In>,
         {.grid = dim3(static_cast<unsigned>(ceil_div(problem.channels(), int64_t{256})), seqs),
          .block = dim3(256),
          .stream = call.stream,
          .dependent = clusters},
         params.batch, params.qkv, params.conv);
}

}  // namespace

void launch_delta_decodes(const DeltaNetCall& call) {
  with_element(call.args.qkv.format, [&](auto in) {
    with_element(call.args.y.format,
                 [&](auto y) { launch_decodes<decltype(in), decltype(y)>(call); });
  });
}

}  // namespace moe4::cuda
