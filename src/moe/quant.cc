// Names of keys, schemes and activation modes.
#include "moe/quant.h"

#include "base/error.h"

namespace moe4 {

const GgmlType* ggml_type_of(QuantFormat format) {
  switch (format) {
    case QuantFormat::kQ8_0:
      return find_ggml_type(static_cast<uint32_t>(GgmlTypeId::kQ8_0));
    default:
      return nullptr;
  }
}

std::optional<QuantFormat> ggml_format(GgmlTypeId type) {
  switch (type) {
    case GgmlTypeId::kQ8_0:
      return QuantFormat::kQ8_0;
    default:
      return std::nullopt;
  }
}

std::string to_string(const QuantKey& key) {
  if (const GgmlType* type = ggml_type_of(key.format)) return std::string(type->name);
  const char* name = "bf16";
  switch (key.format) {
    case QuantFormat::kFloat:
      return "bf16";
    case QuantFormat::kNvfp4:
      name = "nvfp4";
      break;
    case QuantFormat::kMxfp4:
      name = "mxfp4";
      break;
    case QuantFormat::kFp8Tensor:
      name = "fp8 per-tensor";
      break;
    case QuantFormat::kFp8Channel:
      name = "fp8 per-channel";
      break;
    case QuantFormat::kFp8Token:
      name = "fp8 per-token";
      break;
    case QuantFormat::kFp8Block128:
      name = "fp8 block-128";
      break;
    case QuantFormat::kQ8_0:
      break;
  }
  return std::string(name) + (key.dynamic ? " dynamic" : " static");
}

std::string to_string(const QuantScheme& scheme) {
  if (scheme.weight.format == QuantFormat::kFloat && !scheme.activation) return "unquantised";
  if (scheme.is_ggml() && !scheme.activation) return to_string(scheme.weight);
  const std::string keys = " (" + to_string(scheme.weight) + ", " +
                           (scheme.activation ? to_string(*scheme.activation) : "none") + ")";
  if (scheme.is_fp4()) {
    if (!scheme.activation) return "W4A16" + keys;
    const bool fp4 = scheme.activation->format == QuantFormat::kNvfp4 ||
                     scheme.activation->format == QuantFormat::kMxfp4;
    return (fp4 ? "W4A4" : "W4A8") + keys;
  }
  if (scheme.is_fp8()) return (scheme.activation ? "W8A8" : "W8A16") + keys;
  return "mixed" + keys;
}

std::string_view to_string(ActivationMode mode) {
  switch (mode) {
    case ActivationMode::kAuto:
      return "auto";
    case ActivationMode::kBf16:
      return "bf16";
    case ActivationMode::kFp4:
      return "fp4";
    case ActivationMode::kFp4Static:
      return "fp4-static";
  }
  return "?";
}

ActivationMode parse_activation_mode(std::string_view text) {
  for (ActivationMode mode : {ActivationMode::kAuto, ActivationMode::kBf16, ActivationMode::kFp4,
                              ActivationMode::kFp4Static}) {
    if (to_string(mode) == text) return mode;
  }
  throw Error(ErrorCode::kUsage, "unknown activation mode '" + printable(std::string(text)) +
                                     "': expected auto, bf16, fp4 or fp4-static");
}

std::string_view to_string(ActivationPrecision precision) {
  switch (precision) {
    case ActivationPrecision::kBf16:
      return "bf16";
    case ActivationPrecision::kFp4:
      return "fp4 (in-kernel)";
    case ActivationPrecision::kFp4Static:
      return "fp4-static";
    case ActivationPrecision::kFp8:
      return "fp8";
  }
  return "?";
}

}  // namespace moe4
