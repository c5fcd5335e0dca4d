// Writes a planned checkpoint: its tensors filled on several threads, and the folder under its own
// name only when all of it is there.
#pragma once

#include <cstdint>
#include <filesystem>

#include "synth/synth.h"
#include "synth/synth_plan.h"

namespace moe4 {

/// Shards of at most 4 GiB, an index where there are several, then the other files. Memory is a
/// small buffer a thread. Throws Error(kUsage) for an existing `out`, Error(kUnavailable) when the
/// disk is too small or fails; nothing stays behind then, nor after a signal
/// (base/unfinished_path.h).
SynthResult write_plan(const std::filesystem::path& out, const SynthPlan& plan,
                       const FillOptions& options);

}  // namespace moe4
