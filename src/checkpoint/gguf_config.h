// The metadata of a GGUF file in the words of config.json.
#pragma once

#include "checkpoint/json_reader.h"
#include "gguf/file.h"

namespace moe4 {

/// What config.json of the same model would say. Throws Error(kBadInput) naming the file and the
/// key: an architecture that is not supported, a missing or unusable value, or a key of the
/// architecture that nobody here reads, since it may change numbers.
Json gguf_config(const GgufModel& model);

}  // namespace moe4
