// Choice and application of input quantisation.
#include "ops/linear/input_quant.h"

#include "moe/activation_quant.h"

namespace moe4 {

std::optional<InputQuant> input_quant_of(const LinearWeights& weights,
                                         const LinearOptions& options) {
  const auto& key = weights.scheme.activation;
  if (!key) return std::nullopt;
  InputQuant quant{};
  if (weights.scheme.is_fp8() && options.fp8_activations) {
    quant = {key->format, key->dynamic, {}};
    if (key->dynamic) return quant;
  } else if (weights.scheme.is_nvfp4() && options.activations == ActivationMode::kFp4) {
    return InputQuant{QuantFormat::kNvfp4, true, DecodeScale{1.0f}};
  } else if (weights.scheme.is_nvfp4() && options.activations == ActivationMode::kFp4Static) {
    quant = {QuantFormat::kNvfp4, false, {}};
  } else {
    return std::nullopt;
  }
  if (!weights.input_scale) {
    throw_bad_input({.what = "static activation quantisation needs a calibrated input scale",
                     .tensor = weights.name + ".input_scale",
                     .expected = "a scalar in the checkpoint",
                     .found = "none",
                     .hint = "use --activations bf16"});
  }
  quant.scale = *weights.input_scale;
  return quant;
}

void quantize_input(const InputQuant& quant, const float* in, int64_t k, float* out) {
  if (quant.format == QuantFormat::kNvfp4) {
    fake_quantize_nvfp4(in, k, quant.scale, out);
  } else if (!quant.dynamic) {
    fake_quantize_fp8_static(in, k, quant.scale, out);
  } else {
    fake_quantize_fp8_dynamic(in, k, quant.format == QuantFormat::kFp8Block128 ? 128 : k, out);
  }
}

}  // namespace moe4
