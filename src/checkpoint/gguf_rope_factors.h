// Rotary scaling that a GGUF file has as factors of its frequencies (rope_freqs.weight).
#pragma once

#include <optional>
#include <vector>

#include "checkpoint/json_reader.h"

namespace moe4 {

/// The object of rope_type llama3 that gives these factors, one for each of the rotated pairs,
/// whose frequencies are theta^(-i / factors.size()); nullopt where none does within 1e-5.
std::optional<Json> llama3_of_factors(const std::vector<float>& factors, double theta);

}  // namespace moe4
