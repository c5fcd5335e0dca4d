// Sequences that generate, all of DeltaNet in one launch, for one or a few tokens each:
//
//   x = silu(conv(qkv));  q, k, v;  u = beta (v - decay k^T S);  S <- decay S + k u
//   o = decay q^T S + (q k) u;  y = norm(o) silu(z)
//
// S [key_dim, 32] of a unit of 128 threads stays in registers from load to store. k^T S and q^T S
// of the old state are summed together; that is one exchange a token.
//
// A head is value_dim / 32 units. A block has one or more of them, a cluster all that share a key
// head: its blocks tell each other their sums of squares, and its last barrier separates those who
// read the convolution's past from the one who writes it. Where there are no clusters a block is a
// head and another kernel keeps the inputs. Bits do not depend on how units are laid out.
#include <cmath>

#include "device/cuda/launch.h"
#include "device/cuda/ptx/launch.cuh"
#include "ops/cuda/recurrent_decode.cuh"
#include "ops/delta_net/cuda/kernels.h"

namespace moe4::cuda {
namespace {

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
  float mixed[2 * kStateRows + kMaxUnits * kUnitColumns];  // q, k, v after the convolution
  float parts[kMaxUnits][kUnitWarps][2][kUnitColumns];     // of k^T S and q^T S
  float squares[2][kMaxUnits];                             // of o, from all units of the head
};

template <int kUnits, typename In, typename Y>
__global__ void __launch_bounds__(kUnits* kUnitThreads, resident_blocks(kUnits))
    decode_kernel(const Params<In, Y> p) {
  constexpr int kSlots = conv_slots(kUnits);
  constexpr int units = kUnits, threads = kUnits * kUnitThreads;
  __shared__ Shared shared;
  const bool in_cluster = gridDim.x > 1 && p.keeps_inputs;
  const int tid = static_cast<int>(threadIdx.x), unit = tid / kUnitThreads;
  const int warp = tid % kUnitThreads / 32, lane = tid % 32;
  const int column_block = static_cast<int>(blockIdx.x) % p.column_blocks;
  const int key_head = static_cast<int>(blockIdx.y);
  const int head = key_head * p.heads_per_key + static_cast<int>(blockIdx.x) / p.column_blocks;
  const int first_column = column_block * units * kUnitColumns;
  const int in_block = unit * kUnitColumns + StatePart::column();
  const int column = first_column + in_block;
  const bool has_column = column < p.value_dim;

  ChannelConv<kSlots> conv;
#pragma unroll
  for (int i = 0; i < kSlots; ++i) {
    const int n = i * threads + tid, value = n - 2 * kStateRows, part = n / kStateRows;
    conv.channel[i] = -1;
    if (value < 0) {
      if (n % kStateRows < p.key_dim) {
        conv.channel[i] = (part * p.num_key_heads + key_head) * p.key_dim + n % kStateRows;
      }
    } else if (value < units * kUnitColumns && first_column + value < p.value_dim) {
      conv.channel[i] = 2 * p.num_key_heads * p.key_dim + head * p.value_dim + first_column + value;
    }
  }
  conv.load_weights(p.conv);
  for (int i = tid; i < 2 * kStateRows + kMaxUnits * kUnitColumns; i += threads) {
    shared.mixed[i] = 0.0f;
  }
  const float decay_rate = p.decay_rate[head], dt_bias = p.dt_bias[head];
  const float4 norm = has_column ? load4(p.norm + column) : float4{};
  greet_cluster(in_cluster);
  wait_for_previous_kernel();
  launch_dependents();

  const RecurrentSequence sequence = p.batch.sequence(static_cast<int>(blockIdx.z));
  wait_for_greetings(in_cluster);
  if (sequence.tokens <= 0) return;
  float* const memory = sequence.state + p.memory_offset +
                        static_cast<int64_t>(head) * p.key_dim * p.value_dim + column;
  StatePart state;
  state.load(memory, p.key_dim, p.value_dim, !sequence.fresh && has_column);
  conv.load_past(p.conv, sequence, p.qkv);

  for (int t = 0; t < sequence.tokens; ++t) {
    const int64_t token = sequence.first + t;
    const bool writes = warp == 0 && lane < kUnitColumns / 4 && has_column;
    In inputs[kSlots] = {};
#pragma unroll
    for (int i = 0; i < kSlots; ++i) {
      if (conv.channel[i] >= 0) inputs[i] = p.qkv.row(token)[conv.channel[i]];
    }
    const float a = p.a.row(token)[head], b = p.b.row(token)[head];
    Stored4<In> z;
    z.fetch_if(writes, p.z.row(token) + head * p.value_dim + column);
#pragma unroll
    for (int i = 0; i < kSlots; ++i) {
      if (conv.channel[i] < 0) continue;
      shared.mixed[i * threads + tid] = conv.next(i, p.conv, to_float(inputs[i]));
    }
    const float decay = expf(decay_rate * softplus(a + dt_bias)), beta = sigmoid(b);
    __syncthreads();

    const float4 q = load4(shared.mixed + lane * 4);
    const float4 k = load4(shared.mixed + kStateRows + lane * 4);
    const float k_factor = rsqrtf(sum_of_warp(dot4(k, k)) + kL2Epsilon);
    const float q_factor = rsqrtf(sum_of_warp(dot4(q, q)) + kL2Epsilon) * p.query_scale;
    const float qk = sum_of_warp(dot4(q, k)) * k_factor * q_factor;
    float4 ks = {}, qs = {};
#pragma unroll
    for (int i = 0; i < StatePart::kRows; ++i) {
      qs = add_scaled4(qs, shared.mixed[StatePart::row(i)], state.s[i]);
      ks = add_scaled4(ks, shared.mixed[kStateRows + StatePart::row(i)], state.s[i]);
    }
    ks = StatePart::sum_of_rows(ks);
    qs = StatePart::sum_of_rows(qs);
    if (lane < kUnitColumns / 4) {
      store4(&shared.parts[unit][warp][0][lane * 4], ks);
      store4(&shared.parts[unit][warp][1][lane * 4], qs);
    }
    __syncthreads();
    ks = qs = {};
#pragma unroll
    for (int w = 0; w < kUnitWarps; ++w) {
      ks = add4(ks, load4(&shared.parts[unit][w][0][StatePart::column()]));
      qs = add4(qs, load4(&shared.parts[unit][w][1][StatePart::column()]));
    }
    const float4 v = load4(&shared.mixed[2 * kStateRows + in_block]);
    const float known = decay * k_factor, asked = decay * q_factor;
    const float4 u{beta * (v.x - known * ks.x), beta * (v.y - known * ks.y),
                   beta * (v.z - known * ks.z), beta * (v.w - known * ks.w)};
    const float4 o{asked * qs.x + qk * u.x, asked * qs.y + qk * u.y, asked * qs.z + qk * u.z,
                   asked * qs.w + qk * u.w};
#pragma unroll
    for (int i = 0; i < StatePart::kRows; ++i) {
      const float ki = shared.mixed[kStateRows + StatePart::row(i)] * k_factor;
      float4& s = state.s[i];
      s = {decay * s.x + ki * u.x, decay * s.y + ki * u.y, decay * s.z + ki * u.z,
           decay * s.w + ki * u.w};
    }

    // Columns past value_dim have v = 0 and S = 0, so o = 0.
    const float squares = StatePart::sum_of_columns(dot4(o, o));
    if (warp == 0 && lane < p.column_blocks) {
      store_in_block(&shared.squares[t % 2][column_block * units + unit],
                     blockIdx.x - static_cast<unsigned>(column_block - lane), squares, in_cluster);
    }
    cluster_barrier(in_cluster);
    if (writes) {
      float all = 0;
      for (int n = 0; n < p.column_blocks * units; ++n) all += shared.squares[t % 2][n];
      const float4 gate = z.values();
      const float factor = rsqrtf(all / static_cast<float>(p.value_dim) + p.norm_eps);
      store4(p.y.row(token) + head * p.value_dim + column,
             float4{o.x * factor * norm.x * silu(gate.x), o.y * factor * norm.y * silu(gate.y),
                    o.z * factor * norm.z * silu(gate.z), o.w * factor * norm.w * silu(gate.w)});
    }
  }

  state.store(memory, p.key_dim, p.value_dim, has_column);
  if (!p.keeps_inputs) return;
#pragma unroll
  for (int i = 0; i < kSlots; ++i) {
    // The first block of the cluster writes q and k for all.
    const bool is_value = i * threads + tid >= 2 * kStateRows;
    if (conv.channel[i] >= 0 && (is_value || blockIdx.x == 0)) conv.keep(i, p.conv, sequence);
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
  const int head_units = static_cast<int>(ceil_div(problem.value_dim, int64_t{kUnitColumns}));
  const bool clusters = call.sm >= 90;
  // Few sequences: many small blocks, each of which loads its part of the state at once.
  int units = 1;
  const int most = clusters ? kMaxCluster / heads_per_key : 1;  // blocks of a head
  while (ceil_div(head_units, units) > most) units *= 2;
  const int column_blocks = ceil_div(head_units, units);
  const int cluster = heads_per_key * column_blocks;
  const bool keeps_inputs = clusters || cluster == 1;
  const Params<In, Y> params{
      .batch = {batch, call.args.cache},
      .qkv = RowsOf<In>(call.args.qkv),
      .z = RowsOf<In>(call.args.z),
      .a = RowsOf<float>(call.args.a),
      .b = RowsOf<float>(call.args.b),
      .y = RowsOf<Y>(call.args.y),
      .conv = {call.weights.conv, nullptr, static_cast<int>(problem.channels()),
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
  launch(units == 1   ? decode_kernel<1, In, Y>
         : units == 2 ? decode_kernel<2, In, Y>
                      : decode_kernel<4, In, Y>,
         {.grid = dim3(static_cast<unsigned>(cluster), static_cast<unsigned>(problem.num_key_heads),
                       seqs),
          .block = dim3(static_cast<unsigned>(units * kUnitThreads)),
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
