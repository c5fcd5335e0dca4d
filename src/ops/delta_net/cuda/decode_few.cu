// Few sequences that generate (SM90): 32 columns of a head's state a block, so that all SMs load
// and few bytes wait behind each other.
//
// S [key_dim, 32] stays in the registers of 128 threads from load to store. A cluster has all
// blocks that share a key head: they tell each other their sums of squares by stores that report to
// the receiver's barrier, and the cluster's barrier separates those who read the convolution's past
// from the one who writes it. It releases nothing, which would wait for what is on its way to
// memory: what was read before it is in registers, and nobody reads what others write. States are
// fetched into the L2 before the kernel waits for the one before it, which does not write them but
// may be one that does. Behind that wait all loads leave at once, in the order in which they are
// wanted.
#include "device/cuda/launch.h"
#include "device/cuda/ptx/copy.cuh"
#include "device/cuda/ptx/launch.cuh"
#include "device/cuda/ptx/prefetch.cuh"
#include "ops/delta_net/cuda/decode_step.cuh"

namespace moe4::cuda {
namespace {

constexpr int kMaxColumnBlocks = kStateRows / kUnitColumns;
// Code before SM90 has no use for them.
[[maybe_unused]] constexpr int kResultWarp = 0, kFactorWarp = kUnitWarps - 1;

struct alignas(16) Shared {
  MixedInputs mixed;  // of v this block's columns
  // Of tokens that S does not know: this block's columns of u.
  float keys[kMaxRing][kStateRows];
  float values[kMaxRing][kUnitColumns];
  float decays[kMaxRing];
  TokenFactors factors;
  float sums[kUnitWarps][2][kUnitColumns];
  // Of o, from all blocks of the head, of two tokens in turn; zeros where there is no block.
  float squares[2][kMaxColumnBlocks];
  uint64_t squares_there[2];
  float norm[kUnitColumns];
};

template <typename In, typename Y>
__global__ void __launch_bounds__(kUnitThreads, 3)
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
  float* const ring_keys = p.ring.keys_of(sequence, key_head) + lane * 4;
  float* const ring_values = p.ring.values_of(sequence, head) + column;
  float* const ring_decays = p.ring.decays_of(sequence, head);
  int n = p.ring.unknown(sequence.start);  // tokens that S does not know
  const bool goes_on = sequence.tokens > 0 && !sequence.fresh;
  if (goes_on && tid < p.key_dim) {
    prefetch_l2(p.memory(sequence, head) + first_column + tid * p.value_dim);
  }
  if (goes_on && lane % 8 == 0) {
    for (int j = warp; j < n; j += kUnitWarps) {
      if (has_row) prefetch_l2(ring_keys + j * p.key_dim);
      if (lane == 0 && has_column) prefetch_l2(ring_values + j * p.value_dim);
    }
  }
  ChannelConv<kSlots, false> conv;
  float* const mixed = shared.mixed.q;
#pragma unroll
  for (int i = 0; i < kSlots; ++i) {
    const int slot = i * kUnitThreads + tid, part = slot / kStateRows;
    const int value = slot - 2 * kStateRows;
    conv.channel[i] = -1;
    if (value < 0) {
      if (slot % kStateRows < p.key_dim) {
        conv.channel[i] = (part * p.num_key_heads + key_head) * p.key_dim + slot % kStateRows;
      }
    } else if (value < kUnitColumns && first_column + value < p.value_dim) {
      conv.channel[i] = 2 * p.num_key_heads * p.key_dim + head * p.value_dim + first_column + value;
    }
    if (slot < 2 * kStateRows + kUnitColumns) mixed[slot] = 0.0f;
  }
  conv.load_weights(p.conv);
  if (goes_on && lane == 0) conv.prefetch_past(p.conv, sequence);
  // Those of blocks come from them.
  if (tid < 2 * kMaxColumnBlocks && tid % kMaxColumnBlocks >= column_blocks) {
    shared.squares[0][tid] = 0.0f;
  }
  if (tid == 0) {
    for (uint64_t& there : shared.squares_there) barrier_init(shared_address(&there), 1);
    fence_barrier_init();
  }
  const float decay_rate = p.decay_rate[head], dt_bias = p.dt_bias[head];
  if (tid < kUnitColumns && first_column + tid < p.value_dim) {
    shared.norm[tid] = p.norm[first_column + tid];
  }
#pragma unroll
  for (int i = 0; i < kRingRounds; ++i) {
    store4(&shared.keys[i * kUnitWarps + warp][lane * 4], {});
  }
  if (tid < kMaxRing * kUnitColumns / 4) store4(&shared.values[0][tid * 4], {});
  __syncthreads();
  arrive_in_cluster();
  wait_for_previous_kernel();
  launch_dependents();

  const bool has_output = warp == kResultWarp && lane < kUnitColumns / 4 && has_column;
  In inputs[kSlots] = {};
  float a = 0, b = 0;
  Stored4<In> z;
  const auto load_inputs = [&](int64_t token) {
#pragma unroll
    for (int i = 0; i < kSlots; ++i) {
      if (conv.channel[i] >= 0) inputs[i] = p.qkv.row(token)[conv.channel[i]];
    }
    if (warp == kFactorWarp) a = p.a.row(token)[head], b = p.b.row(token)[head];
    z.fetch_if(has_output, p.z.row(token) + head * p.value_dim + column);
  };
  StatePart state;
  if (sequence.tokens > 0) {
    load_inputs(sequence.first);
    conv.load_past(p.conv, sequence, p.qkv);
#pragma unroll
    for (int i = 0; i < kRingRounds; ++i) {
      const int j = i * kUnitWarps + warp;
      if (j < n && has_row) {
        copy16(shared_address(&shared.keys[j][lane * 4]), ring_keys + j * p.key_dim, 16);
      }
    }
    const int j = tid / (kUnitColumns / 4);
    if (j < n && has_column) {
      copy16(shared_address(&shared.values[j][StatePart::column()]), ring_values + j * p.value_dim,
             16);
    }
    if (warp == kFactorWarp && lane < n) {
      copy4(shared_address(&shared.decays[lane]), ring_decays + lane, true);
    }
    copy_commit();
    state.load(memory, p.key_dim, p.value_dim, !sequence.fresh && has_column);
  }
  wait_for_cluster();  // its blocks have begun
  if (sequence.tokens <= 0) return;

  for (int t = 0; t < sequence.tokens; ++t) {
    const int64_t token = sequence.first + t;
    if (t > 0) {
      load_inputs(token);
      __syncthreads();  // all warps are done with the token before
    }
#pragma unroll
    for (int i = 0; i < kSlots; ++i) {
      if (conv.channel[i] < 0) continue;
      mixed[i * kUnitThreads + tid] = conv.next(i, p.conv, to_float(inputs[i]));
    }
    copy_wait<0>();
    __syncthreads();
    if (t == 0) arrive_in_cluster();  // the past has been read

#pragma unroll
    for (int i = 0; i < kRingRounds; ++i) {
      const int j = i * kUnitWarps + warp;
      if (j >= n) continue;
      const float2 dots = ring_dots(shared.mixed, load4(&shared.keys[j][lane * 4]));
      if (lane == 0) shared.factors.dots[j][0] = dots.x, shared.factors.dots[j][1] = dots.y;
    }
    if (warp == kFactorWarp) {
      const float4 k = put_factors(shared.factors, shared.mixed, p.query_scale,
                                   DeltaGates(a, b, decay_rate, dt_bias), shared.decays, n);
      store4(&shared.keys[n][lane * 4], k);
      if (p.ring.tokens > 1) {
        if (blockIdx.x == 0 && has_row) store4(ring_keys + n * p.key_dim, k);
        if (column_block == 0 && lane == 0) ring_decays[n] = shared.decays[n];
      }
    }
    DeltaSums sums(shared.mixed, StatePart::row(0), state.s);
    sums = {StatePart::sum_of_rows(sums.k), StatePart::sum_of_rows(sums.q)};
    if (lane < kUnitColumns / 4) {
      store4(&shared.sums[warp][0][lane * 4], sums.k);
      store4(&shared.sums[warp][1][lane * 4], sums.q);
    }
    __syncthreads();
    const bool folds = p.ring.unknown(sequence.start + t + 1) == 0;
    float4 o = {};
    if (warp == kResultWarp) {
      sums = {{}, {}};
#pragma unroll
      for (int w = 0; w < kUnitWarps; ++w) {
        sums = sums + DeltaSums(load4(&shared.sums[w][0][StatePart::column()]),
                                load4(&shared.sums[w][1][StatePart::column()]));
      }
      const DeltaResult result(sums, load4(shared.mixed.v + StatePart::column()), shared.factors, n,
                               &shared.values[0][StatePart::column()], kUnitColumns);
      o = result.o;
      // Columns past value_dim have v = 0 and S = 0, so o = 0.
      const float squares = StatePart::sum_of_columns(exact_dot4(o, o));
      const uint32_t there = shared_address(&shared.squares_there[t % 2]);
      if (column_blocks == 1) {  // there may be no cluster
        if (lane == 0) shared.squares[t % 2][0] = squares;
        __syncwarp();
      } else if (lane == 0) {
        barrier_expect(there, static_cast<uint32_t>(column_blocks) * sizeof(float));
      }
      if (column_blocks > 1 && lane < column_blocks) {
        const auto rank = blockIdx.x - static_cast<unsigned>(column_block - lane);
        store_in_cluster4(
            address_in_block(shared_address(&shared.squares[t % 2][column_block]), rank), squares,
            address_in_block(there, rank));
      }
      if (lane < kUnitColumns / 4) store4(&shared.values[n][lane * 4], result.u);
      if (p.ring.tokens > 1 && has_output) store4(ring_values + n * p.value_dim, result.u);
    }
    if (folds) {
      __syncthreads();
      fold_rows(state.s, shared.factors, n, &shared.keys[0][StatePart::row(0)],
                &shared.values[0][StatePart::column()], kUnitColumns);
    }
    // S of a sequence that begins is nowhere yet.
    if (folds || sequence.start + t == 0) {
      state.store(memory, p.key_dim, p.value_dim, has_column);
    }
    n = folds ? 0 : n + 1;
    if (warp != kResultWarp) continue;
    if (column_blocks > 1) {
      wait_for_cluster_stores(shared_address(&shared.squares_there[t % 2]), t / 2 % 2);
    }
    if (has_output) {
      const float4 of = load4(shared.squares[t % 2]);
      store4(p.y.row(token) + head * p.value_dim + column,
             gated_norm(o, (of.x + of.y) + (of.z + of.w), p.value_dim, p.norm_eps,
                        load4(&shared.norm[StatePart::column()]), z.values()));
    }
  }

  __syncwarp();
  wait_for_cluster();
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
