// Flags about memory: what a GPU may use of its own, what is left to the CPU, what caches hold, and
// how many requests there are.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "base/dtype.h"
#include "engine/memory_plan.h"

namespace CLI {
class App;
}  // namespace CLI

namespace moe4::cli {

struct MemoryFlags {
  std::string gpu_memory;     ///< "80GB"; "": all that the GPU has
  double utilization = 0;     ///< share of it; 0: the default
  std::string cpu_moe = "0";  ///< a number of layers, "all" or "auto"
  std::string kv_cache = "auto";
};

constexpr double kGpuUtilization = 0.9;   ///< of a GPU's memory
constexpr double kHostUtilization = 0.5;  ///< of what the host has left beside the weights

void add_memory_flags(CLI::App& command, MemoryFlags& flags);
/// --max-model-len and its like.
void add_engine_flags(CLI::App& command, EngineFlags& flags);

/// "80GB" (10^9), "80GiB" (2^30), "1234" bytes; also k, M, T. Throws Error(kUsage) naming `flag`.
int64_t parse_bytes(const std::string& flag, const std::string& text);

/// Layers of --cpu-moe, INT64_MAX for "all"; nothing: "auto". Throws Error(kUsage) for anything
/// else, and for experts beside layers that are on the CPU themselves.
std::optional<int64_t> cpu_moe_layers(const MemoryFlags& flags, const Device& device);
/// The dtype of --kv-cache-dtype; nothing: "auto". Throws Error(kUsage) for names that are not
/// known, with the reason where the name is one of the field.
std::optional<DType> kv_cache_dtype(const MemoryFlags& flags);

/// Bytes that a model which has been loaded may still take of its device.
int64_t room_now(const MemoryFlags& flags, const Device& device);
/// What a plan may use of a GPU with `total` bytes of which `used` are taken.
int64_t room_of(const MemoryFlags& flags, int64_t total, int64_t used);

}  // namespace moe4::cli
