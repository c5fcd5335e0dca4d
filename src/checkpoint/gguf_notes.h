// What a user of a GGUF file should know of its tensors.
#pragma once

#include <string>
#include <vector>

#include "checkpoint/tensor_table.h"

namespace moe4 {

/// One sentence each: what moe4 makes of the tensors, where it is not what the file holds.
/// `tensors`: of open_gguf_tensors().
std::vector<std::string> gguf_notes(const TensorTable& tensors);

}  // namespace moe4
