// CompressedAttention on NVIDIA GPUs: what it takes.
#include "ops/compressed_attention/compressed_attention.h"
#include "ops/cuda/implementation.h"

namespace moe4 {
namespace {

Support accepts(const CompressedAttention::Problem& problem) {
  const auto wrong = [](const char* what, int64_t value, const char* expected) {
    return Rejection{Rejection::Kind::kShape,
                     std::string(what) + " " + std::to_string(value) + " is not " + expected};
  };
  if (problem.head_dim <= 0 || problem.head_dim % 16 != 0 || problem.head_dim > 512) {
    return wrong("head_dim", problem.head_dim, "a multiple of 16 up to 512");
  }
  if (problem.num_heads > 4096)
    return wrong("num_attention_heads", problem.num_heads, "4096 at most");
  if (problem.window > 1 << 30) return wrong("sliding_window", problem.window, "2^30 at most");
  if (problem.ratio > 1 << 20) return wrong("compress_ratios", problem.ratio, "2^20 at most");
  if (problem.cache_dtype != DType::kF16) {
    return Rejection{Rejection::Kind::kPrecision,
                     "its caches are F16, not " + std::string(to_string(problem.cache_dtype))};
  }
  return std::nullopt;
}

}  // namespace

const Implementation<CompressedAttention>& cuda_compressed_attention() {
  static const CudaImplementation<CompressedAttention> implementation(accepts);
  return implementation;
}

}  // namespace moe4
