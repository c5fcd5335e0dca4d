// Sequences that generate, all of Ssm in one launch, for one or a few tokens each:
//
//   x, B, C = silu(conv(u));  S <- decay S + B (dt x);  y = norm((C S + d x) silu(z))
//
// S [state_dim, 32] of a unit of 128 threads stays in registers from load to store. A head is
// head_dim / 32 units. A cluster has all heads of a group, a block 1 to 4 of its units: the blocks
// tell each other their sums of squares, and the cluster's last barrier separates those who read
// the convolution's past from those who write it. Where there are no clusters, or a group is more
// than 32 units, blocks leave y silu(z) to another kernel. Bits do not depend on how units are laid
// out.
#include "device/cuda/launch.h"
#include "device/cuda/ptx/launch.cuh"
#include "ops/cuda/recurrent_decode.cuh"
#include "ops/ssm/cuda/kernels.h"

namespace moe4::cuda {
namespace {

constexpr int kMaxGroupUnits = kMaxCluster * kMaxUnits;

template <typename In, typename Y>
struct Params {
  RecurrentBatch batch;
  RowsOf<In> z, u, dt;
  RowsOf<Y> y;
  float* gated;  // [T, inner]: instead of y; null: the norm is done here
  DeviceConv conv;
  const float *decay_rate, *d, *dt_bias, *norm;
  int num_groups, heads_per_group, head_dim, state_dim;
  int head_units, group_units;
  int64_t memory_offset;
  float time_step_min, time_step_max, norm_eps;
};

struct Shared {
  float mixed[2 * kStateRows + kMaxUnits * kUnitColumns];  // B, C, x after the convolution
  float parts[kMaxUnits][kUnitWarps][kUnitColumns];        // of C S
  float squares[2][kMaxGroupUnits];                        // from all units of the group
};

template <int kUnits, typename In, typename Y>
__global__ void __launch_bounds__(kUnits* kUnitThreads, resident_blocks(kUnits))
    decode_kernel(const Params<In, Y> p) {
  constexpr int kSlots = conv_slots(kUnits);
  constexpr int units = kUnits, threads = kUnits * kUnitThreads;
  __shared__ Shared shared;
  const bool in_cluster = gridDim.x > 1 && p.gated == nullptr;
  const int tid = static_cast<int>(threadIdx.x), unit = tid / kUnitThreads;
  const int warp = tid % kUnitThreads / 32, lane = tid % 32;
  const int group = static_cast<int>(blockIdx.y);
  const int inner = p.num_groups * p.heads_per_group * p.head_dim;
  // Of a unit of this block: its place in the group, and from it the channel of x of a column, -1
  // for none.
  const auto place = [&](int n) { return static_cast<int>(blockIdx.x) * units + n; };
  const auto channel_of = [&](int n, int column) {
    const int in_head = place(n) % p.head_units * kUnitColumns + column;
    if (place(n) >= p.group_units || in_head >= p.head_dim) return -1;
    return (group * p.heads_per_group + place(n) / p.head_units) * p.head_dim + in_head;
  };
  const int channel = channel_of(unit, StatePart::column());
  const bool has_column = channel >= 0;
  const int head = has_column ? channel / p.head_dim : 0;

  ChannelConv<kSlots> conv;
#pragma unroll
  for (int i = 0; i < kSlots; ++i) {
    const int n = i * threads + tid, value = n - 2 * kStateRows;
    conv.channel[i] = -1;
    if (value < 0) {
      if (n % kStateRows < p.state_dim) {
        conv.channel[i] =
            inner + (n / kStateRows * p.num_groups + group) * p.state_dim + n % kStateRows;
      }
    } else if (value < units * kUnitColumns) {
      conv.channel[i] = channel_of(value / kUnitColumns, value % kUnitColumns);
    }
  }
  conv.load_weights(p.conv);
  for (int i = tid; i < 2 * kStateRows + kMaxUnits * kUnitColumns; i += threads) {
    shared.mixed[i] = 0.0f;
  }
  const float decay_rate = p.decay_rate[head], dt_bias = p.dt_bias[head], d = p.d[head];
  const float4 norm = has_column ? load4(p.norm + channel) : float4{};
  greet_cluster(in_cluster);
  wait_for_previous_kernel();
  launch_dependents();

  const RecurrentSequence sequence = p.batch.sequence(static_cast<int>(blockIdx.z));
  wait_for_greetings(in_cluster);
  if (sequence.tokens <= 0) return;
  float* const memory = sequence.state + p.memory_offset +
                        static_cast<int64_t>(head) * p.state_dim * p.head_dim +
                        (has_column ? channel % p.head_dim : 0);
  StatePart state;
  state.load(memory, p.state_dim, p.head_dim, !sequence.fresh && has_column);
  conv.load_past(p.conv, sequence, p.u);

  for (int t = 0; t < sequence.tokens; ++t) {
    const int64_t token = sequence.first + t;
    const bool writes = warp == 0 && lane < kUnitColumns / 4 && has_column;
    In inputs[kSlots] = {};
#pragma unroll
    for (int i = 0; i < kSlots; ++i) {
      if (conv.channel[i] >= 0) inputs[i] = p.u.row(token)[conv.channel[i]];
    }
    const In raw_step = p.dt.row(token)[head];
    Stored4<In> z;
    z.fetch_if(writes, p.z.row(token) + channel);
#pragma unroll
    for (int i = 0; i < kSlots; ++i) {
      if (conv.channel[i] < 0) continue;
      shared.mixed[i * threads + tid] = conv.next(i, p.conv, to_float(inputs[i]));
    }
    // In this order a NaN stays.
    float step = softplus(to_float(raw_step) + dt_bias);
    step = step < p.time_step_min ? p.time_step_min
                                  : (step > p.time_step_max ? p.time_step_max : step);
    const float decay = expf(decay_rate * step);
    __syncthreads();

    const float4 x =
        load4(&shared.mixed[2 * kStateRows + unit * kUnitColumns + StatePart::column()]);
    float4 sum = {};
#pragma unroll
    for (int i = 0; i < StatePart::kRows; ++i) {
      const float b = shared.mixed[StatePart::row(i)] * step;
      float4& s = state.s[i];
      s = {decay * s.x + b * x.x, decay * s.y + b * x.y, decay * s.z + b * x.z,
           decay * s.w + b * x.w};
      sum = add_scaled4(sum, shared.mixed[kStateRows + StatePart::row(i)], s);
    }
    sum = StatePart::sum_of_rows(sum);
    if (lane < kUnitColumns / 4) store4(&shared.parts[unit][warp][lane * 4], sum);
    __syncthreads();
    float4 y{d * x.x, d * x.y, d * x.z, d * x.w};
#pragma unroll
    for (int w = 0; w < kUnitWarps; ++w) {
      y = add4(y, load4(&shared.parts[unit][w][StatePart::column()]));
    }
    if (warp == 0) {
      const float4 gate = z.values();  // zeros where there is no column
      y = {y.x * silu(gate.x), y.y * silu(gate.y), y.z * silu(gate.z), y.w * silu(gate.w)};
      if (p.gated != nullptr) {
        if (writes) store4(p.gated + token * inner + channel, y);
      } else {
        // Lanes 8 l + i have the columns of lane i.
        const float4 first{
            __shfl_sync(0xffffffff, y.x, lane % 8), __shfl_sync(0xffffffff, y.y, lane % 8),
            __shfl_sync(0xffffffff, y.z, lane % 8), __shfl_sync(0xffffffff, y.w, lane % 8)};
        const float squares = StatePart::sum_of_columns(dot4(first, first));
        if (lane < static_cast<int>(gridDim.x)) {
          store_in_block(&shared.squares[t % 2][place(unit)], static_cast<unsigned>(lane), squares,
                         in_cluster);
        }
      }
    }
    cluster_barrier(in_cluster);
    if (writes && p.gated == nullptr) {
      float all = 0;
      for (int n = 0; n < p.group_units; ++n) all += shared.squares[t % 2][n];
      const float width = static_cast<float>(p.heads_per_group * p.head_dim);
      const float factor = rsqrtf(all / width + p.norm_eps);
      store4(p.y.row(token) + channel, float4{y.x * factor * norm.x, y.y * factor * norm.y,
                                              y.z * factor * norm.z, y.w * factor * norm.w});
    }
  }

  state.store(memory, p.state_dim, p.head_dim, has_column);
  if (p.gated != nullptr) return;
#pragma unroll
  for (int i = 0; i < kSlots; ++i) {
    // The first block of the cluster writes B and C for all.
    const bool is_value = i * threads + tid >= 2 * kStateRows;
    if (conv.channel[i] >= 0 && (is_value || blockIdx.x == 0)) conv.keep(i, p.conv, sequence);
  }
}

template <typename In, typename Y>
bool launch_decodes(const SsmCall& call) {
  const Ssm::Problem& problem = call.problem;
  const Batch& batch = *call.args.batch;
  const int heads_per_group = static_cast<int>(problem.num_heads / problem.num_groups);
  const int head_units = static_cast<int>(ceil_div(problem.head_dim, int64_t{kUnitColumns}));
  const int group_units = heads_per_group * head_units;
  int units = 1;
  while (units < kMaxUnits && ceil_div(group_units, units) > kMaxCluster) units *= 2;
  const int blocks = ceil_div(group_units, units);
  const bool together = blocks == 1 || (call.sm >= 90 && blocks <= kMaxCluster);
  const Params<In, Y> params{
      .batch = {batch, call.args.cache},
      .z = RowsOf<In>(call.args.z),
      .u = RowsOf<In>(call.args.u),
      .dt = RowsOf<In>(call.args.dt),
      .y = RowsOf<Y>(call.args.y),
      .gated = together ? nullptr : call.buffers.gated,
      .conv = {call.weights.conv, call.weights.conv_bias, static_cast<int>(problem.channels()),
               static_cast<int>(problem.conv_taps)},
      .decay_rate = call.weights.decay_rate,
      .d = call.weights.d,
      .dt_bias = call.weights.dt_bias,
      .norm = call.weights.norm,
      .num_groups = static_cast<int>(problem.num_groups),
      .heads_per_group = heads_per_group,
      .head_dim = static_cast<int>(problem.head_dim),
      .state_dim = static_cast<int>(problem.state_dim),
      .head_units = head_units,
      .group_units = group_units,
      .memory_offset = problem.memory_offset(),
      .time_step_min = problem.time_step_min,
      .time_step_max = problem.time_step_max,
      .norm_eps = problem.norm_eps};
  launch(units == 1   ? decode_kernel<1, In, Y>
         : units == 2 ? decode_kernel<2, In, Y>
                      : decode_kernel<4, In, Y>,
         {.grid = dim3(static_cast<unsigned>(blocks), static_cast<unsigned>(problem.num_groups),
                       static_cast<unsigned>(batch.num_decodes)),
          .block = dim3(static_cast<unsigned>(units * kUnitThreads)),
          .stream = call.stream,
          .dependent = call.sm >= 90,
          .cluster = together ? static_cast<unsigned>(blocks) : 1},
         params);
  return !together;
}

}  // namespace

bool launch_ssm_decodes(const SsmCall& call) {
  bool needs_norm = false;
  with_element(call.args.u.format, [&](auto in) {
    with_element(call.args.y.format,
                 [&](auto y) { needs_norm = launch_decodes<decltype(in), decltype(y)>(call); });
  });
  return needs_norm;
}

}  // namespace moe4::cuda
