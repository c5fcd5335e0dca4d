// Room for an engine: what it takes beside a model's weights, and which limits fit. Pure, so that
// it can be asked before anything is loaded and for a GPU that is absent.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "engine/engine.h"
#include "models/model_needs.h"

namespace moe4 {

/// Bytes by what they are for; on the device of the layers, but for the first.
struct MemoryPlan {
  int64_t host_weights = 0;  ///< of experts that the CPU computes beside a GPU
  int64_t weights = 0;
  int64_t pages = 0;      ///< of keys and values
  int64_t states = 0;     ///< of recurrent layers, of running requests
  int64_t snapshots = 0;  ///< of such states
  int64_t workspace = 0;
  int64_t buffers = 0;  ///< of batches, logits and choices
  int64_t graphs = 0;

  int64_t caches() const { return pages + states + snapshots; }
  int64_t total() const { return weights + caches() + workspace + buffers + graphs; }
};

/// Of an engine with these limits. What it will allocate, exactly, as far as the needs are; graphs
/// are an estimate.
MemoryPlan memory_plan(const ModelNeeds& needs, const EngineLimits& limits);

/// What the user asks of an engine; 0 is "not given".
struct EngineFlags {
  int64_t max_model_len = 0;           ///< tokens of a request
  int64_t max_num_seqs = 0;            ///< requests that run at once
  int64_t max_num_batched_tokens = 0;  ///< of a step
  int64_t kv_cache_memory_bytes = 0;   ///< for the caches; else what is left of the room
  bool prefix_caching = true;
  bool cache_generated = false;
};

/// Limits of an engine that fits. `room`: bytes of the layers' device for all of MemoryPlan::total;
/// nothing: unknown, so the caches are for one request of full length, or for as many as were given
/// with their length. `notes`: what was chosen for the user that the user may want to know. Throws
/// Error(kUsage) for flags that contradict each other and Error(kUnavailable), naming flags that
/// would fit, when the flags do not.
EngineLimits fit_engine(const ModelNeeds& needs, const EngineFlags& flags,
                        std::optional<int64_t> room, std::vector<std::string>& notes);

/// Throws Error(kUnavailable) when such an engine does not fit: with what is needed, and what to
/// do: `advice` ("lower -n or --ctx") or a number of layers for --cpu-moe.
void check_room(const ModelNeeds& needs, const EngineLimits& limits, int64_t room,
                const std::string& advice);

/// The fewest layers whose experts must be left to the CPU for such an engine to fit; nothing: not
/// even all of them are enough.
std::optional<int64_t> fitting_cpu_moe(const ModelNeeds& needs, const EngineLimits& limits,
                                       int64_t room);
/// The same for flags: with room for the requests that they name, else for 8 of up to 32,768 tokens
/// of which one has all.
std::optional<int64_t> fitting_cpu_moe(const ModelNeeds& needs, const EngineFlags& flags,
                                       int64_t room);

/// Bytes of a GPU that a plan may use: `utilization` of its memory, or of the first `cap` bytes of
/// it (0: all), less what is used already.
int64_t gpu_room(int64_t total, int64_t used, double utilization, int64_t cap = 0);

}  // namespace moe4
