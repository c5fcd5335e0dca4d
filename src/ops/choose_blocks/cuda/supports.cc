// ChooseBlocks on NVIDIA GPUs: what it takes.
#include "ops/choose_blocks/choose_blocks.h"
#include "ops/cuda/implementation.h"

namespace moe4 {
namespace {

Support accepts(const ChooseBlocks::Problem& problem) {
  const auto wrong = [](const char* what, int64_t value, const char* expected) {
    return Rejection{Rejection::Kind::kShape,
                     std::string(what) + " " + std::to_string(value) + " is not " + expected};
  };
  if (problem.num_heads <= 0 || problem.num_heads > 64) {
    return wrong("index_n_heads", problem.num_heads, "from 1 to 64");
  }
  if (problem.dim <= 0 || problem.dim % 16 != 0 || problem.dim > 128) {
    return wrong("index_head_dim", problem.dim, "a multiple of 16 up to 128");
  }
  if (problem.block_size > 1 << 24) {
    return wrong("index_block_size", problem.block_size, "2^24 at most");
  }
  if (problem.most > 1 << 24) return wrong("index_topk_blocks", problem.most, "2^24 at most");
  if (problem.cache_dtype != DType::kF16) {
    return Rejection{Rejection::Kind::kPrecision,
                     "its caches are F16, not " + std::string(to_string(problem.cache_dtype))};
  }
  return std::nullopt;
}

}  // namespace

const Implementation<ChooseBlocks>& cuda_choose_blocks() {
  static const CudaImplementation<ChooseBlocks> implementation(accepts);
  return implementation;
}

}  // namespace moe4
