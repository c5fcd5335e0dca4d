// The engine that `serve` runs, and that bench-throughput measures without a server around it.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "cli/session.h"
#include "engine/memory_plan.h"

namespace moe4::cli {

/// Of the loaded model of `session`: limits that fit, and how prompts are begun there.
/// `prompt_wait_steps`: PromptGathering::steps, or what is best on the device. `notes` as in
/// fit_engine(), which throws.
EngineLimits serving_limits(Session& session, const MachineFlags& machine, const EngineFlags& flags,
                            std::optional<int64_t> prompt_wait_steps,
                            std::vector<std::string>& notes);

/// --prompt-wait-steps
void add_prompt_wait_flag(CLI::App& command, std::optional<int64_t>& steps);

}  // namespace moe4::cli
