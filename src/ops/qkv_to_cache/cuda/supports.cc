// QkvToCache on NVIDIA GPUs: what it takes.
#include "ops/cuda/implementation.h"
#include "ops/qkv_to_cache/qkv_to_cache.h"

namespace moe4 {
namespace {

constexpr int64_t kMaxHeadDim = 512;

Support accepts(const QkvToCache::Problem& problem) {
  if (problem.head_dim <= 0 || problem.head_dim % 16 != 0 || problem.head_dim > kMaxHeadDim) {
    return Rejection{Rejection::Kind::kShape, "head_dim " + std::to_string(problem.head_dim) +
                                                  " is not a multiple of 16 up to 512"};
  }
  if (problem.value_dim() % 16 != 0) {
    return Rejection{Rejection::Kind::kShape, "value_width " + std::to_string(problem.value_dim()) +
                                                  " is not a multiple of 16"};
  }
  if (problem.cache_dtype != DType::kF16 && problem.cache_dtype != DType::kF8E4M3) {
    return Rejection{Rejection::Kind::kPrecision, "its caches are F16 or F8_E4M3, not " +
                                                      std::string(to_string(problem.cache_dtype))};
  }
  return std::nullopt;
}

}  // namespace

const Implementation<QkvToCache>& cuda_qkv_to_cache() {
  static const CudaImplementation<QkvToCache> implementation(accepts);
  return implementation;
}

}  // namespace moe4
