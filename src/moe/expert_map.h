// From an id of the router to an expert that this process holds; the same on host and GPU.
#pragma once

#include <cstdint>

#include "numerics/host_device.h"

namespace moe4 {

/// Index of `id` among the experts held here, or -1: for ids below 0, for ids from num_experts up,
/// which lie behind the map, and for experts of other ranks. `expert_map` [num_experts] gives the
/// index or -1; null: the identity.
MOE4_HOST_DEVICE constexpr int32_t local_expert(int32_t id, const int32_t* expert_map,
                                                int32_t num_experts, int32_t num_local_experts) {
  if (id < 0 || id >= num_experts) return -1;
  const int32_t local = expert_map == nullptr ? id : expert_map[id];
  return local < num_local_experts ? local : -1;
}

}  // namespace moe4
