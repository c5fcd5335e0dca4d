// LatentToCache on NVIDIA GPUs: what it takes.
#include "ops/cuda/implementation.h"
#include "ops/latent_to_cache/latent_to_cache.h"

namespace moe4 {
namespace {

Rejection wrong_shape(const std::string& what) { return {Rejection::Kind::kShape, what}; }

Support accepts(const LatentToCache::Problem& problem) {
  const int64_t width = problem.latent_dim + problem.rope_dim;
  if (width % 16 != 0 || width > 576) {
    return wrong_shape("kv_lora_rank and qk_rope_head_dim make " + std::to_string(width) +
                       ", not a multiple of 16 up to 576");
  }
  if (problem.latent_dim % 2 != 0 || problem.q_latent_dim % 2 != 0) {
    return wrong_shape("an odd kv_lora_rank or q_lora_rank");
  }
  if (problem.cache_dtype != DType::kF16) {
    return Rejection{Rejection::Kind::kPrecision,
                     "its caches are F16, not " + std::string(to_string(problem.cache_dtype))};
  }
  return std::nullopt;
}

}  // namespace

const Implementation<LatentToCache>& cuda_latent_to_cache() {
  static const CudaImplementation<LatentToCache> implementation(accepts);
  return implementation;
}

}  // namespace moe4
