// Finds two points of the ramp, or the gap where a step is, and compares all factors.
#include "checkpoint/gguf_rope_factors.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <numbers>

namespace moe4 {
namespace {

constexpr double kTolerance = 1e-5;

bool is_near(double a, double b) { return std::abs(a - b) <= kTolerance * std::abs(b); }

// Llama 3.1's ramp: frequencies of wavelengths up to context / high stay, those from context / low
// on are divided by the factor, and between them the reciprocal of the divisor is linear in
// 1 / wavelength. Only context / low and high / low show in the factors, so low is 1.
struct Ramp {
  double factor = 1, context = 0, high = 1;

  double at(double wavelength) const {
    if (wavelength < context / high) return 1;
    if (wavelength > context) return factor;
    const double part = (context / wavelength - 1) / (high - 1);
    return 1 / ((1 - part) / factor + part);
  }
};

}  // namespace

std::optional<Json> llama3_of_factors(const std::vector<float>& factors, double theta) {
  std::vector<double> wavelengths;
  wavelengths.reserve(factors.size());
  for (size_t i = 0; i < factors.size(); ++i) {
    const double part = static_cast<double>(i) / static_cast<double>(factors.size());
    wavelengths.push_back(2 * std::numbers::pi * std::pow(theta, part));
  }
  Ramp ramp;
  std::vector<size_t> inside;
  for (const float factor : factors) {
    if (!std::isfinite(factor) || factor < 1) return std::nullopt;
    ramp.factor = std::max<double>(ramp.factor, factor);
  }
  size_t stay = 0;
  for (size_t i = 0; i < factors.size(); ++i) {
    if (is_near(factors[i], 1)) {
      stay = i + 1;
    } else if (!is_near(factors[i], ramp.factor)) {
      inside.push_back(i);
    }
  }
  if (ramp.factor == 1) return Json{{"rope_type", "default"}};
  if (inside.empty()) {
    // A step anywhere between its neighbours.
    if (stay == 0 || stay == factors.size()) return std::nullopt;
    ramp.context = std::round(std::sqrt(wavelengths[stay - 1] * wavelengths[stay]));
  } else {
    if (inside.size() == 1) return std::nullopt;
    const auto part = [&](size_t i) {
      return (1.0 / factors[i] - 1 / ramp.factor) / (1 - 1 / ramp.factor);
    };
    const size_t first = inside.front(), last = inside.back();
    const double slope =
        (part(first) - part(last)) / (1 / wavelengths[first] - 1 / wavelengths[last]);
    const double below = slope / wavelengths[first] - part(first);
    if (!(slope > 0) || !(below > 0)) return std::nullopt;
    ramp.context = std::round(slope / below);
    ramp.high = 1 + 1 / below;
    if (is_near(ramp.high, std::round(ramp.high))) ramp.high = std::round(ramp.high);
  }
  constexpr double kMostContext = 1 << 30;
  if (!(ramp.context >= 1 && ramp.context <= kMostContext)) return std::nullopt;
  for (size_t i = 0; i < factors.size(); ++i) {
    if (!is_near(factors[i], ramp.at(wavelengths[i]))) return std::nullopt;
  }
  return Json{{"rope_type", "llama3"},
              {"factor", ramp.factor},
              {"original_max_position_embeddings", static_cast<int64_t>(ramp.context)},
              {"low_freq_factor", 1.0},
              {"high_freq_factor", ramp.high}};
}

}  // namespace moe4
