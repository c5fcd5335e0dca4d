// LatentAttention on NVIDIA GPUs: what it takes.
#include "ops/cuda/implementation.h"
#include "ops/latent_attention/latent_attention.h"

namespace moe4 {
namespace {

Support accepts(const LatentAttention::Problem& problem) {
  const auto wrong = [](const char* what, int64_t value, const char* expected) {
    return Rejection{Rejection::Kind::kShape,
                     std::string(what) + " " + std::to_string(value) + " is not " + expected};
  };
  const auto is_16s = [](int64_t value) { return value > 0 && value % 16 == 0; };
  if (!is_16s(problem.latent_dim) || problem.latent_dim > 512) {
    return wrong("kv_lora_rank", problem.latent_dim, "a multiple of 16 up to 512");
  }
  if (!is_16s(problem.rope_dim) || problem.latent_dim + problem.rope_dim > 576) {
    return wrong("qk_rope_head_dim", problem.rope_dim,
                 "a multiple of 16 and up to 576 with kv_lora_rank");
  }
  if (problem.nope_dim % 2 != 0) return wrong("qk_nope_head_dim", problem.nope_dim, "even");
  if (problem.cache_dtype != DType::kF16) {
    return Rejection{Rejection::Kind::kPrecision,
                     "its caches are F16, not " + std::string(to_string(problem.cache_dtype))};
  }
  return std::nullopt;
}

}  // namespace

const Implementation<LatentAttention>& cuda_latent_attention() {
  static const CudaImplementation<LatentAttention> implementation(accepts);
  return implementation;
}

}  // namespace moe4
