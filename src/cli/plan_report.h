// The plan of a checkpoint's MoE layers: made from headers, grouped, printed.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "checkpoint/checkpoint.h"
#include "models/model.h"
#include "moe/selector.h"

namespace moe4::cli {

/// Consecutive MoE layers for which everything is the same.
struct PlanGroup {
  std::vector<int64_t> layers;
  QuantScheme scheme;
  std::optional<DType> weight_dtype = {};  ///< of experts that are not quantised, where it is known
  MoeProblem problem;
  Selection selection;  ///< backend is nullptr when nothing fits
  /// What the experts are where moe4 cannot decode them ("MXFP8"); `scheme` means nothing then.
  std::string unsupported = {};
  /// Why no backend serves the first of the layers, and whose fault it is: kBadInput is the
  /// checkpoint's, kUnavailable the backends'.
  std::string error = {};
  ErrorCode error_code = ErrorCode::kUnavailable;
};

/// "W4A16 (nvfp4 static, none)", "BF16", "F32", or what moe4 cannot decode.
std::string scheme_text(const PlanGroup& group);
/// How the experts of a layer are stored where nothing is quantised; a scheme does not say.
std::optional<DType> unquantised_dtype(const Checkpoint& checkpoint, int64_t layer,
                                       const MoeLayerSummary& experts);

/// Selects every MoE layer, the first `cpu_moe` that have experts on the CPU; a layer that nothing
/// can run keeps its error instead of throwing.
std::vector<PlanGroup> make_plan(const Checkpoint& checkpoint, SelectorOptions options,
                                 int64_t cpu_moe = 0);
/// Groups what a loaded model chose.
std::vector<PlanGroup> group_plan(const std::vector<MoeLayerPlan>& layers);

/// "0-2, 5".
std::string layer_ranges(const std::vector<int64_t>& layers);
/// Several lines: per group format, scheme, backend, activations, every other backend's reason.
std::string plan_text(const std::vector<PlanGroup>& groups);
/// One line a group, for start-up.
std::string plan_summary(const std::vector<PlanGroup>& groups);
/// A JSON array, one object a group.
std::string plan_json(const std::vector<PlanGroup>& groups);

}  // namespace moe4::cli
