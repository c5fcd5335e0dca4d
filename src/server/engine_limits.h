// How much room the engine of a server has, from flags and the memory that is left.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine/engine.h"

namespace moe4::server {

/// 0 is "not given".
struct EngineFlags {
  int64_t max_model_len = 0;           ///< tokens of a request
  int64_t max_num_seqs = 0;            ///< requests that run at once
  int64_t max_num_batched_tokens = 0;  ///< of a step
  int64_t kv_cache_memory_bytes = 0;   ///< for the caches
  double memory_utilization = 0.5;     ///< else this share of what is available
  bool prefix_caching = true;
  bool cache_generated = false;
};

/// `available`: bytes of memory once the model is loaded. `notes`: what was chosen for the user
/// that the user may want to know. Throws Error(kUsage) for flags that contradict each other and
/// Error(kUnavailable) when not even one request fits.
EngineLimits engine_limits(const Model& model, const EngineFlags& flags, int64_t available,
                           std::vector<std::string>& notes);

}  // namespace moe4::server
