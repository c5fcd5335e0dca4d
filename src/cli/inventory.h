// What a checkpoint's tensors add up to, from headers alone.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "checkpoint/checkpoint.h"

namespace moe4::cli {

/// One kind of weights ("routed experts", "attention", ...).
struct Component {
  std::string name;
  std::string formats;            ///< "NVFP4", "BF16, FP8"
  int64_t parameters = 0;         ///< elements of weights; scales are not parameters
  int64_t bytes = 0;              ///< weights and scales
  int64_t active_parameters = 0;  ///< used by one token
  int64_t active_bytes = 0;       ///< read by one token
};

struct Inventory {
  std::vector<Component> components;  ///< largest first
  int64_t parameters = 0, active_parameters = 0;
  int64_t bytes = 0, active_bytes = 0;
};

Inventory take_inventory(const Checkpoint& checkpoint);

}  // namespace moe4::cli
