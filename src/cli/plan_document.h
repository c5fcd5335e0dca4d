// What moe4 plan --json prints, also for other ways in.
#pragma once

#include <nlohmann/json.hpp>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "cli/plan_report.h"
#include "models/description.h"

namespace moe4::cli {

/// Of a model without routed experts.
inline constexpr const char* kNoExperts =
    "no layer has routed experts, so there is nothing to plan: the model is dense";

/// `groups` from make_plan() and `description` from describe(), of the same checkpoint and device.
nlohmann::ordered_json plan_document(const Checkpoint& checkpoint, const SelectorOptions& options,
                                     const std::vector<PlanGroup>& groups,
                                     const Description& description);

}  // namespace moe4::cli
