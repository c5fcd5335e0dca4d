// Tensors that do not belong to the text model's numbers, by name.
#pragma once

#include <cstdint>
#include <string_view>

namespace moe4 {

/// Why the text model's numbers do not depend on the tensor, in a few words; null when they may.
/// Vision and audio towers, multi-token prediction (`mtp.*`, or layers from `num_layers` on),
/// scales of a quantised KV cache, stored rotary frequencies.
const char* ignored_because(std::string_view tensor, int64_t num_layers);

}  // namespace moe4
