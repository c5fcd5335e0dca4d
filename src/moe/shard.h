// Tensor parallelism: the part of a layer's intermediate size that one rank holds.
#pragma once

#include <cstdint>

#include "moe/weights.h"

namespace moe4 {

/// Elements [begin, end) of the intermediate size.
struct IntermediateShard {
  int64_t begin = 0;
  int64_t end = 0;
};

/// Whole blocks of a scale (16, MXFP4 32), so that codes and scales are cut at the same place;
/// where the blocks do not divide evenly the first ranks hold one more: 704 over 8 ranks is four
/// times 96, then four times
/// 80. Throws Error(kUsage) for a rank that makes no sense or would hold nothing.
IntermediateShard intermediate_shard(int64_t intermediate_size, int tp_size, int tp_rank,
                                     int block = 16);

/// That rank's share of an NVFP4 or MXFP4 layer as views, nothing is copied: rows of gate and up,
/// columns of down. The outputs of all ranks add up to the whole layer's; down's bias stays with
/// rank 0.
MoeLayerWeights shard_weights(const MoeLayerWeights& whole, int tp_size, int tp_rank);

}  // namespace moe4
