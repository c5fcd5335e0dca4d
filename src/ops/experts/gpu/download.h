// Weights that an engine holds in device memory, brought to the host where the CPU must see them.
#pragma once

#include <cstdint>
#include <vector>

#include "moe/weights.h"

namespace moe4::cuda {

/// The linear with host copies, in `storage`, of what check_scales() looks at: its block scales, of
/// MXFP4 weights its codes too (otherwise they still point to device memory). Waits for the copies.
LinearWeights download_for_checks(const LinearWeights& linear, std::vector<uint8_t>& storage);

/// The expert with host copies of codes and block scales in `storage`, for the CPU packers. Waits
/// for the copies.
ExpertWeights download_expert(const ExpertWeights& expert, std::vector<uint8_t>& storage);

}  // namespace moe4::cuda
