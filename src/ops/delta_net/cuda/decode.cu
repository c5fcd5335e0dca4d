// Sequences that generate, all of DeltaNet in one launch, for one or a few tokens each:
//
//   x = silu(conv(qkv));  q, k, v;  u = beta (v - decay k^T S);  S <- decay S + k u
//   o = decay q^T S + (q k) u;  y = norm(o) silu(z)
//
// A stream of states through the SM: blocks of 256 threads, two an SM, stay and take a key head of
// a sequence after the other, its value heads in turn. A head's state [key_dim, value_dim] is in
// registers: a warp has 16 rows, a lane four columns of each. Meanwhile the next head's is copied
// into shared memory (64 KB); every thread copies what it will read itself, so nobody waits for
// anybody else's part. k^T S and q^T S of the old state are summed together; that is one exchange a
// token. Nothing passes between blocks. For few sequences decode_few.cu has more, smaller blocks,
// and the same bits (decode_step.cuh).
#include <algorithm>

#include "device/cuda/launch.h"
#include "device/cuda/ptx/copy.cuh"
#include "device/cuda/ptx/launch.cuh"
#include "ops/delta_net/cuda/decode_step.cuh"

namespace moe4::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32, kBlocksPerSm = 2;
constexpr int kChains = 2;  // of rows, a thread
static_assert(kWarps * kChains * kChainRows == kStateRows);
static_assert(kThreads == 2 * kStateRows, "a thread convolves a channel of q or k");

struct Shared {
  float4 next[kChains * kChainRows][kThreads];  // the state of the next head, by threads
  float sums[kWarps][2][kStateRows];
  MixedInputs mixed[2];  // by turns
};

// One key head of one sequence.
struct Item {
  int number, key_head = 0;
  RecurrentSequence sequence;
};

template <typename In, typename Y>
__global__ void __launch_bounds__(kThreads, kBlocksPerSm)
    decode_kernel(const DeltaDecode<In, Y> p) {
  extern __shared__ __align__(16) std::byte shared_memory[];
  Shared& shared = *reinterpret_cast<Shared*>(shared_memory);
  const int tid = static_cast<int>(threadIdx.x), warp = tid / 32, lane = tid % 32;
  const int row = warp * kChains * kChainRows, column = lane * 4;
  const bool has_column = column < p.value_dim;
  const uint32_t next_state = shared_address(&shared.next[0][tid]);

  // The first item from `number` on whose sequence has tokens.
  const auto find = [&](int number) {
    Item item{number};
    for (; item.number < p.num_seqs * p.num_key_heads; item.number += static_cast<int>(gridDim.x)) {
      item.sequence = p.batch.sequence(item.number / p.num_key_heads);
      item.key_head = item.number % p.num_key_heads;
      if (item.sequence.tokens > 0) break;
    }
    return item;
  };
  // Starts to copy the state of value head `r` of an item; zeros if there is none.
  const auto fetch = [&](const Item& item, int r) {
    if (item.number < p.num_seqs * p.num_key_heads) {
      const float* const memory =
          p.memory(item.sequence, item.key_head * p.heads_per_key + r) + column;
#pragma unroll
      for (int i = 0; i < kChains * kChainRows; ++i) {
        const bool wanted = !item.sequence.fresh && has_column && row + i < p.key_dim;
        copy16(next_state + i * kThreads * 16, wanted ? memory + (row + i) * p.value_dim : memory,
               wanted ? 16 : 0);
      }
    }
    copy_commit();
  };

  for (int i = tid; i < 6 * kStateRows; i += kThreads) shared.mixed[0].q[i] = 0.0f;
  Item item = find(static_cast<int>(blockIdx.x));
  const float4 norm = has_column ? load4(p.norm + column) : float4{};
  __syncthreads();
  wait_for_previous_kernel();
  launch_dependents();

  int turn = 0;
  fetch(item, 0);
  while (item.number < p.num_seqs * p.num_key_heads) {
    const RecurrentSequence sequence = item.sequence;
    const int key_head = item.key_head;
    for (int r = 0; r < p.heads_per_key; ++r) {
      const int head = key_head * p.heads_per_key + r;
      float4 state[kChains][kChainRows];

      for (int t = 0; t < sequence.tokens; ++t, turn ^= 1) {
        const int64_t token = sequence.first + t;
        const bool last = t + 1 == sequence.tokens, writes = warp == 0 && has_column;
        MixedInputs& mixed = shared.mixed[turn];
        // Of q or k, and of v.
        ChannelConv<2> conv;
        conv.channel[0] =
            tid % kStateRows < p.key_dim
                ? (tid / kStateRows * p.num_key_heads + key_head) * p.key_dim + tid % kStateRows
                : -1;
        conv.channel[1] =
            tid < p.value_dim ? 2 * p.num_key_heads * p.key_dim + head * p.value_dim + tid : -1;
        conv.load_past(p.conv, sequence, p.qkv, t);
        conv.load_weights(p.conv);
        In inputs[2] = {};
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          if (conv.channel[i] >= 0) inputs[i] = p.qkv.row(token)[conv.channel[i]];
        }
        const float a = p.a.row(token)[head], b = p.b.row(token)[head];
        Stored4<In> z;
        z.fetch_if(writes, p.z.row(token) + head * p.value_dim + column);
        const DeltaGates gates(a, b, p.decay_rate[head], p.dt_bias[head]);
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          if (conv.channel[i] < 0) continue;
          mixed.q[i * kThreads + tid] = conv.next(i, p.conv, to_float(inputs[i]));
          // Nobody else reads these channels; all value heads read q's and k's.
          if (last && (i == 1 || r + 1 == p.heads_per_key)) conv.keep(i, p.conv, sequence);
        }
        __syncthreads();

        if (t == 0) {
          copy_wait<0>();
#pragma unroll
          for (int i = 0; i < kChains * kChainRows; ++i) {
            state[i / kChainRows][i % kChainRows] = shared.next[i][tid];
          }
        }
        const UnitFactors unit(mixed, p.query_scale);
        DeltaSums sums =
            DeltaSums(mixed, row, state[0]) + DeltaSums(mixed, row + kChainRows, state[1]);
        store4(&shared.sums[warp][0][column], sums.k);
        store4(&shared.sums[warp][1][column], sums.q);
        if (t == 0) {
          if (r + 1 == p.heads_per_key) item = find(item.number + static_cast<int>(gridDim.x));
          fetch(item, (r + 1) % p.heads_per_key);
        }
        __syncthreads();
        sums = {{}, {}};
        const auto part = [&](int w) {
          return DeltaSums(load4(&shared.sums[w][0][column]), load4(&shared.sums[w][1][column]));
        };
#pragma unroll
        for (int w = 0; w < kWarps; w += 2) sums = sums + (part(w) + part(w + 1));
        const DeltaResult result(sums, load4(mixed.v + column), gates, unit);
#pragma unroll
        for (int i = 0; i < kChains; ++i) {
          update_rows(state[i], mixed, row + i * kChainRows, unit.k, gates.decay, result.u);
        }
        if (last && has_column) {
          float* const memory = p.memory(sequence, head) + column;
#pragma unroll
          for (int i = 0; i < kChains * kChainRows; ++i) {
            if (row + i < p.key_dim) {
              store4(memory + (row + i) * p.value_dim, state[i / kChainRows][i % kChainRows]);
            }
          }
        }
        if (warp == 0) {
          // Columns past value_dim have v = 0 and S = 0, so o = 0.
          float squares = StatePart::sum_of_columns(exact_dot4(result.o, result.o));
          squares += __shfl_xor_sync(0xffffffff, squares, 8);
          squares += __shfl_xor_sync(0xffffffff, squares, 16);
          if (writes) {
            store4(p.y.row(token) + head * p.value_dim + column,
                   gated_norm(result.o, squares, p.value_dim, p.norm_eps, norm, z.values()));
          }
        }
      }
    }
  }
}

template <typename F>
void with_elements(const F& f) {
  f(float{}, float{});
  f(__nv_bfloat16{}, float{});
  f(float{}, __nv_bfloat16{});
  f(__nv_bfloat16{}, __nv_bfloat16{});
}

}  // namespace

int prepare_delta_decodes() {
  with_elements([](auto in, auto y) {
    MOE4_CUDA_CHECK(cudaFuncSetAttribute(decode_kernel<decltype(in), decltype(y)>,
                                         cudaFuncAttributeMaxDynamicSharedMemorySize,
                                         static_cast<int>(sizeof(Shared))));
    MOE4_CUDA_CHECK(cudaFuncSetAttribute(decode_kernel<decltype(in), decltype(y)>,
                                         cudaFuncAttributePreferredSharedMemoryCarveout,
                                         cudaSharedmemCarveoutMaxShared));
  });
  int device = 0, processors = 0, blocks = 0;
  MOE4_CUDA_CHECK(cudaGetDevice(&device));
  MOE4_CUDA_CHECK(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device));
  MOE4_CUDA_CHECK(cudaOccupancyMaxActiveBlocksPerMultiprocessor(
      &blocks, decode_kernel<float, float>, kThreads, sizeof(Shared)));
  return processors * blocks;
}

void launch_delta_decodes(const DeltaNetCall& call) {
  if (takes_few_delta_decodes(call)) return launch_few_delta_decodes(call);
  const int64_t items = call.args.batch->num_decodes * call.problem.num_key_heads;
  with_element(call.args.qkv.format, [&](auto in) {
    with_element(call.args.y.format, [&](auto y) {
      launch(decode_kernel<decltype(in), decltype(y)>,
             {.grid = dim3(static_cast<unsigned>(std::min<int64_t>(items, call.decode_blocks))),
              .block = dim3(kThreads),
              .shared_bytes = sizeof(Shared),
              .stream = call.stream,
              .dependent = call.sm >= 90},
             DeltaDecode<decltype(in), decltype(y)>(call));
    });
  });
}

}  // namespace moe4::cuda
