// CompressToCache on NVIDIA GPUs: what it takes.
#include "ops/compress_to_cache/compress_to_cache.h"
#include "ops/cuda/implementation.h"

namespace moe4 {
namespace {

Support accepts(const CompressToCache::Problem& problem) {
  // A thread an element, and 32-bit numbers of tokens.
  if (problem.dim <= 0 || problem.dim % 16 != 0 || problem.dim > 512) {
    return Rejection{Rejection::Kind::kShape, "the width of shared keys, " +
                                                  std::to_string(problem.dim) +
                                                  ", is not a multiple of 16 up to 512"};
  }
  if (problem.ratio > 1 << 20) {
    return Rejection{Rejection::Kind::kShape,
                     "compress_ratios " + std::to_string(problem.ratio) + " is not 2^20 at most"};
  }
  if (problem.cache_dtype != DType::kF16) {
    return Rejection{Rejection::Kind::kPrecision,
                     "its caches are F16, not " + std::string(to_string(problem.cache_dtype))};
  }
  return std::nullopt;
}

}  // namespace

const Implementation<CompressToCache>& cuda_compress_to_cache() {
  static const CudaImplementation<CompressToCache> implementation(accepts);
  return implementation;
}

}  // namespace moe4
