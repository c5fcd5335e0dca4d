// Families of GGUF files whose config.json takes a file of its own to write.
#pragma once

#include "checkpoint/gguf_config_writer.h"

namespace moe4 {

/// Behind read_common(). Throw Error(kBadInput) naming file and key, or tensor.
void write_deepseek_v4(GgufConfigWriter& w);
void write_gemma4(GgufConfigWriter& w);

}  // namespace moe4
