// IndexToCache on NVIDIA GPUs: a warp a token.
#include "base/checked_math.h"
#include "device/cuda/launch.h"
#include "device/cuda/ptx/launch.cuh"
#include "ops/cuda/cache_values.cuh"
#include "ops/cuda/device_values.h"
#include "ops/cuda/implementation.h"
#include "ops/cuda/row_values.cuh"
#include "ops/index_to_cache/index_to_cache.h"

namespace moe4 {
namespace {

using namespace cuda;

constexpr int kWarps = 4;
constexpr int kElements = 4;  // a lane's, of a key of up to 128: lane + 32 i

template <typename T>
struct Params {
  RowsOf<T> k;
  int64_t num_tokens;
  int dim, half;
  bool rotates_pairs;
  float eps;
  const float *norm, *bias;
  RowsOf<float> angles;
  const int32_t* slots;
  std::byte* pages;
  int64_t page_bytes;
};

__device__ __forceinline__ float sum_of_warp(float x) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) x += __shfl_xor_sync(0xffffffff, x, offset);
  return x;
}

template <typename T>
__global__ void __launch_bounds__(32 * kWarps)
    index_to_cache_kernel(const __grid_constant__ Params<T> p) {
  __shared__ float keys[kWarps][32 * kElements];
  const int warp = static_cast<int>(threadIdx.x / 32), lane = static_cast<int>(threadIdx.x % 32);
  const int64_t token = int64_t{blockIdx.x} * kWarps + warp;
  wait_for_previous_kernel();
  launch_dependents();
  const int slot = token < p.num_tokens ? p.slots[token] : -1;
  if (slot < 0) return;

  const T* row = p.k.row(token);
  float x[kElements], sum = 0, squares = 0;
#pragma unroll
  for (int i = 0; i < kElements; ++i) {
    const int d = lane + 32 * i;
    x[i] = d < p.dim ? to_float(row[d]) : 0.0f;
    sum += x[i];
  }
  const float mean = sum_of_warp(sum) / static_cast<float>(p.dim);
#pragma unroll
  for (int i = 0; i < kElements; ++i) {
    if (lane + 32 * i >= p.dim) continue;
    x[i] -= mean;
    squares += x[i] * x[i];
  }
  const float factor = rsqrtf(sum_of_warp(squares) / static_cast<float>(p.dim) + p.eps);
  float* key = keys[warp];
#pragma unroll
  for (int i = 0; i < kElements; ++i) {
    const int d = lane + 32 * i;
    if (d >= p.dim) continue;
    x[i] = x[i] * factor * p.norm[d] + p.bias[d];
    key[d] = x[i];
  }
  __syncwarp();

  const float* angles = p.angles.row(token);
  bool infinite = false;
#pragma unroll
  for (int i = 0; i < kElements; ++i) {
    const int d = lane + 32 * i;
    if (d < 2 * p.half) {
      const bool is_first = p.rotates_pairs ? d % 2 == 0 : d < p.half;
      const int angle = p.rotates_pairs ? d / 2 : d % p.half;
      const int away = p.rotates_pairs ? 1 : p.half;
      const float other = key[is_first ? d + away : d - away];
      const float cosine = angles[angle], sine = angles[p.half + angle];
      x[i] = x[i] * cosine + (is_first ? -other : other) * sine;
    }
    infinite |= d < p.dim && isinf(x[i]);
  }
  infinite = __any_sync(0xffffffff, infinite);
  auto* to = reinterpret_cast<__half*>(p.pages + slot / kPageTokens * p.page_bytes) +
             slot % kPageTokens * p.dim;
  const float nan = __int_as_float(0x7fc00000);
#pragma unroll
  for (int i = 0; i < kElements; ++i) {
    const int d = lane + 32 * i;
    if (d < p.dim) to[d] = to_f16_saturating(infinite ? nan : x[i]);
  }
}

class CudaIndexToCache final : public Prepared<IndexToCache> {
 public:
  CudaIndexToCache(const IndexToCache::Problem& problem, const IndexToCache::Weights& weights,
                   const OpOptions& options)
      : Prepared(problem), dependent_(options.device.sm >= 90) {
    const DeviceGuard guard(options.device.index);
    norm_ = to_device<float>(float_vector(weights.norm, problem.dim));
    bias_ = to_device<float>(float_vector(weights.norm_bias, problem.dim));
  }

  size_t workspace_size(const IndexToCache::Args&) const override { return 0; }
  BatchInvariance batch_invariant() const override { return BatchInvariance::kFull; }
  int64_t weight_bytes() const override { return 2 * problem().dim * int64_t{sizeof(float)}; }

  void run(const IndexToCache::Args& args, std::span<std::byte>,
           const Stream& stream) const override {
    if (args.k.rows == 0) return;
    MOE4_CHECK(args.angles.format == RowFormat::kF32);
    with_element(args.k.format, [&](auto element) {
      using T = decltype(element);
      const Params<T> params{.k = RowsOf<T>(args.k),
                             .num_tokens = args.k.rows,
                             .dim = static_cast<int>(problem().dim),
                             .half = static_cast<int>(problem().rotary_dim / 2),
                             .rotates_pairs = problem().rotates_pairs,
                             .eps = problem().eps,
                             .norm = norm_.get(),
                             .bias = bias_.get(),
                             .angles = RowsOf<float>(args.angles),
                             .slots = args.slots,
                             .pages = args.cache.data,
                             .page_bytes = args.cache.unit_bytes};
      launch(index_to_cache_kernel<T>,
             {.grid = dim3(static_cast<unsigned>(ceil_div(args.k.rows, int64_t{kWarps}))),
              .block = dim3(32 * kWarps),
              .stream = static_cast<cudaStream_t>(stream.handle),
              .dependent = dependent_},
             params);
    });
  }

 private:
  DeviceArray<float> norm_, bias_;
  bool dependent_;
};

}  // namespace

template <>
std::unique_ptr<Prepared<IndexToCache>> prepare_on_cuda<IndexToCache>(
    const IndexToCache::Problem& problem, const IndexToCache::Weights& weights,
    const OpOptions& options) {
  return std::make_unique<CudaIndexToCache>(problem, weights, options);
}

}  // namespace moe4
