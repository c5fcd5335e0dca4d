// Sizes are those of ggml-common.h, as gguf-py's GGML_QUANT_SIZES lists them.
#include "numerics/ggml_types.h"

#include <algorithm>
#include <array>

namespace moe4 {
namespace {

constexpr GgmlType known(uint32_t id, std::string_view name, int64_t elements, int64_t bytes) {
  return {static_cast<GgmlTypeId>(id), name, elements, bytes, false};
}

constexpr GgmlType decoded(GgmlTypeId id, std::string_view name, int64_t elements, int64_t bytes) {
  return {id, name, elements, bytes, true};
}

constexpr std::array kTypes = {
    decoded(GgmlTypeId::kF32, "F32", 1, 4),
    decoded(GgmlTypeId::kF16, "F16", 1, 2),
    known(2, "Q4_0", 32, 18),
    known(3, "Q4_1", 32, 20),
    known(6, "Q5_0", 32, 22),
    known(7, "Q5_1", 32, 24),
    decoded(GgmlTypeId::kQ8_0, "Q8_0", 32, 34),
    known(9, "Q8_1", 32, 36),
    known(10, "Q2_K", 256, 84),
    known(11, "Q3_K", 256, 110),
    decoded(GgmlTypeId::kQ4_K, "Q4_K", 256, 144),
    known(13, "Q5_K", 256, 176),
    decoded(GgmlTypeId::kQ6_K, "Q6_K", 256, 210),
    known(15, "Q8_K", 256, 292),
    known(16, "IQ2_XXS", 256, 66),
    known(17, "IQ2_XS", 256, 74),
    known(18, "IQ3_XXS", 256, 98),
    known(19, "IQ1_S", 256, 50),
    known(20, "IQ4_NL", 32, 18),
    known(21, "IQ3_S", 256, 110),
    known(22, "IQ2_S", 256, 82),
    known(23, "IQ4_XS", 256, 136),
    known(24, "I8", 1, 1),
    known(25, "I16", 1, 2),
    decoded(GgmlTypeId::kI32, "I32", 1, 4),
    known(27, "I64", 1, 8),
    known(28, "F64", 1, 8),
    known(29, "IQ1_M", 256, 56),
    decoded(GgmlTypeId::kBF16, "BF16", 1, 2),
    known(34, "TQ1_0", 256, 54),
    known(35, "TQ2_0", 256, 66),
    decoded(GgmlTypeId::kMXFP4, "MXFP4", 32, 17),
    decoded(GgmlTypeId::kNVFP4, "NVFP4", 64, 36),
    known(41, "Q1_0", 128, 18),
};

}  // namespace

const GgmlType* find_ggml_type(uint32_t id) {
  const auto* found = std::find_if(kTypes.begin(), kTypes.end(), [&](const GgmlType& type) {
    return static_cast<uint32_t>(type.id) == id;
  });
  return found == kTypes.end() ? nullptr : found;
}

}  // namespace moe4
