// Weights that an engine holds in device memory, brought to the host where the CPU must see them.
#pragma once

#include <cstdint>
#include <vector>

#include "moe/weights.h"

namespace moe4::cuda {

/// The linear with a host copy of its block scales, for check_block_scales(). The copy lies in
/// `storage`; the codes still point to device memory. Waits for the copy.
LinearWeights download_scales(const LinearWeights& linear, std::vector<uint8_t>& storage);

/// The expert with host copies of codes and block scales in `storage`, for the CPU packers. Waits
/// for the copies.
ExpertWeights download_expert(const ExpertWeights& expert, std::vector<uint8_t>& storage);

}  // namespace moe4::cuda
