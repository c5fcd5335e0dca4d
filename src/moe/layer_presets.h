// One MoE layer of published models, by name: what benchmarks measure.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "moe/problem.h"
#include "moe/quant.h"

namespace moe4 {

/// A layer's sizes under the name that users know, and its weights as they are published.
struct MoePreset {
  std::string_view name;
  MoeProblem problem;
  QuantScheme scheme = kW4A16;
  bool has_bias = false;          ///< of gate, up and down (gpt-oss)
  int64_t published_experts = 0;  ///< of which the problem has the first; 0: it has all

  /// "deepseek-v3, 32 of its 256 experts".
  std::string title() const;
};

/// "NAME", or "NAME/E": with E of its experts. Throws Error(kUsage) naming the known presets, or
/// what E may be.
MoePreset moe_preset(std::string_view name);
std::vector<std::string_view> moe_preset_names();

}  // namespace moe4
