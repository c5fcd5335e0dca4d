// The blocks of GGUF's quantised types: exact float32 values, and the 4-bit types in the order that
// safetensors checkpoints have.
#pragma once

#include <cstddef>
#include <cstdint>

#include "numerics/ggml_types.h"

namespace moe4 {

// Every function reads whole blocks of one or more rows, one after the other.

/// F32, F16, BF16, Q8_0, Q4_K and Q6_K as float32, bit for bit as ggml's reference. The values of
/// Q8_0 and Q4_K products are exact; what float32 cannot hold (sums of Q4_K, products of Q6_K) is
/// rounded once, as there.
void decode_ggml_floats(GgmlTypeId type, const std::byte* blocks, int64_t elements, float* out);

/// The first block of Q8_0, Q4_K or Q6_K with a factor that is NaN or infinite; -1 for none, and of
/// other types.
int64_t find_bad_ggml_factor(GgmlTypeId type, const std::byte* blocks, int64_t elements);

/// NVFP4, 64 elements in 36 bytes: four E4M3 scales, then 32 bytes of codes; byte j of the eight
/// bytes of 16 elements holds element j in its low nibble and j + 8 in its high one. `codes`
/// receives elements / 2 bytes, elements 2j and 2j + 1 in byte j; `scales` elements / 16 bytes.
void unpack_ggml_nvfp4_codes(const std::byte* blocks, int64_t elements, uint8_t* codes);
void unpack_ggml_nvfp4_scales(const std::byte* blocks, int64_t elements, uint8_t* scales);

/// MXFP4, 32 elements in 17 bytes: an E8M0 scale, then 16 bytes of codes; byte j holds element j in
/// its low nibble and j + 16 in its high one. `scales` receives elements / 32 bytes.
void unpack_ggml_mxfp4_codes(const std::byte* blocks, int64_t elements, uint8_t* codes);
void unpack_ggml_mxfp4_scales(const std::byte* blocks, int64_t elements, uint8_t* scales);

}  // namespace moe4
