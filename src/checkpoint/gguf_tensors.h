// The tensors of a GGUF model under the names, and in the form, that a Hugging Face folder has.
#pragma once

#include <memory>

#include "checkpoint/json_reader.h"
#include "checkpoint/weight_file.h"
#include "gguf/file.h"

namespace moe4 {

/// Float types keep theirs; Q8_0, Q4_K and Q6_K become F32, exactly. NVFP4 and MXFP4 become packed
/// codes U8 [.., K/2] with scales beside them, bit for bit; `X.scale` becomes `X.weight_scale_2`.
/// Tensors that no rule of the architecture names keep the file's name, and draft layers stand
/// behind the others. `config`: what gguf_config() made of the same model. Throws Error(kBadInput)
/// naming file and tensor.
std::unique_ptr<WeightFile> open_gguf_tensors(std::shared_ptr<const GgufModel> model,
                                              const JsonReader& config);

}  // namespace moe4
