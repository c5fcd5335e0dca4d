// PagedAttention on NVIDIA GPUs: what it takes.
#include "ops/attention/paged_attention.h"
#include "ops/cuda/implementation.h"

namespace moe4 {
namespace {

Support require_width(const char* what, int64_t value, int64_t most) {
  if (value > 0 && value % 16 == 0 && value <= most) return std::nullopt;
  return Rejection{Rejection::Kind::kShape, std::string(what) + " " + std::to_string(value) +
                                                " is not a multiple of 16 up to " +
                                                std::to_string(most)};
}

Support accepts(const PagedAttention::Problem& problem) {
  const bool latent = problem.latent_dim > 0;
  if (Support no = require_width("head_dim", problem.head_dim, latent ? 576 : 512)) return no;
  const char* value = latent ? "latent_dim" : "value_width";
  if (Support no = require_width(value, problem.value_dim(), 512)) return no;
  if (problem.cache_dtype != DType::kF16 && problem.cache_dtype != DType::kF8E4M3) {
    return Rejection{Rejection::Kind::kPrecision, "its caches are F16 or F8_E4M3, not " +
                                                      std::string(to_string(problem.cache_dtype))};
  }
  if (problem.chooses_blocks()) {
    if (latent) return Rejection{Rejection::Kind::kShape, "chosen blocks are not of latents"};
    return require_width("head_dim", problem.head_dim, 256);
  }
  if (problem.num_chosen > 0 && (!latent || problem.cache_dtype != DType::kF16)) {
    return Rejection{Rejection::Kind::kShape, "chosen keys are those of F16 latents alone"};
  }
  return std::nullopt;
}

}  // namespace

const Implementation<PagedAttention>& cuda_paged_attention() {
  static const CudaImplementation<PagedAttention> implementation(accepts);
  return implementation;
}

}  // namespace moe4
