// The memory plan of a command: made before weights are loaded, and put into words.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "cli/plan_report.h"
#include "engine/memory_plan.h"
#include "models/description.h"

namespace moe4::cli {

/// Needs of a checkpoint on a device, from what was said of it. `cpu_moe`: layers from the first.
/// Nothing where the model is refused, or tensors are absent.
std::optional<ModelNeeds> needs_from_headers(const Checkpoint& headers,
                                             const Description& description,
                                             const std::vector<PlanGroup>& groups,
                                             const Device& device, int64_t cpu_moe);

/// "memory: 21.0 GiB of weights, 3.1 GiB of caches (...), ... of 71.5 GiB". `room` as fit_engine().
std::string memory_line(const MemoryPlan& plan, std::optional<int64_t> room);
/// What a token and a request take, and how many there is room for.
std::string caches_line(const ModelNeeds& needs, const EngineLimits& limits);
nlohmann::ordered_json memory_json(const MemoryPlan& plan, const ModelNeeds& needs,
                                   const EngineLimits& limits, std::optional<int64_t> room);

/// The most memory that this process had in the host so far: VmHWM. 0: unknown.
int64_t peak_host_bytes();

}  // namespace moe4::cli
