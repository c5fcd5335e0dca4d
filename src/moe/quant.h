// What a linear's numbers are: formats, QuantKey, QuantScheme, and the precision its activations
// run in.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "numerics/ggml_types.h"

namespace moe4 {

/// How one operand is stored, with the granularity of its scales.
enum class QuantFormat {
  kFloat,        ///< BF16, F16 or F32, not quantised
  kNvfp4,        ///< E2M1, one E4M3 scale per 16 along K, one float32 scale per tensor
  kMxfp4,        ///< E2M1, one E8M0 scale per 32 along K
  kFp8Tensor,    ///< E4M3 with one float32 scale per tensor
  kFp8Channel,   ///< E4M3 with one scale per output row (weights)
  kFp8Token,     ///< E4M3 with one scale per token (activations)
  kFp8Block128,  ///< E4M3 with one scale per 128 x 128 block (weights), 1 x 128 (activations)
  kQ8_0,         ///< ggml's blocks: int8, one F16 scale per 32 along K (weights)
};

/// One operand's format and whether its scales are fixed in the checkpoint (static) or made from
/// the data (dynamic).
struct QuantKey {
  QuantFormat format = QuantFormat::kFloat;
  bool dynamic = false;
  bool operator==(const QuantKey&) const = default;
};

/// Weight key and activation key of a linear. No activation key: activations stay BF16 (W4A16,
/// W8A16, BF16).
struct QuantScheme {
  QuantKey weight;
  std::optional<QuantKey> activation;
  bool operator==(const QuantScheme&) const = default;

  bool is_nvfp4() const { return weight.format == QuantFormat::kNvfp4; }
  bool is_mxfp4() const { return weight.format == QuantFormat::kMxfp4; }
  /// E2M1 weights, whatever their scales.
  bool is_fp4() const { return is_nvfp4() || is_mxfp4(); }
  /// Weights in ggml's blocks: ggml_type_of(weight.format).
  bool is_ggml() const { return weight.format == QuantFormat::kQ8_0; }
  bool is_fp8() const {
    return weight.format == QuantFormat::kFp8Tensor || weight.format == QuantFormat::kFp8Channel ||
           weight.format == QuantFormat::kFp8Block128;
  }
};

inline constexpr QuantKey kNvfp4Static{QuantFormat::kNvfp4, false};
inline constexpr QuantKey kNvfp4Dynamic{QuantFormat::kNvfp4, true};
inline constexpr QuantScheme kW4A4{kNvfp4Static, kNvfp4Dynamic};
inline constexpr QuantScheme kW4A16{kNvfp4Static, std::nullopt};
inline constexpr QuantKey kMxfp4Static{QuantFormat::kMxfp4, false};
inline constexpr QuantKey kMxfp4Dynamic{QuantFormat::kMxfp4, true};
inline constexpr QuantScheme kMxfp4W4A4{kMxfp4Static, kMxfp4Dynamic};
inline constexpr QuantScheme kMxfp4W4A16{kMxfp4Static, std::nullopt};
inline constexpr QuantScheme kUnquantized{{QuantFormat::kFloat, false}, std::nullopt};

/// Consecutive values along K that share a block scale of E2M1 weights: 16 or 32.
constexpr int fp4_block(QuantFormat format) { return format == QuantFormat::kMxfp4 ? 32 : 16; }

/// The type of weights in ggml's blocks; null for other formats.
const GgmlType* ggml_type_of(QuantFormat format);
/// The other way round; nullopt for types that LinearWeights has in another form.
std::optional<QuantFormat> ggml_format(GgmlTypeId type);

/// "nvfp4 static", "Q8_0".
std::string to_string(const QuantKey& key);
/// "W4A4 (nvfp4 static, nvfp4 dynamic)", "W8A8 (...)", "Q8_0", "unquantised" (BF16, F16 or F32).
std::string to_string(const QuantScheme& scheme);

/// What the user asked for (`--activations`).
enum class ActivationMode { kAuto, kBf16, kFp4, kFp4Static };

/// What a backend does with the inputs of FC1 and FC2.
enum class ActivationPrecision {
  kBf16,  ///< as they are
  kFp4,   ///< NVFP4, quantised in the kernel per block of 16 with global scale 1 (b12x convention)
  kFp4Static,  ///< NVFP4 with the checkpoint's calibrated input scale as global scale
  kFp8,  ///< E4M3 as the layer's activation key says: static per tensor or dynamic per token (FP8
         ///< layers only)
};

/// "auto", "bf16", "fp4", "fp4-static".
std::string_view to_string(ActivationMode mode);
/// Throws Error(kUsage) naming the accepted words.
ActivationMode parse_activation_mode(std::string_view text);
/// "bf16", "fp4 (in-kernel)", "fp4-static", "fp8".
std::string_view to_string(ActivationPrecision precision);

}  // namespace moe4
