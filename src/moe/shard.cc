// Shards are pointer arithmetic on views.
#include "moe/shard.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"

namespace moe4 {
namespace {

void keep_rows(TensorView& view, IntermediateShard shard) {
  if (view.empty()) return;
  const int64_t stride = view.stride();
  view.data = static_cast<const std::byte*>(view.data) + shard.begin * stride * size_of(view.dtype);
  if (view.shape.size() >= 2) view.row_stride = stride;
  view.shape[0] = shard.end - shard.begin;
}

// `elements` of the intermediate size share one byte of the view.
void keep_columns(TensorView& view, IntermediateShard shard, int64_t elements) {
  view.row_stride = view.stride();
  view.data = static_cast<const std::byte*>(view.data) + shard.begin / elements;
  view.shape[1] = (shard.end - shard.begin) / elements;
}

void keep_output_rows(LinearWeights& linear, IntermediateShard shard) {
  linear.out_features = shard.end - shard.begin;
  keep_rows(linear.weight, shard);
  keep_rows(linear.scale, shard);
  keep_rows(linear.bias, shard);
}

}  // namespace

IntermediateShard intermediate_shard(int64_t intermediate_size, int tp_size, int tp_rank,
                                     int block) {
  if (tp_size < 1 || tp_rank < 0 || tp_rank >= tp_size) {
    throw Error(ErrorCode::kUsage,
                fmt::format("TP rank {} of {} makes no sense", tp_rank, tp_size));
  }
  const int64_t blocks = intermediate_size / block;
  if (intermediate_size % block != 0 || blocks < tp_size) {
    throw Error(ErrorCode::kUsage,
                fmt::format("an intermediate size of {} cannot be cut over {} TP ranks in whole "
                            "blocks of {}",
                            intermediate_size, tp_size, block));
  }
  const int64_t each = blocks / tp_size, larger = blocks % tp_size;
  const auto first_block = [&](int64_t rank) { return rank * each + std::min(rank, larger); };
  return {first_block(tp_rank) * block, first_block(tp_rank + 1) * block};
}

MoeLayerWeights shard_weights(const MoeLayerWeights& whole, int tp_size, int tp_rank) {
  if (!whole.scheme.is_fp4()) {
    throw Error(
        ErrorCode::kUnavailable,
        "TP shards are cut from NVFP4 and MXFP4 experts only, not " + to_string(whole.scheme));
  }
  const int block = fp4_block(whole.scheme.weight.format);
  const IntermediateShard shard =
      intermediate_shard(whole.problem.intermediate_size, tp_size, tp_rank, block);
  MoeLayerWeights part = whole;
  part.problem.intermediate_size = shard.end - shard.begin;
  for (ExpertWeights& expert : part.experts) {
    if (expert.gate) keep_output_rows(*expert.gate, shard);
    keep_output_rows(expert.up, shard);
    expert.down.in_features = shard.end - shard.begin;
    keep_columns(expert.down.weight, shard, 2);
    keep_columns(expert.down.scale, shard, block);
    if (tp_rank != 0) expert.down.bias = {};
  }
  return part;
}

}  // namespace moe4
