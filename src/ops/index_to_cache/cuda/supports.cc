// IndexToCache on NVIDIA GPUs: what it takes.
#include "ops/cuda/implementation.h"
#include "ops/index_to_cache/index_to_cache.h"

namespace moe4 {
namespace {

Support accepts(const IndexToCache::Problem& problem) {
  if (problem.dim <= 0 || problem.dim % 16 != 0 || problem.dim > 128) {
    return Rejection{Rejection::Kind::kShape, "index_head_dim " + std::to_string(problem.dim) +
                                                  " is not a multiple of 16 up to 128"};
  }
  if (problem.cache_dtype != DType::kF16) {
    return Rejection{Rejection::Kind::kPrecision,
                     "its caches are F16, not " + std::string(to_string(problem.cache_dtype))};
  }
  return std::nullopt;
}

}  // namespace

const Implementation<IndexToCache>& cuda_index_to_cache() {
  static const CudaImplementation<IndexToCache> implementation(accepts);
  return implementation;
}

}  // namespace moe4
