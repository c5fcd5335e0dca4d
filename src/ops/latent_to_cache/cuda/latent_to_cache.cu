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
constexpr int kPairs = 3;  // a thread's, of a row of up to 576 in the cache

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

// The factor of the norm of the first `width` elements of a row, for all threads.
__device__ float norm_factor(const Rows& rows, int64_t row, int width, float eps) {
  __shared__ float sums[kWarps];
  float squares = 0;
  for (int d = 2 * static_cast<int>(threadIdx.x); d < width; d += 2 * kThreads) {
    const float2 x = pair(rows, row, d);
    squares += x.x * x.x + x.y * x.y;
  }
  for (int offset = 16; offset > 0; offset /= 2) {
    squares += __shfl_xor_sync(0xffffffff, squares, offset);
  }
  if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = squares;
  __syncthreads();
  float all = 0;
  for (int w = 0; w < kWarps; ++w) all += sums[w];
  return rsqrtf(all / static_cast<float>(width) + eps);
}

__global__ void __launch_bounds__(kThreads)
    latent_to_cache_kernel(const __grid_constant__ Params p) {
  wait_for_previous_kernel();
  launch_dependents();
  const int64_t token = blockIdx.x;
  if (blockIdx.y == 1) {
    const int width = static_cast<int>(p.q.width);
    const float factor = norm_factor(p.q, token, width, p.eps);
    for (int d = 2 * static_cast<int>(threadIdx.x); d < width; d += 2 * kThreads) {
      const float2 x = pair(p.q, token, d);
      set_pair(p.q, token, d, {x.x * factor * p.q_norm[d], x.y * factor * p.q_norm[d + 1]});
    }
    return;
  }
  const int slot = p.slots[token];
  if (slot < 0) return;
  const float factor = norm_factor(p.kv, token, p.latent_dim, p.eps);
  const int width = p.latent_dim + 2 * p.half;
  float2 x[kPairs];
  bool infinite = false;
#pragma unroll
  for (int i = 0; i < kPairs; ++i) {
    const int d = 2 * (static_cast<int>(threadIdx.x) + i * kThreads);
    if (d >= width) continue;
    x[i] = pair(p.kv, token, d);
    if (d < p.latent_dim) {
      x[i] = {x[i].x * factor * p.kv_norm[d], x[i].y * factor * p.kv_norm[d + 1]};
    } else {
      const float* angles = p.angles.row(token) + (d - p.latent_dim) / 2;
      const float cosine = angles[0], sine = angles[p.half];
      x[i] = {x[i].x * cosine - x[i].y * sine, x[i].y * cosine + x[i].x * sine};
    }
    infinite |= isinf(x[i].x) || isinf(x[i].y);
  }
  infinite = __syncthreads_or(infinite);
  auto* to = reinterpret_cast<__half*>(p.pages + slot / kPageTokens * p.page_bytes) +
             slot % kPageTokens * width;
  const float nan = __int_as_float(0x7fc00000);
#pragma unroll
  for (int i = 0; i < kPairs; ++i) {
    const int d = 2 * (static_cast<int>(threadIdx.x) + i * kThreads);
    if (d >= width) continue;
    *reinterpret_cast<__half2*>(to + d) = to_f16_saturating(infinite ? float2{nan, nan} : x[i]);
  }
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
