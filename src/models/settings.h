// Keys of config.json that change a model's numbers, and which of them an architecture computes.
#pragma once

#include <functional>
#include <span>
#include <string_view>

#include "base/error.h"
#include "checkpoint/checkpoint.h"

namespace moe4 {

/// What an architecture computes beyond what every decoder does.
struct ComputedSettings {
  /// Keys of the table in settings.cc that are not refused: the architecture file reads them, or
  /// checks them itself.
  std::span<const std::string_view> keys;
  /// Words of `layer_types`.
  std::span<const std::string_view> layer_types;
};

using RefuseSetting = std::function<void(const BadInput&)>;

/// Calls `refuse` for every key of the table that is there, is not off and is not computed: in the
/// text model's object, and in the wrapper's around it where the text model's lacks the key. Also
/// for settings that contradict each other or the stored tensors (biases), scaled rotary embeddings
/// and activations that dense and shared MLPs do not have.
void check_settings(const Checkpoint& checkpoint, const ComputedSettings& computed,
                    const RefuseSetting& refuse);

/// Qwen's sliding window: off unless `use_sliding_window` is true; `sliding_window` alone counts
/// only where the family has no such switch (`has_switch` false).
void check_sliding_window(const Checkpoint& checkpoint, bool has_switch,
                          const RefuseSetting& refuse);

/// Calls `refuse` for transforms of compressed-tensors (`transform_config`) that are applied while
/// the model runs. Those at weight_input and weight_output are in the weights already. Also for
/// sparse weight formats (`sparsity_config`).
void check_transforms(const Checkpoint& checkpoint, const RefuseSetting& refuse);

}  // namespace moe4
