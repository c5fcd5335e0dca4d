// LatentToCache on NVIDIA GPUs: a block a token for its key-value latent, another for its query's.
#include "device/cuda/launch.h"
#include "device/cuda/ptx/launch.cuh"
#include "ops/cuda/cache_values.cuh"
#include "ops/cuda/device_values.h"
#include "ops/cuda/implementation.h"
#include "ops/cuda/row_values.cuh"
#include "ops/latent_to_cache/latent_to_cache.h"

namespace moe4 {
namespace {

using namespace cuda;

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / 32;
// A thread's pairs that stay in registers: of a row of up to 576 in the cache, and of a query's
// latent of up to 1536 (DeepSeek-V3), what is longer is read twice.
constexpr int kPairs = 3, kQueryPairs = 6;

struct Params {
  Rows q, kv;
  const float *q_norm, *kv_norm;
  float eps;
  int latent_dim, half;
  RowsOf<float> angles;
  const int32_t* slots;
  std::byte* pages;
  int64_t page_bytes;
};

// Elements d and d + 1, d even.
__device__ __forceinline__ float2 pair(const Rows& rows, int64_t row, int d) {
  const int64_t i = row * rows.stride + d;
  if (rows.format == RowFormat::kBf16) {
    return __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162*>(
        reinterpret_cast<const __nv_bfloat16*>(rows.data) + i));
  }
  return *reinterpret_cast<const float2*>(reinterpret_cast<const float*>(rows.data) + i);
}
__device__ __forceinline__ void set_pair(const Rows& rows, int64_t row, int d, float2 x) {
  const int64_t i = row * rows.stride + d;
  if (rows.format == RowFormat::kBf16) {
    *reinterpret_cast<__nv_bfloat162*>(reinterpret_cast<__nv_bfloat16*>(rows.data) + i) =
        __floats2bfloat162_rn(x.x, x.y);
  } else {
    *reinterpret_cast<float2*>(reinterpret_cast<float*>(rows.data) + i) = x;
  }
}

__device__ __forceinline__ int pair_of_thread(int i) {
  return 2 * (static_cast<int>(threadIdx.x) + i * kThreads);
}

// The factor of the norm of `width` elements whose squares the threads have summed, for all.
__device__ float norm_factor(float squares, int width, float eps) {
  __shared__ float sums[kWarps];
  for (int offset = 16; offset > 0; offset /= 2) {
    squares += __shfl_xor_sync(0xffffffff, squares, offset);
  }
  if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = squares;
  __syncthreads();
  float all = 0;
  for (int w = 0; w < kWarps; ++w) all += sums[w];
  return rsqrtf(all / static_cast<float>(width) + eps);
}

// The weights of a norm that are a thread's; loads that wait for nothing.
template <int Pairs>
__device__ __forceinline__ void load_weights(const float* norm, int width,
                                             float2 (&weights)[Pairs]) {
#pragma unroll
  for (int i = 0; i < Pairs; ++i) {
    const int d = pair_of_thread(i);
    weights[i] = d < width ? *reinterpret_cast<const float2*>(norm + d) : float2{};
  }
}

__device__ void norm_query(const Params& p, int64_t token) {
  const int width = static_cast<int>(p.q.width);
  float2 weights[kQueryPairs], x[kQueryPairs];
  load_weights(p.q_norm, width, weights);
  wait_for_previous_kernel();
  launch_dependents();
  float squares = 0;
#pragma unroll
  for (int i = 0; i < kQueryPairs; ++i) {
    const int d = pair_of_thread(i);
    x[i] = d < width ? pair(p.q, token, d) : float2{};
  }
#pragma unroll
  for (int i = 0; i < kQueryPairs; ++i) squares += x[i].x * x[i].x + x[i].y * x[i].y;
  for (int d = pair_of_thread(kQueryPairs); d < width; d += 2 * kThreads) {
    const float2 more = pair(p.q, token, d);
    squares += more.x * more.x + more.y * more.y;
  }
  const float factor = norm_factor(squares, width, p.eps);
#pragma unroll
  for (int i = 0; i < kQueryPairs; ++i) {
    const int d = pair_of_thread(i);
    if (d >= width) return;
    set_pair(p.q, token, d, {x[i].x * factor * weights[i].x, x[i].y * factor * weights[i].y});
  }
  for (int d = pair_of_thread(kQueryPairs); d < width; d += 2 * kThreads) {
    const float2 more = pair(p.q, token, d);
    set_pair(p.q, token, d, {more.x * factor * p.q_norm[d], more.y * factor * p.q_norm[d + 1]});
  }
}

__device__ void norm_turn_and_store_latent(const Params& p, int64_t token) {
  const int width = p.latent_dim + 2 * p.half;
  float2 weights[kPairs], x[kPairs], turns[kPairs];
  load_weights(p.kv_norm, p.latent_dim, weights);
  // The batch is older than the step's first kernel.
  const int slot = p.slots[token];
  wait_for_previous_kernel();
  launch_dependents();
  if (slot < 0) return;
#pragma unroll
  for (int i = 0; i < kPairs; ++i) {
    const int d = pair_of_thread(i);
    x[i] = d < width ? pair(p.kv, token, d) : float2{};
    const bool turned = d >= p.latent_dim && d < width;
    const float* angles = p.angles.row(token) + (turned ? (d - p.latent_dim) / 2 : 0);
    turns[i] = turned ? float2{angles[0], angles[p.half]} : float2{};
  }
  float squares = 0;
#pragma unroll
  for (int i = 0; i < kPairs; ++i) {
    if (pair_of_thread(i) < p.latent_dim) squares += x[i].x * x[i].x + x[i].y * x[i].y;
  }
  const float factor = norm_factor(squares, p.latent_dim, p.eps);
  bool infinite = false;
#pragma unroll
  for (int i = 0; i < kPairs; ++i) {
    const float cosine = turns[i].x, sine = turns[i].y;
    x[i] = pair_of_thread(i) < p.latent_dim
               ? float2{x[i].x * factor * weights[i].x, x[i].y * factor * weights[i].y}
               : float2{x[i].x * cosine - x[i].y * sine, x[i].y * cosine + x[i].x * sine};
    infinite |= isinf(x[i].x) || isinf(x[i].y);
  }
  infinite = __syncthreads_or(infinite);
  auto* to = reinterpret_cast<__half*>(p.pages + slot / kPageTokens * p.page_bytes) +
             slot % kPageTokens * width;
  const float nan = __int_as_float(0x7fc00000);
#pragma unroll
  for (int i = 0; i < kPairs; ++i) {
    const int d = pair_of_thread(i);
    if (d >= width) continue;
    *reinterpret_cast<__half2*>(to + d) = to_f16_saturating(infinite ? float2{nan, nan} : x[i]);
  }
}

__global__ void __launch_bounds__(kThreads)
    latent_to_cache_kernel(const __grid_constant__ Params p) {
  const int64_t token = blockIdx.x;
  if (blockIdx.y == 1) return norm_query(p, token);
  norm_turn_and_store_latent(p, token);
}

class CudaLatentToCache final : public Prepared<LatentToCache> {
 public:
  CudaLatentToCache(const LatentToCache::Problem& problem, const LatentToCache::Weights& weights,
                    const OpOptions& options)
      : Prepared(problem), dependent_(options.device.sm >= 90) {
    const DeviceGuard guard(options.device.index);
    kv_norm_ = to_device<float>(norm_weights(problem.norm, weights.kv_norm, problem.latent_dim));
    if (problem.q_latent_dim == 0) return;
    q_norm_ = to_device<float>(norm_weights(problem.norm, weights.q_norm, problem.q_latent_dim));
  }

  size_t workspace_size(const LatentToCache::Args&) const override { return 0; }
  BatchInvariance batch_invariant() const override { return BatchInvariance::kFull; }
  int64_t weight_bytes() const override {
    return (problem().q_latent_dim + problem().latent_dim) * int64_t{sizeof(float)};
  }

  void run(const LatentToCache::Args& args, std::span<std::byte>,
           const Stream& stream) const override {
    if (args.kv.rows == 0) return;
    MOE4_CHECK(args.angles.format == RowFormat::kF32);
    const Params params{.q = args.q_latent,
                        .kv = args.kv,
                        .q_norm = q_norm_.get(),
                        .kv_norm = kv_norm_.get(),
                        .eps = problem().norm.eps,
                        .latent_dim = static_cast<int>(problem().latent_dim),
                        .half = static_cast<int>(problem().rope_dim / 2),
                        .angles = RowsOf<float>(args.angles),
                        .slots = args.slots,
                        .pages = args.cache.data,
                        .page_bytes = args.cache.unit_bytes};
    launch(latent_to_cache_kernel,
           {.grid = dim3(static_cast<unsigned>(args.kv.rows), problem().q_latent_dim > 0 ? 2u : 1u),
            .block = dim3(kThreads),
            .stream = static_cast<cudaStream_t>(stream.handle),
            .dependent = dependent_},
           params);
  }

 private:
  DeviceArray<float> q_norm_, kv_norm_;
  bool dependent_;
};

}  // namespace

template <>
std::unique_ptr<Prepared<LatentToCache>> prepare_on_cuda<LatentToCache>(
    const LatentToCache::Problem& problem, const LatentToCache::Weights& weights,
    const OpOptions& options) {
  return std::make_unique<CudaLatentToCache>(problem, weights, options);
}

}  // namespace moe4
