// Many sequences that generate, all of DeltaNet in one launch, for one or a few tokens each:
//
//   x = silu(conv(qkv));  q, k, v;  u = beta (v - decay k^T S);  S <- decay S + k u
//   o = decay q^T S + (q k) u;  y = norm(o) silu(z)
//
// A stream of states through the SM: blocks of 256 threads, two an SM, stay and take a key head of
// a sequence after the other, its value heads in turn. A head's state [key_dim, value_dim] is in
// shared memory (64 KB): a warp has 16 rows, a lane four columns of each, and every thread copies
// what it will read itself, so nobody waits for anybody else's part. As soon as k^T S and q^T S are
// summed, the next head's state is on its way. One warp makes u and o of the sums while the others
// go on. Where the token is one behind which S is written (see DeltaNet::Problem::ring), all warps
// wait for it and do that first. Nothing passes between blocks, and a block takes the value heads
// of a key head one after the other. Of fewer sequences decode.cu spreads heads over more blocks,
// with the same bits (decode_step.cuh).
#include <algorithm>

#include "device/cuda/launch.h"
#include "device/cuda/ptx/copy.cuh"
#include "device/cuda/ptx/launch.cuh"
#include "device/cuda/ptx/prefetch.cuh"
#include "ops/delta_net/cuda/decode_step.cuh"

namespace moe4::cuda {
namespace {

/// In a block's memory: what is known of the tokens that S does not know yet.
struct alignas(16) RingFactors {
  float decays[kMaxRing];      ///< G_j
  float dots[kMaxRing][2];     ///< k_j with k and with q, before UnitFactors
  float to_end[kMaxRing + 1];  ///< e^(G - G_j); at [n] 1, for the token itself
  float decay;                 ///< e^G
};

/// u and o of four columns, and G with the token. `ring_values`: of those columns, rows `stride`
/// apart, n of them.
struct RingResult {
  float4 u, o;
  float log_decay, decay;
  __device__ __forceinline__ RingResult(const DeltaSums& sums, float4 v, const DeltaGates& gates,
                                        const UnitFactors& unit, const RingFactors& ring, int n,
                                        const float* ring_values, int stride) {
    log_decay = n > 0 ? ring.decays[n - 1] + gates.log_decay : gates.log_decay;
    decay = expf(log_decay);
    const float known = decay * unit.k, asked = decay * unit.q;
    float4 told = scaled4(known, sums.k);
    o = scaled4(asked, sums.q);
    for (int j = 0; j < n; ++j) {
      const float to_end = expf(log_decay - ring.decays[j]);
      const float4 u_j = load4(ring_values + j * stride);
      told = exact_add_scaled4(told, to_end * ring.dots[j][0] * unit.k, u_j);
      o = exact_add_scaled4(o, to_end * ring.dots[j][1] * unit.q, u_j);
    }
    u = {gates.beta * (v.x - told.x), gates.beta * (v.y - told.y), gates.beta * (v.z - told.z),
         gates.beta * (v.w - told.w)};
    o = exact_add_scaled4(o, unit.qk, u);
  }
};

/// e^(G - G_j) of all tokens that S does not know, for fold_ring(): a thread each, n + 1 of them.
__device__ __forceinline__ void put_ends(RingFactors& ring, int n, int j,
                                         const RingResult& result) {
  if (j < n) ring.to_end[j] = expf(result.log_decay - ring.decays[j]);
  if (j == n) ring.to_end[n] = 1.0f, ring.decay = result.decay;
}

/// S <- e^G S + sum over j of e^(G - G_j) k_j u_j of some rows and four columns. `keys`: of those
/// rows, kStateRows apart; `values`: of those columns, `stride` apart.
template <int kRows>
__device__ __forceinline__ void fold_ring(float4 (&s)[kRows], const RingFactors& ring, int n,
                                          const float* keys, const float* values, int stride) {
#pragma unroll
  for (float4& x : s) x = scaled4(ring.decay, x);
  for (int j = 0; j <= n; ++j) {
    const float to_end = ring.to_end[j];
    const float4 u = scaled4(to_end, load4(values + j * stride));
#pragma unroll
    for (int i = 0; i < kRows; i += 4) {
      const float4 k = load4(keys + j * kStateRows + i);
      s[i] = exact_add_scaled4(s[i], k.x, u);
      s[i + 1] = exact_add_scaled4(s[i + 1], k.y, u);
      s[i + 2] = exact_add_scaled4(s[i + 2], k.z, u);
      s[i + 3] = exact_add_scaled4(s[i + 3], k.w, u);
    }
  }
}

constexpr int kThreads = 256, kWarps = kThreads / 32, kBlocksPerSm = 2;
constexpr int kChains = 2;  // of rows, a thread
constexpr int kSlots = 2;   // channels that a thread convolves: of q or k, and of v
constexpr int kChannels = 3 * kStateRows;
static_assert(kWarps * kChains * kChainRows == kStateRows);
static_assert(kThreads == 2 * kStateRows, "a thread convolves a channel of q or k");
static_assert(kWarps == kMaxRing, "a warp has a token of the ring");

struct alignas(16) Shared {
  // Of the next head, by threads: its state, and what its convolution remembers and weighs.
  float4 state[kChains * kChainRows][kThreads];
  float past[DeviceConv::kMaxTaps - 1][kChannels];
  float weights[DeviceConv::kMaxTaps][kChannels];
  // Tokens that S does not know: k by threads; u and G of this head and the next.
  float keys[kMaxRing][kStateRows];
  float values[2][kMaxRing][kStateRows];
  RingFactors ring[2];
  float sums[kWarps][2][kStateRows];
  MixedInputs mixed[2];  // by turns
  float norm[kStateRows];
};
static_assert(sizeof(Shared) <= 99 * 1024, "what a block may have on every GPU");

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
  // Tokens that S does not know when the step begins.
  __device__ int unknown(const Place& at) const { return p.ring.unknown(at.sequence.start); }
  // -1: none.
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
  // Two groups of copies: what the convolution needs; the state and its ring; zeros for what is not
  // there.
  __device__ void fetch(const Place& at, int turn) const {
    if (exists(at)) {
#pragma unroll
      for (int i = 0; i < kSlots; ++i) {
        if (i * kThreads + tid >= kChannels) continue;
        const int c = channel(at, i);
#pragma unroll
        for (int j = 0; j < DeviceConv::kMaxTaps; ++j) {
          const bool wanted = c >= 0 && j < p.conv.taps;
          copy4(shared_address(&shared.weights[j][i * kThreads + tid]),
                p.conv.weight + (wanted ? j * p.conv.channels + c : 0), wanted);
        }
#pragma unroll
        for (int j = 0; j < DeviceConv::kMaxTaps - 1; ++j) {
          const bool wanted = c >= 0 && !at.sequence.fresh && j < p.conv.taps - 1;
          copy4(shared_address(&shared.past[j][i * kThreads + tid]),
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
      const int n = unknown(at);
      if (warp < n) {
        if (column < p.key_dim) {
          copy16(shared_address(&shared.keys[warp][column]),
                 p.ring.keys_of(at.sequence, at.key_head) + warp * p.key_dim + column, 16);
        }
        if (has_column) {
          copy16(shared_address(&shared.values[turn][warp][column]),
                 p.ring.values_of(at.sequence, head(at)) + warp * p.value_dim + column, 16);
        }
      }
      if (tid < n) {
        copy4(shared_address(&shared.ring[turn].decays[tid]),
              p.ring.decays_of(at.sequence, head(at)) + tid, true);
      }
    }
    copy_commit();
  }
  // Of this thread, one chain; to both memories.
  __device__ __forceinline__ void read_state(int chain, float4 (&s)[kChainRows]) const {
#pragma unroll
    for (int i = 0; i < kChainRows; ++i) s[i] = shared.state[chain * kChainRows + i][tid];
  }
  __device__ __forceinline__ void write_state(const Place& at, int chain,
                                              const float4 (&s)[kChainRows]) const {
    float* const memory = p.memory(at.sequence, head(at)) + column;
#pragma unroll
    for (int i = 0; i < kChainRows; ++i) {
      const int n = chain * kChainRows + i;
      shared.state[n][tid] = s[i];
      if (has_column && row + n < p.key_dim) store4(memory + (row + n) * p.value_dim, s[i]);
    }
  }
  // q, k, v of a token; keeps the convolution's inputs behind the last.
  __device__ void convolve(const Place& at, int t, const Inputs<In>& inputs,
                           MixedInputs& mixed) const {
    ChannelConv<kSlots> conv;
#pragma unroll
    for (int i = 0; i < kSlots; ++i) {
      conv.channel[i] = channel(at, i);
      if (t > 0 || conv.channel[i] < 0) continue;
      const int n = i * kThreads + tid;
#pragma unroll
      for (int j = 0; j < DeviceConv::kMaxTaps; ++j) conv.weight[i][j] = shared.weights[j][n];
#pragma unroll
      for (int j = 0; j < DeviceConv::kMaxTaps - 1; ++j) conv.past[i][j] = shared.past[j][n];
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
    decode_many_kernel(const DeltaDecode<In, Y> p) {
  extern __shared__ __align__(16) std::byte shared_memory[];
  Shared& shared = *reinterpret_cast<Shared*>(shared_memory);
  const Stream<In, Y> stream(p, shared);
  const int tid = stream.tid, warp = stream.warp, row = stream.row, column = stream.column;

  for (int i = tid; i < 2 * kChannels; i += kThreads) shared.mixed[0].q[i] = 0.0f;
  for (int i = tid; i < kMaxRing * kStateRows; i += kThreads) {
    shared.keys[0][i] = shared.values[0][0][i] = shared.values[1][0][i] = 0.0f;
  }
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
  stream.fetch(next, 0);
  if (stream.exists(next)) stream.load(inputs, next, next.sequence.first);
  int token_turn = 0;
  for (int turn = 0; stream.exists(next); turn ^= 1) {
    const Place at = next;
    const int head = stream.head(at);
    RingFactors& ring = shared.ring[turn];
    auto& values = shared.values[turn];
    int n = stream.unknown(at);
    for (int t = 0; t < at.sequence.tokens; ++t, token_turn ^= 1) {
      const int64_t token = at.sequence.first + t;
      const bool first = t == 0, last = t + 1 == at.sequence.tokens;
      const bool folds = p.ring.unknown(at.sequence.start + t + 1) == 0;
      MixedInputs& mixed = shared.mixed[token_turn];
      Inputs<In> own = inputs;
      if (!first) stream.load(own, at, token);
      copy_wait<1>();
      stream.convolve(at, t, own, mixed);
      __syncthreads();

      if (first) copy_wait<0>();
      const auto fetch_next = [&] {
        next = stream.after(at);
        stream.fetch(next, turn ^ 1);
        if (stream.exists(next)) stream.load(inputs, next, next.sequence.first);
      };
      const auto chain = [&](int i) {
        float4 s[kChainRows];
        stream.read_state(i, s);
        return DeltaSums(mixed, row + i * kChainRows, s);
      };
      const DeltaSums part = chain(0) + chain(1);
      store4(&shared.sums[warp][0][column], part.k);
      store4(&shared.sums[warp][1][column], part.q);
      if (warp < n) {
        const float2 dots = ring_dots(mixed, load4(&shared.keys[warp][column]));
        if (stream.lane == 0) ring.dots[warp][0] = dots.x, ring.dots[warp][1] = dots.y;
      }
      const bool stores_zeros = at.sequence.start + t == 0 && !folds;
      if (last && !folds && !stores_zeros) fetch_next();
      __syncthreads();

      if (warp == 0) {
        DeltaSums sums{{}, {}};
        const auto part_of = [&](int w) {
          return DeltaSums(load4(&shared.sums[w][0][column]), load4(&shared.sums[w][1][column]));
        };
#pragma unroll
        for (int w = 0; w < kWarps; w += 2) sums = sums + (part_of(w) + part_of(w + 1));
        const UnitFactors unit(mixed, p.query_scale);
        const RingResult result(sums, load4(mixed.v + column),
                                DeltaGates(own.a, own.b, p.decay_rate[head], p.dt_bias[head]), unit,
                                ring, n, &values[0][column], kStateRows);
        const float4 k = scaled4(unit.k, load4(mixed.k + column));
        if (p.ring.tokens > 1) {
          if (stream.has_column) {
            store4(p.ring.values_of(at.sequence, head) + n * p.value_dim + column, result.u);
          }
          // All value heads have read the ring by now.
          if (at.r + 1 == p.heads_per_key && column < p.key_dim) {
            store4(p.ring.keys_of(at.sequence, at.key_head) + n * p.key_dim + column, k);
          }
          if (stream.lane == 0) p.ring.decays_of(at.sequence, head)[n] = result.log_decay;
        }
        if (folds || !last) {
          store4(&values[n][column], result.u);
          store4(&shared.keys[n][column], k);
          put_ends(ring, n, stream.lane, result);
          __syncwarp();
          if (stream.lane == 0) ring.decays[n] = result.log_decay;
        }
        // Columns past value_dim have v = 0 and S = 0, so o = 0.
        float squares = StatePart::sum_of_columns(exact_dot4(result.o, result.o));
        squares += __shfl_xor_sync(0xffffffff, squares, 8);
        squares += __shfl_xor_sync(0xffffffff, squares, 16);
        if (stream.has_column) {
          store4(p.y.row(token) + head * p.value_dim + column,
                 gated_norm(result.o, squares, p.value_dim, p.norm_eps, load4(&shared.norm[column]),
                            own.z.values()));
        }
      }
      if (folds) __syncthreads();
      // S of a sequence that begins is nowhere yet.
      if (folds || stores_zeros) {
        for (int i = 0; i < kChains; ++i) {
          float4 s[kChainRows];
          stream.read_state(i, s);
          const int first_row = row + i * kChainRows;
          if (folds) {
            fold_ring(s, ring, n, &shared.keys[0][first_row], &values[0][column], kStateRows);
          }
          stream.write_state(at, i, s);
        }
      }
      if (folds) __syncthreads();  // keys and values have been read
      if (last && (folds || stores_zeros)) fetch_next();
      n = folds ? 0 : n + 1;
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

void prepare_many_delta_decodes() {
  with_elements([](auto in, auto y) {
    MOE4_CUDA_CHECK(cudaFuncSetAttribute(decode_many_kernel<decltype(in), decltype(y)>,
                                         cudaFuncAttributeMaxDynamicSharedMemorySize,
                                         static_cast<int>(sizeof(Shared))));
    MOE4_CUDA_CHECK(cudaFuncSetAttribute(decode_many_kernel<decltype(in), decltype(y)>,
                                         cudaFuncAttributePreferredSharedMemoryCarveout,
                                         cudaSharedmemCarveoutMaxShared));
  });
}

void launch_many_delta_decodes(const DeltaNetCall& call) {
  const int64_t items = call.args.batch->num_decodes * call.problem.num_key_heads;
  with_element(call.args.qkv.format, [&](auto in) {
    with_element(call.args.y.format, [&](auto y) {
      launch(decode_many_kernel<decltype(in), decltype(y)>,
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
