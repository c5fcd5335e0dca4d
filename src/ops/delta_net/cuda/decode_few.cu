// Few sequences that generate (SM90): 32 columns of a head's state a block, so that all SMs load
// and few bytes wait behind each other.
//
// S [key_dim, 32] stays in the registers of 128 threads from load to store. A cluster has all
// blocks that share a key head: they tell each other their sums of squares, and the cluster's
// barrier separates those who read the convolution's past from the one who writes it. States are
// fetched into the L2 before the kernel waits for the one before it, which does not write them but
// may be one that does.
#include "device/cuda/launch.h"
#include "device/cuda/ptx/launch.cuh"
#include "device/cuda/ptx/prefetch.cuh"
#include "ops/delta_net/cuda/decode_step.cuh"

namespace moe4::cuda {
namespace {

constexpr int kMaxColumnBlocks = kStateRows / kUnitColumns;

struct alignas(16) Shared {
  MixedInputs mixed;  // of v this block's columns
  // Of tokens that S does not know: this block's columns of u.
  float keys[kMaxRing][kStateRows];
  float values[kMaxRing][kUnitColumns];
  RingFactors ring;
  float sums[kUnitWarps][2][kUnitColumns];
  float squares[2][kMaxColumnBlocks];  // of o, from all blocks of the head
};

template <typename In, typename Y>
__global__ void __launch_bounds__(kUnitThreads, 4)
    decode_few_kernel(const DeltaDecode<In, Y> p, int column_blocks) {
#if __CUDA_ARCH__ >= 900
  constexpr int kSlots = conv_slots(1), kRingRounds = kMaxRing / kUnitWarps;
  __shared__ Shared shared;
  const int tid = static_cast<int>(threadIdx.x), warp = tid / 32, lane = tid % 32;
  const int column_block = static_cast<int>(blockIdx.x) % column_blocks;
  const int key_head = static_cast<int>(blockIdx.y);
  const int head = key_head * p.heads_per_key + static_cast<int>(blockIdx.x) / column_blocks;
  const int first_column = column_block * kUnitColumns;
  const int column = first_column + StatePart::column();
  const bool has_column = column < p.value_dim, has_row = lane * 4 < p.key_dim;

  const RecurrentSequence sequence = p.batch.sequence(static_cast<int>(blockIdx.z));
  float* const memory = p.memory(sequence, head) + column;
  const bool goes_on = sequence.tokens > 0 && !sequence.fresh;
  if (goes_on && tid < p.key_dim) {
    prefetch_l2(p.memory(sequence, head) + first_column + tid * p.value_dim);
  }
  ChannelConv<kSlots> conv;
  float* const mixed = shared.mixed.q;
#pragma unroll
  for (int i = 0; i < kSlots; ++i) {
    const int n = i * kUnitThreads + tid, value = n - 2 * kStateRows, part = n / kStateRows;
    conv.channel[i] = -1;
    if (value < 0) {
      if (n % kStateRows < p.key_dim) {
        conv.channel[i] = (part * p.num_key_heads + key_head) * p.key_dim + n % kStateRows;
      }
    } else if (value < kUnitColumns && first_column + value < p.value_dim) {
      conv.channel[i] = 2 * p.num_key_heads * p.key_dim + head * p.value_dim + first_column + value;
    }
    if (n < 2 * kStateRows + kUnitColumns) mixed[n] = 0.0f;
  }
  conv.load_weights(p.conv);
  if (goes_on && lane == 0) conv.prefetch_past(p.conv, sequence);
  if (tid < 2 * kMaxColumnBlocks) shared.squares[0][tid] = 0.0f;
  const float decay_rate = p.decay_rate[head], dt_bias = p.dt_bias[head];
  const float4 norm = has_column ? load4(p.norm + column) : float4{};
  arrive_in_cluster_releasing();
  wait_for_previous_kernel();
  launch_dependents();

  wait_for_cluster();  // its blocks have begun
  if (sequence.tokens <= 0) return;
  float* const ring_keys = p.ring.keys_of(sequence, key_head) + lane * 4;
  float* const ring_values = p.ring.values_of(sequence, head) + column;
  int n = p.ring.unknown(sequence.start);  // tokens that S does not know
  StatePart state;
  conv.load_past(p.conv, sequence, p.qkv);
  state.load(memory, p.key_dim, p.value_dim, !sequence.fresh && has_column);
  {
    float4 keys[kRingRounds] = {}, values = {};
    float decays = 0;
#pragma unroll
    for (int i = 0; i < kRingRounds; ++i) {
      const int j = i * kUnitWarps + warp;
      if (j < n && has_row) keys[i] = load4(ring_keys + j * p.key_dim);
    }
    const int j = tid / (kUnitColumns / 4);
    if (j < n && has_column) values = load4(ring_values + j * p.value_dim);
    if (tid < n) decays = p.ring.decays_of(sequence, head)[tid];
#pragma unroll
    for (int i = 0; i < kRingRounds; ++i) {
      store4(&shared.keys[i * kUnitWarps + warp][lane * 4], keys[i]);
    }
    if (j < kMaxRing) store4(&shared.values[j][StatePart::column()], values);
    if (tid < kMaxRing) shared.ring.decays[tid] = decays;
  }

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
      mixed[i * kUnitThreads + tid] = conv.next(i, p.conv, to_float(inputs[i]));
    }
    __syncthreads();

    DeltaSums sums(shared.mixed, StatePart::row(0), state.s);
    sums = {StatePart::sum_of_rows(sums.k), StatePart::sum_of_rows(sums.q)};
    if (lane < kUnitColumns / 4) {
      store4(&shared.sums[warp][0][lane * 4], sums.k);
      store4(&shared.sums[warp][1][lane * 4], sums.q);
    }
#pragma unroll
    for (int i = 0; i < kRingRounds; ++i) {
      const int j = i * kUnitWarps + warp;
      if (j >= n) continue;
      const float2 dots = ring_dots(shared.mixed, load4(&shared.keys[j][lane * 4]));
      if (lane == 0) shared.ring.dots[j][0] = dots.x, shared.ring.dots[j][1] = dots.y;
    }
    __syncthreads();
    const bool folds = p.ring.unknown(sequence.start + t + 1) == 0;
    float4 o = {};
    if (warp == 0) {
      sums = {{}, {}};
#pragma unroll
      for (int w = 0; w < kUnitWarps; ++w) {
        sums = sums + DeltaSums(load4(&shared.sums[w][0][StatePart::column()]),
                                load4(&shared.sums[w][1][StatePart::column()]));
      }
      const UnitFactors unit(shared.mixed, p.query_scale);
      const DeltaResult result(sums, load4(shared.mixed.v + StatePart::column()),
                               DeltaGates(a, b, decay_rate, dt_bias), unit, shared.ring, n,
                               &shared.values[0][StatePart::column()], kUnitColumns);
      o = result.o;
      // Columns past value_dim have v = 0 and S = 0, so o = 0.
      const float squares = StatePart::sum_of_columns(exact_dot4(o, o));
      if (lane < column_blocks) {
        store_in_cluster4(address_in_block(shared_address(&shared.squares[t % 2][column_block]),
                                           blockIdx.x - static_cast<unsigned>(column_block - lane)),
                          squares);
      }
      if (lane < kUnitColumns / 4) store4(&shared.values[n][lane * 4], result.u);
      const float4 k = scaled4(unit.k, load4(shared.mixed.k + lane * 4));
      store4(&shared.keys[n][lane * 4], k);
      put_ends(shared.ring, n, lane, result);
      if (p.ring.tokens > 1) {
        if (writes) store4(ring_values + n * p.value_dim, result.u);
        if (blockIdx.x == 0 && has_row) store4(ring_keys + n * p.key_dim, k);
        if (column_block == 0 && lane == 0) p.ring.decays_of(sequence, head)[n] = result.log_decay;
      }
      __syncwarp();
      if (lane == 0) shared.ring.decays[n] = result.log_decay;
    }
    arrive_in_cluster_releasing();
    if (folds) {
      __syncthreads();
      fold_rows(state.s, shared.ring, n, &shared.keys[0][StatePart::row(0)],
                &shared.values[0][StatePart::column()], kUnitColumns);
    }
    // S of a sequence that begins is nowhere yet.
    if (folds || sequence.start + t == 0) {
      state.store(memory, p.key_dim, p.value_dim, has_column);
    }
    n = folds ? 0 : n + 1;
    wait_for_cluster();
    if (writes) {
      const float4 of = load4(shared.squares[t % 2]);
      store4(
          p.y.row(token) + head * p.value_dim + column,
          gated_norm(o, (of.x + of.y) + (of.z + of.w), p.value_dim, p.norm_eps, norm, z.values()));
    }
  }

#pragma unroll
  for (int i = 0; i < kSlots; ++i) {
    // The first block of the cluster writes q and k for all.
    const bool is_value = i * kUnitThreads + tid >= 2 * kStateRows;
    if (conv.channel[i] >= 0 && (is_value || blockIdx.x == 0)) conv.keep(i, p.conv, sequence);
  }
#endif
}

}  // namespace

bool takes_few_delta_decodes(const DeltaNetCall& call) {
  const DeltaNet::Problem& problem = call.problem;
  const int64_t head_blocks = ceil_div(problem.value_dim, int64_t{kUnitColumns});
  const int64_t cluster = problem.num_value_heads / problem.num_key_heads * head_blocks;
  return call.sm >= 90 && cluster <= kMaxCluster &&
         call.args.batch->num_decodes <= kFewDeltaDecodes;
}

void launch_few_delta_decodes(const DeltaNetCall& call) {
  const DeltaNet::Problem& problem = call.problem;
  const auto column_blocks = static_cast<int>(ceil_div(problem.value_dim, int64_t{kUnitColumns}));
  const auto cluster =
      static_cast<unsigned>(problem.num_value_heads / problem.num_key_heads * column_blocks);
  with_element(call.args.qkv.format, [&](auto in) {
    with_element(call.args.y.format, [&](auto y) {
      launch(decode_few_kernel<decltype(in), decltype(y)>,
             {.grid = dim3(cluster, static_cast<unsigned>(problem.num_key_heads),
                           static_cast<unsigned>(call.args.batch->num_decodes)),
              .block = dim3(kUnitThreads),
              .stream = call.stream,
              .dependent = true,
              .cluster = cluster},
             DeltaDecode<decltype(in), decltype(y)>(call), column_blocks);
    });
  });
}

}  // namespace moe4::cuda
