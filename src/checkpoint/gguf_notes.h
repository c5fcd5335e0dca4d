// What a user of a GGUF file should know of its tensors.
#pragma once

#include <string>
#include <vector>

#include "gguf/file.h"

namespace moe4 {

/// One sentence each: what moe4 makes of the tensors, where it is not what the file holds.
std::vector<std::string> gguf_notes(const GgufModel& model);

}  // namespace moe4
