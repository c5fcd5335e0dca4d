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
#include "device/cuda/ptx/prefetch.cuh"
#include "ops/delta_net/cuda/decode_step.cuh"

namespace moe4::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32, kBlocksPerSm = 2;
constexpr int kChains = 2;  // of rows, a thread
constexpr int kSlots = 2;   // channels that a thread convolves
static_assert(kWarps * kChains * kChainRows == kStateRows);
static_assert(kThreads == 2 * kStateRows, "a thread convolves a channel of q or k");

struct Shared {
  // Of the next head, by threads: its state, and what its convolution remembers and weighs.
  float4 state[kChains * kChainRows][kThreads];
  float past[kSlots][DeviceConv::kMaxTaps - 1][kThreads];
  float weights[kSlots][DeviceConv::kMaxTaps][kThreads];
  float sums[kWarps][2][kStateRows];
  MixedInputs mixed[2];  // by turns
  float norm[kStateRows];
};

// A value head of a sequence: the r-th of its key head's.
struct Place {
  int item, r = 0;  // items are key heads of sequences
  int key_head = 0;
  RecurrentSequence sequence;
};

// A token's inputs of a place.
template <typename In>
struct Inputs {
  In x[kSlots];
  float a = 0, b = 0;
  Stored4<In> z;
};

template <typename In, typename Y>
struct Stream {
  const DeltaDecode<In, Y>& p;
  Shared& shared;
  const int tid, warp, lane, row, column;
  const bool has_column;

  __device__ Stream(const DeltaDecode<In, Y>& p, Shared& shared)
      : p(p),
        shared(shared),
        tid(static_cast<int>(threadIdx.x)),
        warp(tid / 32),
        lane(tid % 32),
        row(warp * kChains * kChainRows),
        column(lane * 4),
        has_column(column < p.value_dim) {}

  __device__ bool exists(const Place& at) const { return at.item < p.num_seqs * p.num_key_heads; }
  __device__ int head(const Place& at) const { return at.key_head * p.heads_per_key + at.r; }
  // The first key head from `item` on whose sequence has tokens.
  __device__ Place find(int item) const {
    Place at{item};
    for (; exists(at); at.item += static_cast<int>(gridDim.x)) {
      at.sequence = p.batch.sequence(at.item / p.num_key_heads);
      at.key_head = at.item % p.num_key_heads;
      if (at.sequence.tokens > 0) break;
    }
    return at;
  }
  __device__ Place after(const Place& at) const {
    if (at.r + 1 == p.heads_per_key) return find(at.item + static_cast<int>(gridDim.x));
    Place next = at;
    ++next.r;
    return next;
  }
  // Of q or k, and of v; -1: none.
  __device__ int channel(const Place& at, int slot) const {
    if (slot == 0) {
      const int part = tid / kStateRows, i = tid % kStateRows;
      return i < p.key_dim ? (part * p.num_key_heads + at.key_head) * p.key_dim + i : -1;
    }
    return tid < p.value_dim ? 2 * p.num_key_heads * p.key_dim + head(at) * p.value_dim + tid : -1;
  }
  __device__ void load(Inputs<In>& inputs, const Place& at, int64_t token) const {
#pragma unroll
    for (int i = 0; i < kSlots; ++i) {
      const int c = channel(at, i);
      inputs.x[i] = c < 0 ? In{} : p.qkv.row(token)[c];
    }
    inputs.a = p.a.row(token)[head(at)];
    inputs.b = p.b.row(token)[head(at)];
    inputs.z.fetch_if(warp == 0 && has_column, p.z.row(token) + head(at) * p.value_dim + column);
  }
  // Two groups of copies: what the convolution needs, and the state; zeros for what is not there.
  __device__ void fetch(const Place& at) const {
    if (exists(at)) {
#pragma unroll
      for (int i = 0; i < kSlots; ++i) {
        const int c = channel(at, i);
#pragma unroll
        for (int j = 0; j < DeviceConv::kMaxTaps; ++j) {
          const bool wanted = c >= 0 && j < p.conv.taps;
          copy4(shared_address(&shared.weights[i][j][tid]),
                p.conv.weight + (wanted ? j * p.conv.channels + c : 0), wanted);
        }
#pragma unroll
        for (int j = 0; j < DeviceConv::kMaxTaps - 1; ++j) {
          const bool wanted = c >= 0 && !at.sequence.fresh && j < p.conv.taps - 1;
          copy4(shared_address(&shared.past[i][j][tid]),
                wanted ? p.conv.past(at.sequence, -1 - j, c) : p.conv.weight, wanted);
        }
      }
    }
    copy_commit();
    if (exists(at)) {
      const float* const memory = p.memory(at.sequence, head(at)) + column;
#pragma unroll
      for (int i = 0; i < kChains * kChainRows; ++i) {
        const bool wanted = !at.sequence.fresh && has_column && row + i < p.key_dim;
        copy16(shared_address(&shared.state[i][tid]),
               wanted ? memory + (row + i) * p.value_dim : memory, wanted ? 16 : 0);
      }
    }
    copy_commit();
  }
  // q, k, v of a token; keeps the convolution's inputs behind the last.
  __device__ void convolve(const Place& at, int t, const Inputs<In>& inputs,
                           MixedInputs& mixed) const {
    ChannelConv<kSlots> conv;
#pragma unroll
    for (int i = 0; i < kSlots; ++i) {
      conv.channel[i] = channel(at, i);
      if (t > 0) continue;
#pragma unroll
      for (int j = 0; j < DeviceConv::kMaxTaps; ++j) conv.weight[i][j] = shared.weights[i][j][tid];
#pragma unroll
      for (int j = 0; j < DeviceConv::kMaxTaps - 1; ++j) conv.past[i][j] = shared.past[i][j][tid];
    }
    if (t > 0) {
      conv.load_weights(p.conv);
      conv.load_past(p.conv, at.sequence, p.qkv, t);
    }
#pragma unroll
    for (int i = 0; i < kSlots; ++i) {
      if (conv.channel[i] < 0) continue;
      mixed.q[i * kThreads + tid] = conv.next(i, p.conv, to_float(inputs.x[i]));
      // Nobody else reads these channels; all value heads read q's and k's.
      const bool is_last_reader = i == 1 || at.r + 1 == p.heads_per_key;
      if (t + 1 == at.sequence.tokens && is_last_reader) conv.keep(i, p.conv, at.sequence);
    }
  }
};

template <typename In, typename Y>
__global__ void __launch_bounds__(kThreads, kBlocksPerSm)
    decode_kernel(const DeltaDecode<In, Y> p) {
  extern __shared__ __align__(16) std::byte shared_memory[];
  Shared& shared = *reinterpret_cast<Shared*>(shared_memory);
  const Stream<In, Y> stream(p, shared);
  const int tid = stream.tid, warp = stream.warp, row = stream.row, column = stream.column;

  for (int i = tid; i < 6 * kStateRows; i += kThreads) shared.mixed[0].q[i] = 0.0f;
  if (tid < p.value_dim) shared.norm[tid] = p.norm[tid];
  Place next = stream.find(static_cast<int>(blockIdx.x));
  if (stream.exists(next) && !next.sequence.fresh) {
    const float* const memory = p.memory(next.sequence, stream.head(next));
    for (int i = tid * 32; i < p.key_dim * p.value_dim; i += kThreads * 32) prefetch_l2(memory + i);
  }
  __syncthreads();
  wait_for_previous_kernel();
  launch_dependents();

  Inputs<In> inputs;  // of the first token of `next`
  stream.fetch(next);
  if (stream.exists(next)) stream.load(inputs, next, next.sequence.first);
  for (int turn = 0; stream.exists(next);) {
    const Place at = next;
    float4 state[kChains][kChainRows];
    for (int t = 0; t < at.sequence.tokens; ++t, turn ^= 1) {
      const int64_t token = at.sequence.first + t;
      MixedInputs& mixed = shared.mixed[turn];
      Inputs<In> own = inputs;
      if (t > 0) stream.load(own, at, token);
      copy_wait<1>();
      stream.convolve(at, t, own, mixed);
      __syncthreads();

      if (t == 0) {
        copy_wait<0>();
#pragma unroll
        for (int i = 0; i < kChains * kChainRows; ++i) {
          state[i / kChainRows][i % kChainRows] = shared.state[i][tid];
        }
        next = stream.after(at);
        stream.fetch(next);
        if (stream.exists(next)) stream.load(inputs, next, next.sequence.first);
      }
      const UnitFactors unit(mixed, p.query_scale);
      DeltaSums sums =
          DeltaSums(mixed, row, state[0]) + DeltaSums(mixed, row + kChainRows, state[1]);
      store4(&shared.sums[warp][0][column], sums.k);
      store4(&shared.sums[warp][1][column], sums.q);
      const DeltaGates gates(own.a, own.b, p.decay_rate[stream.head(at)],
                             p.dt_bias[stream.head(at)]);
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
      if (t + 1 == at.sequence.tokens && stream.has_column) {
        float* const memory = p.memory(at.sequence, stream.head(at)) + column;
#pragma unroll
        for (int i = 0; i < kChains * kChainRows; ++i) {
          if (row + i < p.key_dim) {
            store4(memory + (row + i) * p.value_dim, state[i / kChainRows][i % kChainRows]);
          }
        }
      }
      if (warp > 0) continue;
      // Columns past value_dim have v = 0 and S = 0, so o = 0.
      float squares = StatePart::sum_of_columns(exact_dot4(result.o, result.o));
      squares += __shfl_xor_sync(0xffffffff, squares, 8);
      squares += __shfl_xor_sync(0xffffffff, squares, 16);
      if (stream.has_column) {
        store4(p.y.row(token) + stream.head(at) * p.value_dim + column,
               gated_norm(result.o, squares, p.value_dim, p.norm_eps, load4(&shared.norm[column]),
                          own.z.values()));
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
