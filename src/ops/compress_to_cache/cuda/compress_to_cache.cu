// CompressToCache on NVIDIA GPUs: a block an entry, a thread an element.
//
// An entry is summed token after token, as the state is: so its bits are the same whether its
// tokens come in one step or in many. Entries of a prompt are summed side by side, each from its
// first token on (with overlaps, the first of the entry before). Only those that a sequence's step
// begins with go on from the state; one block has them, and leaves the state as the last tokens of
// the step make it: threads keep to their elements, so each has read its part by then.
#include "base/checked_math.h"
#include "device/cuda/divisor.h"
#include "device/cuda/launch.h"
#include "device/cuda/ptx/launch.cuh"
#include "ops/compress_to_cache/compress_to_cache.h"
#include "ops/cuda/cache_values.cuh"
#include "ops/cuda/device_values.h"
#include "ops/cuda/implementation.h"
#include "ops/cuda/recurrent.cuh"
#include "ops/cuda/shared_keys.h"

namespace moe4 {
namespace {

using namespace cuda;

constexpr int kMostThreads = 512;
constexpr int kAhead = 4;  // tokens whose loads are on their way

// Rows of either format.
struct AnyRows {
  const std::byte* data;
  int64_t stride;
  bool is_bf16;

  explicit AnyRows(const Rows& rows)
      : data(rows.data), stride(rows.stride), is_bf16(rows.format == RowFormat::kBf16) {}
  __device__ float at(int64_t row, int column) const {
    const int64_t i = row * stride + column;
    return is_bf16 ? to_float(reinterpret_cast<const __nv_bfloat16*>(data)[i])
                   : reinterpret_cast<const float*>(data)[i];
  }
};

struct Params {
  AnyRows kv, gate;
  RowsOf<float> angles;
  RecurrentBatch batch;
  int num_seqs;
  const int32_t* blocks;
  int64_t max_blocks;
  std::byte* pages;
  int64_t page_bytes;
  const float *bias, *norm;
  float eps;
  int dim, width, ratio, half;
  Divisor by_ratio;
  SharedKeyPlaces places;

  /// Numbers of blocks from which on a sequence has its own: tokens that begin or end inside an
  /// entry make one more.
  __device__ int first_block(int s) const {
    return static_cast<int>(by_ratio.divide(static_cast<uint32_t>(batch.query_start[s]))) + 2 * s;
  }
};

// What is summed of one element; every step rounds alike wherever it is done.
struct Sums {
  float largest = 0, factors = 0, values = 0;

  __device__ __forceinline__ void add(float weight, float kv) {
    if (factors == 0.0f) {
      largest = weight;
      factors = 1.0f;
      values = kv;
    } else if (weight <= largest) {
      const float factor = expf(weight - largest);
      factors = __fadd_rn(factors, factor);
      values = __fmaf_rn(factor, kv, values);
    } else {
      const float keep = expf(largest - weight);
      largest = weight;
      factors = __fmaf_rn(factors, keep, 1.0f);
      values = __fmaf_rn(values, keep, kv);
    }
  }
  __device__ __forceinline__ void load(const float* state, int width, int column) {
    largest = state[column];
    factors = state[width + column];
    values = state[2 * width + column];
  }
  __device__ __forceinline__ void store(float* state, int width, int column) const {
    state[column] = largest;
    state[width + column] = factors;
    state[2 * width + column] = values;
  }
};

// A block's work on one sequence. All threads call its functions; those past dim have no element.
template <bool kOverlaps>
class Walk {
 public:
  __device__ Walk(const Params& p, const RecurrentSequence& sequence, int s, float* shared)
      : p_(p), sequence_(sequence), s_(s), d_(static_cast<int>(threadIdx.x)), shared_(shared) {}

  __device__ __forceinline__ void begin_with_state() {
    if (sequence_.fresh || d_ >= p_.dim) return;
    own_.load(sequence_.state, p_.width, d_);
    if (kOverlaps) next_.load(sequence_.state, p_.width, p_.dim + d_);
  }
  __device__ __forceinline__ void clear() { own_ = next_ = {}; }
  __device__ __forceinline__ void leave_state() const {
    if (d_ >= p_.dim) return;
    own_.store(sequence_.state, p_.width, d_);
    if (kOverlaps) next_.store(sequence_.state, p_.width, p_.dim + d_);
  }

  // Tokens [from, to) counted from the sequence's first of the step. Entries are stored that they
  // complete, from the first_entry-th on.
  __device__ __forceinline__ void take(int from, int to, int first_entry) {
    const int position = sequence_.start + from;
    int entry = static_cast<int>(p_.by_ratio.divide(static_cast<uint32_t>(position)));
    int i = position - entry * p_.ratio;  // of the entry
    for (int first = from; first < to; first += kAhead) {
      Token tokens[kAhead];
#pragma unroll
      for (int j = 0; j < kAhead; ++j) {
        const int place = i + j < p_.ratio ? i + j : (i + j) % p_.ratio;
        if (first + j < to && d_ < p_.dim) load(first + j, place, tokens[j]);
      }
#pragma unroll
      for (int j = 0; j < kAhead; ++j) {
        if (first + j >= to) continue;
        if (i == 0) {
          own_ = kOverlaps ? next_ : Sums{};
          next_ = {};
        }
        own_.add(tokens[j].own_weight, tokens[j].own);
        if (kOverlaps) next_.add(tokens[j].next_weight, tokens[j].next);
        if (++i < p_.ratio) continue;
        if (entry >= first_entry) store(sequence_.first + first + j, entry);
        i = 0;
        ++entry;
      }
    }
  }

 private:
  struct Token {
    float own_weight = 0, own = 0, next_weight = 0, next = 0;
  };

  // Of kv, gate and bias; of next entries it is d_.
  __device__ int own_column() const { return kOverlaps ? p_.dim + d_ : d_; }

  __device__ __forceinline__ void load(int t, int place, Token& token) const {
    const int64_t row = sequence_.first + t;
    const float* bias = p_.bias + static_cast<int64_t>(place) * p_.width;
    token.own_weight = p_.gate.at(row, own_column()) + bias[own_column()];
    token.own = p_.kv.at(row, own_column());
    if (!kOverlaps) return;
    token.next_weight = p_.gate.at(row, d_) + bias[d_];
    token.next = p_.kv.at(row, d_);
  }

  // A sum over the block, the same in all its threads.
  __device__ __forceinline__ float sum_of_block(float x) {
    const int lane = d_ % 32, warps = static_cast<int>(blockDim.x) / 32;
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) x += __shfl_xor_sync(0xffffffff, x, offset);
    __syncthreads();
    if (lane == 0) shared_[d_ / 32] = x;
    __syncthreads();
    float sum = 0;
    for (int w = 0; w < warps; ++w) sum += shared_[w];
    return sum;
  }

  // Normalises what is summed, turns it by the angles of its last token and puts it into its page.
  __device__ __forceinline__ void store(int64_t token, int entry) {
    const bool is_there = d_ < p_.dim;
    float x = is_there ? own_.values / own_.factors : 0.0f;
    const float squares = sum_of_block(__fmul_rn(x, x));
    if (is_there) x = x * rsqrtf(squares / static_cast<float>(p_.dim) + p_.eps) * p_.norm[d_];
    const int turned = d_ - (p_.dim - 2 * p_.half);  // dim and so all pairs are of one warp
    const float other = __shfl_xor_sync(0xffffffff, x, 1);
    if (is_there && turned >= 0) {
      const float* angles = p_.angles.row(token);
      const float cosine = angles[turned / 2], sine = angles[p_.half + turned / 2];
      x = __fmaf_rn(x, cosine, __fmul_rn(turned % 2 == 0 ? -other : other, sine));
    }
    const bool infinite = __syncthreads_or(is_there && isinf(x) ? 1 : 0) != 0;
    if (!is_there) return;
    const int64_t block = p_.blocks[s_ * p_.max_blocks + p_.places.page(entry)];
    auto* to = reinterpret_cast<__half*>(p_.pages + block * p_.page_bytes) +
               p_.places.place(entry) * p_.dim;
    to[d_] = to_f16_saturating(infinite ? __int_as_float(0x7fc00000) : x);
  }

  const Params& p_;
  const RecurrentSequence sequence_;
  const int64_t s_;
  const int d_;
  float* shared_;
  Sums own_, next_;
};

template <bool kOverlaps>
__global__ void __launch_bounds__(kMostThreads) compress_kernel(const __grid_constant__ Params p) {
  __shared__ float shared[kMostThreads / 32];
  const int number = static_cast<int>(blockIdx.x);
  wait_for_previous_kernel();
  launch_dependents();
  int begun = 0;  // sequences whose blocks begin at or before this
  for (int from = 0; from < p.num_seqs; from += static_cast<int>(blockDim.x)) {
    const int s = from + static_cast<int>(threadIdx.x);
    begun += __syncthreads_count(s < p.num_seqs && p.first_block(s) <= number);
  }
  const int s = begun - 1;
  if (s < 0) return;
  const RecurrentSequence sequence = p.batch.sequence(s);
  if (sequence.tokens <= 0) return;
  const auto entry_at = [&](int position) {
    return static_cast<int>(p.by_ratio.divide(static_cast<uint32_t>(position)));
  };
  const int end = sequence.start + sequence.tokens;  // positions, as all below
  const int first = entry_at(sequence.start), last = entry_at(end - 1);
  const int of_state = kOverlaps ? 2 : 1;  // entries that may need what the state has
  const int place = number - p.first_block(s), entry = first + place;
  if (entry > last || (place > 0 && place < of_state)) return;

  Walk<kOverlaps> walk(p, sequence, s, shared);
  if (place > 0) {
    const int from = (kOverlaps ? entry - 1 : entry) * p.ratio;
    walk.take(from - sequence.start, min((entry + 1) * p.ratio, end) - sequence.start, entry);
    return;
  }
  walk.begin_with_state();
  const int to = min((first + of_state) * p.ratio, end);
  walk.take(0, to - sequence.start, first);
  if (to < end) {
    walk.clear();
    const int from = (kOverlaps ? last - 1 : last) * p.ratio;
    walk.take(from - sequence.start, sequence.tokens, last + 1);  // stores nothing
  }
  walk.leave_state();
}

class CudaCompressToCache final : public Prepared<CompressToCache> {
 public:
  CudaCompressToCache(const CompressToCache::Problem& problem,
                      const CompressToCache::Weights& weights, const OpOptions& options)
      : Prepared(problem), dependent_(options.device.sm >= 90) {
    const DeviceGuard guard(options.device.index);
    bias_ = to_device<float>(float_vector(weights.bias, problem.ratio * problem.width()));
    norm_ = to_device<float>(norm_weights(problem.norm, weights.norm, problem.dim));
  }

  size_t workspace_size(const CompressToCache::Args&) const override { return 0; }
  BatchInvariance batch_invariant() const override { return BatchInvariance::kFull; }
  int64_t weight_bytes() const override {
    return (problem().width() + problem().dim) * int64_t{sizeof(float)};
  }

  void run(const CompressToCache::Args& args, std::span<std::byte>,
           const Stream& stream) const override {
    const CompressToCache::Problem& p = problem();
    const Batch& batch = *args.batch;
    if (batch.num_tokens == 0 || batch.num_seqs == 0) return;
    MOE4_CHECK(args.angles.format == RowFormat::kF32);
    const CacheTable& table = batch.tables[args.cache.table];
    const Params params{.kv = AnyRows(args.kv),
                        .gate = AnyRows(args.gate),
                        .angles = RowsOf<float>(args.angles),
                        .batch = RecurrentBatch(batch, args.state),
                        .num_seqs = static_cast<int>(batch.num_seqs),
                        .blocks = table.blocks,
                        .max_blocks = table.max_blocks,
                        .pages = args.cache.data,
                        .page_bytes = args.cache.unit_bytes,
                        .bias = bias_.get(),
                        .norm = norm_.get(),
                        .eps = p.norm.eps,
                        .dim = static_cast<int>(p.dim),
                        .width = static_cast<int>(p.width()),
                        .ratio = static_cast<int>(p.ratio),
                        .half = static_cast<int>(p.rotary_dim / 2),
                        .by_ratio = Divisor(p.ratio),
                        .places = SharedKeyPlaces(p.ratio)};
    const int64_t blocks = batch.num_tokens / p.ratio + 2 * batch.num_seqs;
    launch(p.overlaps ? compress_kernel<true> : compress_kernel<false>,
           {.grid = dim3(static_cast<unsigned>(blocks)),
            .block = dim3(static_cast<unsigned>(round_up(p.dim, int64_t{32}))),
            .stream = static_cast<cudaStream_t>(stream.handle),
            .dependent = dependent_},
           params);
  }

 private:
  DeviceArray<float> bias_, norm_;
  bool dependent_;
};

}  // namespace

template <>
std::unique_ptr<Prepared<CompressToCache>> prepare_on_cuda<CompressToCache>(
    const CompressToCache::Problem& problem, const CompressToCache::Weights& weights,
    const OpOptions& options) {
  return std::make_unique<CudaCompressToCache>(problem, weights, options);
}

}  // namespace moe4
