// ChooseKeys on NVIDIA GPUs: what it takes.
#include "ops/choose_keys/choose_keys.h"
#include "ops/cuda/implementation.h"

namespace moe4 {
namespace {

Support accepts(const ChooseKeys::Problem& problem) {
  const auto wrong = [](const char* what, int64_t value, const char* expected) {
    return Rejection{Rejection::Kind::kShape,
                     std::string(what) + " " + std::to_string(value) + " is not " + expected};
  };
  if (problem.ratio > 1 << 20) return wrong("compress_ratios", problem.ratio, "2^20 at most");
  if (problem.num_heads > 128) return wrong("index_n_heads", problem.num_heads, "128 at most");
  if (problem.dim <= 0 || problem.dim % 16 != 0 || problem.dim > 128) {
    return wrong("index_head_dim", problem.dim, "a multiple of 16 up to 128");
  }
  if (problem.rotary_dim % 16 != 0) {
    return wrong("qk_rope_head_dim", problem.rotary_dim, "a multiple of 16");
  }
  if (problem.cache_dtype != DType::kF16) {
    return Rejection{Rejection::Kind::kPrecision,
                     "its caches are F16, not " + std::string(to_string(problem.cache_dtype))};
  }
  return std::nullopt;
}

}  // namespace

const Implementation<ChooseKeys>& cuda_choose_keys() {
  static const CudaImplementation<ChooseKeys> implementation(accepts);
  return implementation;
}

}  // namespace moe4
