// A GPU's engine differs from a CPU's: a step there costs as much for few tokens as for many.
#include "cli/serving_limits.h"

#include <CLI/CLI.hpp>

#include "cli/number_flags.h"
#include "cli/options.h"
#include "models/model_needs.h"

namespace moe4::cli {
namespace {

// A step of a GPU with a few prompt tokens takes half as long again as one without: prompts of
// eight steps together cost little, and nobody waits for long.
constexpr int64_t kGpuPromptWaitSteps = 8;
constexpr int64_t kGpuLeastSnapshot = 512;

}  // namespace

EngineLimits serving_limits(Session& session, const MachineFlags& machine, const EngineFlags& flags,
                            std::optional<int64_t> prompt_wait_steps,
                            std::vector<std::string>& notes) {
  if (!session.needs) {
    session.needs = needs_of(*session.model);
    session.room = room_now(machine.memory, session.model->stream().device);
  }
  EngineLimits limits = fit_engine(*session.needs, flags, session.room, notes);
  const bool on_gpu = !session.model->stream().device.is_cpu();
  limits.gathering.steps = prompt_wait_steps.value_or(on_gpu ? kGpuPromptWaitSteps : 0);
  limits.least_snapshot = on_gpu ? kGpuLeastSnapshot : 0;
  return limits;
}

void add_prompt_wait_flag(CLI::App& command, std::optional<int64_t>& steps) {
  with_env(command
               .add_option("--prompt-wait-steps", steps,
                           "While 16 or more requests generate, new ones wait up to so many steps "
                           "to begin together; default 8 on a GPU, 0 on a CPU")
               ->check(whole_number(0, 1000)));
}

}  // namespace moe4::cli
