// Reads everything a checkpoint has.
#pragma once

#include "checkpoint/checkpoint.h"

namespace moe4::testing {

inline void materialise(const Checkpoint& checkpoint) {
  const ModelConfig& config = checkpoint.config();
  for (int64_t layer = 0; layer < config.num_layers; ++layer) {
    if (config.is_moe_layer[layer]) (void)checkpoint.moe_layer(layer);
  }
  for (const std::string& module : checkpoint.linear_modules()) (void)checkpoint.linear(module);
}

}  // namespace moe4::testing
