// Frequencies of rotary embeddings, step by step as transformers rounds them.
#include "ops/rotary/rotary_spec.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace moe4 {
namespace {

constexpr double kTwoPi = 2 * std::numbers::pi;

// theta^(2i/dim).
float base_wavelength(const RotarySpec& spec, size_t i) {
  const float exponent = static_cast<float>(2 * i) / static_cast<float>(spec.dim);
  return static_cast<float>(std::pow(spec.theta, static_cast<double>(exponent)));
}

// The i whose frequency makes `turns` turns over the original context.
double index_of_turns(const RotarySpec& spec, double turns) {
  return static_cast<double>(spec.dim) * std::log(spec.original_context / (turns * kTwoPi)) /
         (2 * std::log(spec.theta));
}

std::vector<float> yarn(const RotarySpec& spec) {
  double low = index_of_turns(spec, spec.beta_fast), high = index_of_turns(spec, spec.beta_slow);
  if (spec.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, static_cast<double>(spec.dim - 1));
  if (low == high) high += 0.001;  // a step
  std::vector<float> frequencies(spec.dim / 2);
  for (size_t i = 0; i < frequencies.size(); ++i) {
    const float wavelength = base_wavelength(spec, i);
    const float ramp = std::clamp(
        (static_cast<float>(i) - static_cast<float>(low)) / static_cast<float>(high - low), 0.0f,
        1.0f);
    const float kept = 1.0f - ramp;
    const float scaled = 1.0f / (static_cast<float>(spec.factor) * wavelength);
    frequencies[i] = scaled * (1.0f - kept) + 1.0f / wavelength * kept;
  }
  return frequencies;
}

float llama3(const RotarySpec& spec, float frequency) {
  const auto context = static_cast<float>(spec.original_context);
  const auto factor = static_cast<float>(spec.factor);
  const float wavelength = static_cast<float>(kTwoPi) / frequency;
  if (wavelength < static_cast<float>(spec.original_context / spec.high_frequency_factor)) {
    return frequency;
  }
  if (wavelength > static_cast<float>(spec.original_context / spec.low_frequency_factor)) {
    return frequency / factor;
  }
  // Equal factors leave nothing between (Llama 4 Scout).
  if (spec.low_frequency_factor == spec.high_frequency_factor) return frequency;
  const float kept = (context / wavelength - static_cast<float>(spec.low_frequency_factor)) /
                     static_cast<float>(spec.high_frequency_factor - spec.low_frequency_factor);
  return (1.0f - kept) * frequency / factor + kept * frequency;
}

}  // namespace

std::vector<float> inverse_frequencies(const RotarySpec& spec) {
  if (spec.scaling == RotaryScaling::kYarn) return yarn(spec);
  std::vector<float> frequencies(spec.dim / 2);
  for (size_t i = 0; i < frequencies.size(); ++i) {
    const float frequency = 1.0f / base_wavelength(spec, i);
    if (spec.scaling == RotaryScaling::kLinear) {
      frequencies[i] = frequency / static_cast<float>(spec.factor);
    } else if (spec.scaling == RotaryScaling::kProportional) {
      const bool turns = static_cast<int64_t>(i) < spec.num_rotated / 2;
      frequencies[i] = turns ? frequency / static_cast<float>(spec.factor) : 0.0f;
    } else if (spec.scaling == RotaryScaling::kLlama3) {
      frequencies[i] = llama3(spec, frequency);
    } else {
      frequencies[i] = frequency;
    }
  }
  return frequencies;
}

double yarn_mscale(double factor, double mscale) {
  return factor <= 1 ? 1.0 : 0.1 * mscale * std::log(factor) + 1.0;
}

}  // namespace moe4
