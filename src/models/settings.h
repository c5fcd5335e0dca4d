// Keys of config.json that change a model's numbers: one that no architecture file read is refused.
#pragma once

#include <functional>

#include "base/error.h"
#include "checkpoint/checkpoint.h"
#include "models/config_reader.h"

namespace moe4 {

using RefuseSetting = std::function<void(const BadInput&)>;

/// Calls `refuse` for every key of the table that is there, is not off and was not read by the
/// architecture file: in the text model's object, and in the wrapper's around it where the text
/// model's lacks the key.
void check_settings(const Checkpoint& checkpoint, const ConfigReader& config,
                    const RefuseSetting& refuse);

/// Calls `refuse` for transforms of compressed-tensors (`transform_config`) that are applied while
/// the model runs. Those at weight_input and weight_output are in the weights already. Also for
/// sparse weight formats (`sparsity_config`).
void check_transforms(const Checkpoint& checkpoint, const RefuseSetting& refuse);

}  // namespace moe4
