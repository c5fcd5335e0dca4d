// QkvToCache on NVIDIA GPUs: a warp a head, from the projections to queries and cache in one pass.
#include "device/cuda/launch.h"
#include "device/cuda/ptx/launch.cuh"
#include "ops/cuda/cache_values.cuh"
#include "ops/cuda/device_values.h"
#include "ops/cuda/implementation.h"
#include "ops/cuda/row_values.cuh"
#include "ops/qkv_to_cache/qkv_to_cache.h"

namespace moe4 {
namespace {

using namespace cuda;

constexpr int kWarps = 4;
constexpr int kThreads = 32 * kWarps;

// Heads of q, k or v, float32 or BF16, all of a row `head_stride` apart.
struct Heads {
  Heads() = default;
  Heads(const Rows& rows, int64_t stride)
      : data(rows.data),
        row_stride(rows.stride),
        head_stride(stride),
        is_bf16(rows.format == RowFormat::kBf16) {}

  // Elements d and d + 1, d even, of a head.
  __device__ float2 pair(int64_t row, int head, int d) const {
    const int64_t i = row * row_stride + head * head_stride + d;
    if (is_bf16) {
      return __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162*>(
          reinterpret_cast<const __nv_bfloat16*>(data) + i));
    }
    return *reinterpret_cast<const float2*>(reinterpret_cast<const float*>(data) + i);
  }

  const std::byte* data = nullptr;
  int64_t row_stride = 0, head_stride = 0;
  bool is_bf16 = false;
};

// What is done to the heads of one of q, k, v.
struct Part {
  Heads from;
  int num_heads;
  int width;            // of a head
  int heads_a_block;    // all of them where one norm is over all
  const float* weight;  // null: no norm
  float eps;
  bool is_value;
  bool norm_over_heads;
  bool rotates;
};

struct Params {
  Part parts[3];     // q, k, v
  int first_of[3];   // its first block of a token
  int half, turned;  // of the elements that turn, 2 half from the turned-th on
  bool rotates_pairs;
  // See QueryTemperature; a beta of 0: none.
  float beta;
  int span, offset;
  const int32_t* positions;
  RowsOf<float> angles, queries;
  const int32_t* slots;
  std::byte* pages;
  int64_t page_bytes;
  bool cache_is_fp8;
  float k_scale, v_scale;
};

// Elements that a lane has of a head: 2l and 2l + 1 of every 64.
template <int Pairs>
using Head = float2[Pairs];

__device__ __forceinline__ int element(int pair) {
  return 64 * pair + 2 * static_cast<int>(threadIdx.x % 32);
}

template <int Pairs>
__device__ __forceinline__ void load(const Part& part, int64_t token, int head, Head<Pairs>& x) {
#pragma unroll
  for (int i = 0; i < Pairs; ++i) {
    x[i] = element(i) < part.width ? part.from.pair(token, head, element(i)) : float2{};
  }
}

template <int Pairs>
__device__ __forceinline__ float sum_of_squares(const Head<Pairs>& x) {
  float sum = 0;
#pragma unroll
  for (int i = 0; i < Pairs; ++i) sum += x[i].x * x[i].x + x[i].y * x[i].y;
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) sum += __shfl_xor_sync(0xffffffff, sum, offset);
  return sum;
}

// By how much a lane's elements turn: {cos, sin} of the first and of the second of each pair.
template <int Pairs>
struct Turns {
  float2 first[Pairs], second[Pairs];

  __device__ void load(const Params& p, const float* angles) {
#pragma unroll
    for (int i = 0; i < Pairs; ++i) {
      const int d = element(i) - p.turned;
      if (d < 0 || d >= 2 * p.half) continue;
      const int a = p.rotates_pairs ? d / 2 : d < p.half ? d : d - p.half;
      const int b = p.rotates_pairs ? a : d + 1 < p.half ? d + 1 : d + 1 - p.half;
      first[i] = {angles[a], angles[p.half + a]};
      second[i] = {angles[b], angles[p.half + b]};
    }
  }

  // Elements i and i + half are different lanes': by way of `shared`, the warp's own.
  __device__ void turn_halves(const Params& p, float* shared, Head<Pairs>& x) const {
#pragma unroll
    for (int i = 0; i < Pairs; ++i) {
      const int d = element(i) - p.turned;
      if (d >= 0 && d < 2 * p.half) *reinterpret_cast<float2*>(shared + d) = x[i];
    }
    __syncwarp();
    const auto turned = [&](float own, int d, float2 turn) {
      return d < p.half ? own * turn.x - shared[d + p.half] * turn.y
                        : own * turn.x + shared[d - p.half] * turn.y;
    };
#pragma unroll
    for (int i = 0; i < Pairs; ++i) {
      const int d = element(i) - p.turned;
      if (d < 0 || d >= 2 * p.half) continue;
      x[i] = {turned(x[i].x, d, first[i]), turned(x[i].y, d + 1, second[i])};
    }
    __syncwarp();
  }

  __device__ void turn_pairs(const Params& p, Head<Pairs>& x) const {
#pragma unroll
    for (int i = 0; i < Pairs; ++i) {
      const int d = element(i) - p.turned;
      if (d < 0 || d >= 2 * p.half) continue;
      x[i] = {x[i].x * first[i].x - x[i].y * first[i].y, x[i].y * first[i].x + x[i].x * first[i].y};
    }
  }
};

// Keys of all heads, then values. An infinite element makes all NaN.
template <int Pairs>
__device__ __forceinline__ void store_in_cache(const Params& p, const Part& part, int slot,
                                               int head, const Head<Pairs>& x) {
  bool infinite = false;
#pragma unroll
  for (int i = 0; i < Pairs; ++i) infinite |= isinf(x[i].x) || isinf(x[i].y);
  infinite = __any_sync(0xffffffff, infinite);
  const int64_t before = part.is_value ? p.parts[1].num_heads * p.parts[1].width : 0;
  const int64_t first = (before + static_cast<int64_t>(head) * part.width) * kPageTokens +
                        slot % kPageTokens * part.width;
  std::byte* page = p.pages + slot / kPageTokens * p.page_bytes;
  const float nan = __int_as_float(0x7fc00000);
  const float scale = part.is_value ? p.v_scale : p.k_scale;
#pragma unroll
  for (int i = 0; i < Pairs; ++i) {
    if (element(i) >= part.width) continue;
    const float2 y = infinite ? float2{nan, nan} : x[i];
    const int64_t at = first + element(i);
    if (p.cache_is_fp8) {
      *reinterpret_cast<__nv_fp8x2_storage_t*>(page + at) =
          to_fp8_saturating({y.x / scale, y.y / scale});
    } else {
      *reinterpret_cast<__half2*>(page + 2 * at) = to_f16_saturating(y);
    }
  }
}

// A block has some heads of q, of k or of v of one token.
template <int Pairs>
__global__ void __launch_bounds__(kThreads) qkv_to_cache_kernel(const __grid_constant__ Params p) {
  __shared__ alignas(16) float turning[kWarps][64 * Pairs];
  __shared__ float sums[kWarps];
  wait_for_previous_kernel();
  launch_dependents();
  const int64_t token = blockIdx.x;
  const int block = static_cast<int>(blockIdx.y), warp = static_cast<int>(threadIdx.x / 32);
  const int which = block < p.first_of[1] ? 0 : block < p.first_of[2] ? 1 : 2;
  const Part& part = p.parts[which];
  const int slot = which > 0 ? p.slots[token] : 0;
  const int first = (block - p.first_of[which]) * part.heads_a_block;
  const int last = min(first + part.heads_a_block, part.num_heads);

  float squares = 0;  // of all heads
  if (part.norm_over_heads) {
    for (int head = first + warp; head < last; head += kWarps) {
      Head<Pairs> x;
      load(part, token, head, x);
      squares += sum_of_squares<Pairs>(x);
    }
    sums[warp] = squares;
    __syncthreads();
    squares = 0;
    for (int w = 0; w < kWarps; ++w) squares += sums[w];
  }
  // Of queries alone.
  float temperature = 1.0f;
  if (which == 0 && p.beta != 0.0f) {
    const int steps = (p.positions[token] + p.offset) / p.span;
    temperature = fmaf(p.beta, log1pf(static_cast<float>(steps)), 1.0f);
  }
  for (int head = first + warp; head < last; head += kWarps) {
    // All that is read, at once.
    Head<Pairs> x, weight;
    Turns<Pairs> turns;
    load(part, token, head, x);
    if (part.weight != nullptr) {
      const float* from = part.weight + (part.norm_over_heads ? head * part.width : 0);
#pragma unroll
      for (int i = 0; i < Pairs; ++i) {
        if (element(i) >= part.width) continue;
        weight[i] = *reinterpret_cast<const float2*>(from + element(i));
      }
    }
    if (part.rotates) turns.load(p, p.angles.row(token));

    if (part.weight != nullptr) {
      const int width = part.norm_over_heads ? part.num_heads * part.width : part.width;
      const float sum = part.norm_over_heads ? squares : sum_of_squares<Pairs>(x);
      const float factor = rsqrtf(sum / static_cast<float>(width) + part.eps);
#pragma unroll
      for (int i = 0; i < Pairs; ++i) {
        if (element(i) >= part.width) continue;
        x[i] = {x[i].x * factor * weight[i].x, x[i].y * factor * weight[i].y};
      }
    }
    if (part.rotates) {
      if (p.rotates_pairs) {
        turns.turn_pairs(p, x);
      } else {
        turns.turn_halves(p, turning[warp], x);
      }
    }
    if (which > 0) {
      if (slot >= 0) store_in_cache<Pairs>(p, part, slot, head, x);
      continue;
    }
#pragma unroll
    for (int i = 0; i < Pairs; ++i) {
      if (element(i) >= part.width) continue;
      *reinterpret_cast<float2*>(p.queries.row(token) + head * part.width + element(i)) = {
          x[i].x * temperature, x[i].y * temperature};
    }
  }
}

class CudaQkvToCache final : public Prepared<QkvToCache> {
 public:
  CudaQkvToCache(const QkvToCache::Problem& problem, const QkvToCache::Weights& weights,
                 const OpOptions& options)
      : Prepared(problem), dependent_(options.device.sm >= 90) {
    const DeviceGuard guard(options.device.index);
    if (problem.value_norm) {
      v_norm_ = to_device<float>(norm_weights(*problem.value_norm, {}, problem.value_dim()));
    }
    if (!problem.norm) return;
    NormSpec of_queries = *problem.norm;
    if (problem.plain_queries) of_queries.has_weight = false;
    q_norm_ = to_device<float>(norm_weights(of_queries, weights.q_norm, problem.q_norm_width()));
    k_norm_ = to_device<float>(norm_weights(*problem.norm, weights.k_norm, problem.k_norm_width()));
  }

  size_t workspace_size(const QkvToCache::Args&) const override { return 0; }
  BatchInvariance batch_invariant() const override { return BatchInvariance::kFull; }
  int64_t weight_bytes() const override {
    const QkvToCache::Problem& p = problem();
    return p.norm ? (p.q_norm_width() + p.k_norm_width()) * int64_t{sizeof(float)} : 0;
  }

  void run(const QkvToCache::Args& args, std::span<std::byte>,
           const Stream& stream) const override {
    if (args.queries.rows == 0) return;
    const QkvToCache::Problem& p = problem();
    MOE4_CHECK(args.queries.format == RowFormat::kF32 && args.angles.format == RowFormat::kF32);
    const int64_t dim = p.head_dim, value_dim = p.value_dim();
    Params params{};
    params.parts[0] = part(Heads(args.q, dim * (p.output_gate ? 2 : 1)), p.num_heads, dim,
                           q_norm_.get(), p.norm, p.norm_over_heads, /*is_value=*/false);
    params.parts[1] = part(Heads(args.k, dim), p.num_kv_heads, dim, k_norm_.get(), p.norm,
                           p.norm_over_heads, /*is_value=*/false);
    params.parts[2] =
        part(Heads(p.keys_are_values ? args.k : args.v, value_dim),
             p.keys_alone ? 0 : p.num_kv_heads, value_dim, v_norm_.get(), p.value_norm,
             /*over_heads=*/false, /*is_value=*/true);
    int blocks = 0;
    for (int i = 0; i < 3; ++i) {
      params.first_of[i] = blocks;
      const Part& one = params.parts[i];
      blocks += static_cast<int>(ceil_div(one.num_heads, one.heads_a_block));
    }
    params.half = static_cast<int>(p.rotary_dim / 2);
    params.turned = static_cast<int>(p.rotates_end ? dim - p.rotary_dim : 0);
    params.rotates_pairs = p.rotates_pairs;
    params.beta = static_cast<float>(p.temperature.beta);
    params.span = static_cast<int>(p.temperature.span);
    params.offset = static_cast<int>(p.temperature.offset);
    params.positions = args.positions;
    params.angles = RowsOf<float>(args.angles);
    params.queries = RowsOf<float>(args.queries);
    params.slots = args.slots;
    params.pages = args.cache.data;
    params.page_bytes = args.cache.unit_bytes;
    params.cache_is_fp8 = p.cache_dtype == DType::kF8E4M3;
    params.k_scale = p.k_scale;
    params.v_scale = p.v_scale;
    const auto kernel = dim <= 128   ? qkv_to_cache_kernel<2>
                        : dim <= 256 ? qkv_to_cache_kernel<4>
                                     : qkv_to_cache_kernel<8>;  // up to 512
    launch(kernel,
           {.grid = dim3(static_cast<unsigned>(args.queries.rows), static_cast<unsigned>(blocks)),
            .block = dim3(kThreads),
            .stream = static_cast<cudaStream_t>(stream.handle),
            .dependent = dependent_},
           params);
  }

 private:
  Part part(const Heads& from, int64_t heads, int64_t width, const float* weight,
            const std::optional<NormSpec>& norm, bool over_heads, bool is_value) const {
    const bool together = norm.has_value() && over_heads;
    return {.from = from,
            .num_heads = static_cast<int>(heads),
            .width = static_cast<int>(width),
            .heads_a_block = together ? static_cast<int>(heads) : kWarps,
            .weight = weight,
            .eps = norm ? norm->eps : 0.0f,
            .is_value = is_value,
            .norm_over_heads = together,
            .rotates = !is_value && problem().rotary_dim > 0};
  }

  DeviceArray<float> q_norm_, k_norm_, v_norm_;
  bool dependent_;
};

}  // namespace

template <>
std::unique_ptr<Prepared<QkvToCache>> prepare_on_cuda<QkvToCache>(
    const QkvToCache::Problem& problem, const QkvToCache::Weights& weights,
    const OpOptions& options) {
  return std::make_unique<CudaQkvToCache>(problem, weights, options);
}

}  // namespace moe4
