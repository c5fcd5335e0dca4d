// Some sequences that generate (SM90), all of DeltaNet in one launch, for one or a few tokens each:
//
//   x = silu(conv(qkv));  q, k, v;  u = beta (v - decay k^T S);  S <- decay S + k u
//   o = decay q^T S + (q k) u;  y = norm(o) silu(z)
//
// A stream of states through the SM: blocks of 256 threads, two an SM, stay, keep a value head and
// take it of a sequence after the other. Its state [key_dim, value_dim] is in shared memory (64
// KB): a warp has 16 rows, a lane four columns of each, and every thread copies what it will read
// itself, so nobody waits for anybody else's part and every eight rows that are summed make room
// for those of the next state. Warps 1 to 3 convolve q, k and v; the last one makes the token's
// factors while others sum; the first makes u and o of the sums while the others go on. Where the
// token is one behind which S is written (see DeltaNet::Problem::ring), all wait for it and do that
// first.
//
// The value heads of a key head read the same past of q and k, which one of them overwrites: they
// are a cluster. For few sequences decode_few.cu has more, smaller blocks; for many decode_many.cu
// has blocks that need not go in step. All have the same bits (decode_step.cuh).
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
constexpr int kTaps = DeviceConv::kMaxTaps;
constexpr int kResultWarp = 0, kConvWarp = 1, kFactorWarp = kWarps - 1;
static_assert(kWarps * kChains * kChainRows == kStateRows);
static_assert(kWarps >= kMaxRing, "a warp has a token of the ring");

struct alignas(16) Shared {
  // Of the next head, by threads: its state, and what its convolution remembers and weighs.
  float4 state[kChains * kChainRows][kThreads];
  float past[kTaps - 1][3][kStateRows];  // of q, k, v
  float weights[kTaps][3][kStateRows];
  // Tokens that S does not know: k by threads; u and G of this head and the next.
  float keys[kMaxRing][kStateRows];
  float values[2][kMaxRing][kStateRows];
  float decays[2][kMaxRing];
  float sums[kWarps][2][kStateRows];
  TokenFactors factors;
  MixedInputs mixed[2];  // by turns
};
static_assert(sizeof(Shared) <= 99 * 1024, "what a block may have on every GPU");

// A value head of a sequence: the r-th of the block's key head.
struct Place {
  int round, r;
  RecurrentSequence sequence;
};

// A token's inputs of a place, as each warp wants them.
template <typename In>
struct Inputs {
  Stored4<In> x, z;
  float a = 0, b = 0, decay_rate = 0, dt_bias = 0;
};

template <typename In, typename Y>
struct Stream {
  const DeltaDecode<In, Y>& p;
  Shared& shared;
  const int tid, warp, lane, row, column;
  const int first_r, step_r, key_head;  // the block's value heads: every step_r-th
  const int part;                       // what the warp convolves: q, k, v; -1: nothing
  const bool has_row, has_column;       // of a key, of a value, from `column` on

  __device__ Stream(const DeltaDecode<In, Y>& p, Shared& shared)
      : p(p),
        shared(shared),
        tid(static_cast<int>(threadIdx.x)),
        warp(tid / 32),
        lane(tid % 32),
        row(warp * kChains * kChainRows),
        column(lane * 4),
        first_r(static_cast<int>(blockIdx.x)),
        step_r(static_cast<int>(gridDim.x)),
        key_head(static_cast<int>(blockIdx.y)),
        part(warp - kConvWarp >= 3 ? -1 : warp - kConvWarp),
        has_row(column < p.key_dim),
        has_column(column < p.value_dim) {}

  __device__ bool exists(const Place& at) const {
    return at.round * static_cast<int>(gridDim.z) < p.num_seqs;
  }
  __device__ int head(const Place& at) const { return key_head * p.heads_per_key + at.r; }
  // From this round on, the first sequence that has tokens. Blocks change places from round to
  // round: neighbours in a batch may write their states in the same step.
  __device__ Place find(int round) const {
    const int lanes = static_cast<int>(gridDim.z);
    Place at{round, first_r};
    for (; exists(at); ++at.round) {
      const int s = at.round * lanes + (static_cast<int>(blockIdx.z) + at.round) % lanes;
      if (s >= p.num_seqs) continue;
      at.sequence = p.batch.sequence(s);
      if (at.sequence.tokens > 0) break;
    }
    return at;
  }
  __device__ Place after(const Place& at) const {
    if (at.r + step_r >= p.heads_per_key) return find(at.round + 1);
    Place next = at;
    next.r += step_r;
    return next;
  }
  // All value heads read the past of q and k; this is the one that overwrites it.
  __device__ bool keeps_keys(const Place& at) const { return at.r + 1 == p.heads_per_key; }
  // Tokens that S does not know when the step begins.
  __device__ int unknown(const Place& at) const { return p.ring.unknown(at.sequence.start); }
  // The first of four that this thread convolves; -1: none.
  __device__ int channel(const Place& at) const {
    if (part < 0) return -1;
    if (part < 2) return has_row ? (part * p.num_key_heads + key_head) * p.key_dim + column : -1;
    return has_column ? 2 * p.num_key_heads * p.key_dim + head(at) * p.value_dim + column : -1;
  }
  __device__ void load(Inputs<In>& inputs, const Place& at, int64_t token) const {
    const int c = channel(at);
    inputs.x.fetch_if(c >= 0, p.qkv.row(token) + c);
    inputs.z.fetch_if(warp == kResultWarp && has_column,
                      p.z.row(token) + head(at) * p.value_dim + column);
    if (warp != kFactorWarp) return;
    inputs.a = p.a.row(token)[head(at)];
    inputs.b = p.b.row(token)[head(at)];
    inputs.decay_rate = p.decay_rate[head(at)];
    inputs.dt_bias = p.dt_bias[head(at)];
  }
  // Lines of what a place begins with on their way into the L2.
  __device__ void prefetch(const Place& at) const {
    if (at.sequence.fresh) return;
    constexpr int kLine = 32;  // floats
    const float* const memory = p.memory(at.sequence, head(at));
    for (int i = tid * kLine; i < p.key_dim * p.value_dim; i += kThreads * kLine) {
      prefetch_l2(memory + i);
    }
    if (lane % 8 == 0) {
      const int c = channel(at);
      for (int j = 0; c >= 0 && j < p.conv.taps - 1; ++j) {
        prefetch_l2(p.conv.past(at.sequence, -1 - j, c));
      }
      if (warp < unknown(at)) {
        if (has_row) {
          prefetch_l2(p.ring.keys_of(at.sequence, key_head) + warp * p.key_dim + column);
        }
        if (has_column) {
          prefetch_l2(p.ring.values_of(at.sequence, head(at)) + warp * p.value_dim + column);
        }
      }
    }
  }

  // ---- copies to shared memory; zeros for what is not there ----

  __device__ void copy_weights(const Place& at) const {
    const int c = channel(at);
    if (c < 0) return;
#pragma unroll
    for (int j = 0; j < kTaps; ++j) {
      const bool wanted = j < p.conv.taps;
      copy16(shared_address(&shared.weights[j][part][column]),
             p.conv.weight + (wanted ? j * p.conv.channels + c : 0), wanted ? 16 : 0);
    }
  }
  __device__ void copy_past(const Place& at) const {
    const int c = channel(at);
    if (c < 0) return;
#pragma unroll
    for (int j = 0; j < kTaps - 1; ++j) {
      const bool wanted = !at.sequence.fresh && j < p.conv.taps - 1;
      copy16(shared_address(&shared.past[j][part][column]),
             wanted ? p.conv.past(at.sequence, -1 - j, c) : p.conv.weight, wanted ? 16 : 0);
    }
  }
  __device__ __forceinline__ void copy_chain(const Place& at, int chain) const {
    const float* const memory = p.memory(at.sequence, head(at)) + column;
#pragma unroll
    for (int i = chain * kChainRows; i < (chain + 1) * kChainRows; ++i) {
      const bool wanted = !at.sequence.fresh && has_column && row + i < p.key_dim;
      copy16(shared_address(&shared.state[i][tid]),
             wanted ? memory + (row + i) * p.value_dim : memory, wanted ? 16 : 0);
    }
  }
  __device__ void copy_ring(const Place& at, int turn) const {
    const int n = unknown(at);
    if (warp < n) {
      if (has_row) {
        copy16(shared_address(&shared.keys[warp][column]),
               p.ring.keys_of(at.sequence, key_head) + warp * p.key_dim + column, 16);
      }
      if (has_column) {
        copy16(shared_address(&shared.values[turn][warp][column]),
               p.ring.values_of(at.sequence, head(at)) + warp * p.value_dim + column, 16);
      }
    }
    if (warp == kFactorWarp && lane < n) {
      copy4(shared_address(&shared.decays[turn][lane]),
            p.ring.decays_of(at.sequence, head(at)) + lane, true);
    }
  }

  // ---- of this thread ----

  __device__ __forceinline__ void read_chain(int chain, float4 (&s)[kChainRows]) const {
#pragma unroll
    for (int i = 0; i < kChainRows; ++i) s[i] = shared.state[chain * kChainRows + i][tid];
  }
  /// To both memories.
  __device__ __forceinline__ void write_chain(const Place& at, int chain,
                                              const float4 (&s)[kChainRows]) const {
    float* const memory = p.memory(at.sequence, head(at)) + column;
#pragma unroll
    for (int i = 0; i < kChainRows; ++i) {
      const int n = chain * kChainRows + i;
      shared.state[n][tid] = s[i];
      if (has_column && row + n < p.key_dim) store4(memory + (row + n) * p.value_dim, s[i]);
    }
  }
  __device__ __forceinline__ void read_past(ChannelConv<4, false>& conv) const {
#pragma unroll
    for (int j = 0; j < kTaps - 1; ++j) {
      const float4 x = load4(&shared.past[j][part][column]);
      conv.past[0][j] = x.x, conv.past[1][j] = x.y, conv.past[2][j] = x.z, conv.past[3][j] = x.w;
    }
  }
  __device__ __forceinline__ void read_weights(ChannelConv<4, false>& conv) const {
#pragma unroll
    for (int j = 0; j < kTaps; ++j) {
      const float4 x = load4(&shared.weights[j][part][column]);
      conv.weight[0][j] = x.x, conv.weight[1][j] = x.y;
      conv.weight[2][j] = x.z, conv.weight[3][j] = x.w;
    }
  }
  /// Where the place keeps this thread's newest input but taps - 2 for the next step; null:
  /// nowhere.
  __device__ float* kept(const Place& at) const {
    const int c = channel(at);
    return c < 0 || (part < 2 && !keeps_keys(at)) ? nullptr : at.sequence.state + c;
  }
  __device__ void keep_past(float* to, const ChannelConv<4, false>& conv) const {
    if (to == nullptr) return;
#pragma unroll
    for (int j = 0; j < kTaps - 1; ++j) {
      if (j < p.conv.taps - 1) {
        store4(to + static_cast<int64_t>(p.conv.taps - 2 - j) * p.conv.channels,
               {conv.past[0][j], conv.past[1][j], conv.past[2][j], conv.past[3][j]});
      }
    }
  }
};

// All blocks of the cluster have what they read before they arrived. Nobody reads what another one
// writes: a release would wait for all copies that are on their way.
__device__ __forceinline__ void arrive_in(bool cluster) {
#if __CUDA_ARCH__ >= 900
  if (cluster) arrive_in_cluster();
#endif
}
__device__ __forceinline__ void wait_for(bool cluster) {
#if __CUDA_ARCH__ >= 900
  if (cluster) wait_for_cluster();
#endif
}

template <typename In, typename Y>
__global__ void __launch_bounds__(kThreads, kBlocksPerSm)
    decode_kernel(const DeltaDecode<In, Y> p) {
  extern __shared__ __align__(16) std::byte shared_memory[];
  Shared& shared = *reinterpret_cast<Shared*>(shared_memory);
  const Stream<In, Y> stream(p, shared);
  const int warp = stream.warp, row = stream.row, column = stream.column;
  const bool in_cluster = gridDim.x > 1;

  Place next = stream.find(0);
  if (stream.exists(next)) {
    stream.prefetch(next);
    stream.copy_weights(next);
  }
  for (int i = stream.tid; i < 2 * 3 * kStateRows; i += kThreads) shared.mixed[0].q[i] = 0.0f;
  for (int i = stream.tid; i < kMaxRing * kStateRows; i += kThreads) {
    shared.keys[0][i] = shared.values[0][0][i] = shared.values[1][0][i] = 0.0f;
  }
  const float4 norm = stream.has_column ? load4(p.norm + column) : float4{};
  __syncthreads();
  wait_for_previous_kernel();
  launch_dependents();

  // Two groups of copies, of the past and of the state with its ring, are always on their way.
  Inputs<In> inputs;  // of the first token of `next`
  if (stream.exists(next)) {
    stream.load(inputs, next, next.sequence.first);
    stream.copy_past(next);
  }
  copy_commit();
  if (stream.exists(next)) {
    stream.copy_ring(next, 0);
    for (int i = 0; i < kChains; ++i) stream.copy_chain(next, i);
  }
  copy_commit();
  int token_turn = 0;
  ChannelConv<4, false> conv;
  float* kept = nullptr;  // where the inputs in `conv` go once the cluster has read what is there
  arrive_in(in_cluster);
  TokenFactors& factors = shared.factors;
  for (int turn = 0; stream.exists(next); turn ^= 1) {
    const Place at = next;
    const int head = stream.head(at);
    auto& values = shared.values[turn];
    auto& decays = shared.decays[turn];
    next = stream.after(at);
    const bool goes_on = stream.exists(next);
    int n = stream.unknown(at);
    for (int t = 0; t < at.sequence.tokens; ++t, token_turn ^= 1) {
      const int64_t token = at.sequence.first + t;
      const bool last = t + 1 == at.sequence.tokens;
      const bool folds = p.ring.unknown(at.sequence.start + t + 1) == 0;
      // S of a sequence that begins is nowhere yet.
      const bool writes = folds || at.sequence.start + t == 0;
      MixedInputs& mixed = shared.mixed[token_turn];
      if (t > 0) stream.load(inputs, at, token);
      if (t == 0) {
        copy_wait<1>();
        // The place before: one behind, so that blocks of a cluster need not go in step.
        wait_for(in_cluster);
        stream.keep_past(kept, conv);
        arrive_in(in_cluster);
      }
      if (stream.channel(at) >= 0) {
        if (t == 0) stream.read_past(conv);
        stream.read_weights(conv);  // again for every token: they are many registers
        const float4 x = inputs.x.values();
        store4(&mixed.q[stream.part * kStateRows + column],
               {conv.next(0, p.conv, x.x), conv.next(1, p.conv, x.y), conv.next(2, p.conv, x.z),
                conv.next(3, p.conv, x.w)});
      }
      DeltaGates gates;
      if (warp == kFactorWarp) {
        gates = DeltaGates(inputs.a, inputs.b, inputs.decay_rate, inputs.dt_bias);
      }
      const Stored4<In> z = inputs.z;
      __syncthreads();

      if (last) {
        if (goes_on) {
          stream.load(inputs, next, next.sequence.first);
          if (stream.part == 2 && next.r != at.r) stream.copy_weights(next);
          stream.copy_past(next);
        }
        copy_commit();
        copy_wait<1>();
      } else {
        copy_wait<0>();
      }
      const bool refills = last && !writes && goes_on;
      if (warp < n) {
        const float2 dots = ring_dots(mixed, load4(&shared.keys[warp][column]));
        if (stream.lane == 0) factors.dots[warp][0] = dots.x, factors.dots[warp][1] = dots.y;
      }
      if (warp == kFactorWarp) {
        __syncwarp();  // decays are there
        const float4 k = put_factors(factors, mixed, p.query_scale, gates, decays, n);
        if (p.ring.tokens > 1) {
          if (stream.keeps_keys(at) && stream.has_row) {
            store4(p.ring.keys_of(at.sequence, stream.key_head) + n * p.key_dim + column, k);
          }
          if (stream.lane == 0) p.ring.decays_of(at.sequence, head)[n] = decays[n];
        }
        if (folds || !last) store4(&shared.keys[n][column], k);
      }
      const auto chain = [&](int i) {
        float4 s[kChainRows];
        stream.read_chain(i, s);
        const DeltaSums sums(mixed, row + i * kChainRows, s);
        if (refills) stream.copy_chain(next, i);
        return sums;
      };
      DeltaSums part = chain(0);
      part = part + chain(1);
      store4(&shared.sums[warp][0][column], part.k);
      store4(&shared.sums[warp][1][column], part.q);
      if (refills) stream.copy_ring(next, turn ^ 1);
      if (last && !writes) copy_commit();
      __syncthreads();

      if (warp == kResultWarp) {
        DeltaSums sums{{}, {}};
        const auto part_of = [&](int w) {
          return DeltaSums(load4(&shared.sums[w][0][column]), load4(&shared.sums[w][1][column]));
        };
#pragma unroll
        for (int w = 0; w < kWarps; w += 2) sums = sums + (part_of(w) + part_of(w + 1));
        const DeltaResult result(sums, load4(mixed.v + column), factors, n, &values[0][column],
                                 kStateRows);
        if (p.ring.tokens > 1 && stream.has_column) {
          store4(p.ring.values_of(at.sequence, head) + n * p.value_dim + column, result.u);
        }
        if (folds || !last) store4(&values[n][column], result.u);
        // Columns past value_dim have v = 0 and S = 0, so o = 0.
        float squares = StatePart::sum_of_columns(exact_dot4(result.o, result.o));
        squares += __shfl_xor_sync(0xffffffff, squares, 8);
        squares += __shfl_xor_sync(0xffffffff, squares, 16);
        if (stream.has_column) {
          store4(p.y.row(token) + head * p.value_dim + column,
                 gated_norm(result.o, squares, p.value_dim, p.norm_eps, norm, z.values()));
        }
      }
      if (folds) __syncthreads();
      if (writes) {
#pragma unroll 1
        for (int i = 0; i < kChains; ++i) {
          float4 s[kChainRows];
          stream.read_chain(i, s);
          const int first_row = row + i * kChainRows;
          if (folds) {
            fold_rows(s, factors, n, &shared.keys[0][first_row], &values[0][column], kStateRows);
          }
          stream.write_chain(at, i, s);
          if (last && goes_on) stream.copy_chain(next, i);
        }
        if (folds) __syncthreads();  // keys and values have been read
        if (last && goes_on) stream.copy_ring(next, turn ^ 1);
        if (last) copy_commit();
      }
      n = folds ? 0 : n + 1;
    }
    kept = stream.kept(at);
  }
  wait_for(in_cluster);
  stream.keep_past(kept, conv);
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
  prepare_many_delta_decodes();
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
  const DeltaNet::Problem& problem = call.problem;
  if (takes_few_delta_decodes(call)) return launch_few_delta_decodes(call);
  if (call.sm < 90 || call.args.batch->num_decodes > kSomeDeltaDecodes) {
    return launch_many_delta_decodes(call);
  }
  const auto cluster = static_cast<unsigned>(problem.num_value_heads / problem.num_key_heads);
  const int64_t lanes = std::clamp<int64_t>(call.decode_blocks / problem.num_value_heads, 1,
                                            call.args.batch->num_decodes);
  with_element(call.args.qkv.format, [&](auto in) {
    with_element(call.args.y.format, [&](auto y) {
      launch(decode_kernel<decltype(in), decltype(y)>,
             {.grid = dim3(cluster, static_cast<unsigned>(problem.num_key_heads),
                           static_cast<unsigned>(lanes)),
              .block = dim3(kThreads),
              .shared_bytes = sizeof(Shared),
              .stream = call.stream,
              .dependent = true,
              .cluster = cluster},
             DeltaDecode<decltype(in), decltype(y)>(call));
    });
  });
}

}  // namespace moe4::cuda
