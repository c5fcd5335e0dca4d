// A plan for a checkpoint of which only headers are known.
#pragma once

#include <filesystem>

#include "synth/synth_plan.h"

namespace moe4 {

/// See fill_headers().
SynthPlan plan_of_headers(const std::filesystem::path& headers);

}  // namespace moe4
