// RotarySpec: how a model turns queries and keys with their positions.
#pragma once

#include <cstdint>
#include <vector>

namespace moe4 {

/// How frequencies differ from theta^(-2i/dim).
enum class RotaryScaling : uint8_t {
  kNone,
  kLinear,  ///< f / factor
  /// Long wavelengths as kLinear, short ones as kNone, a ramp over i between (YaRN, arXiv
  /// 2309.00071)
  kYarn,
  kLlama3,  ///< the same idea with a ramp over 1 / wavelength (Llama 3.1)
  /// f / factor for the first num_rotated / 2, 0 for the others: exponents and pairs are those of
  /// the whole head (Gemma-4)
  kProportional,
};

/// A rotary position embedding of `dim` elements of a head. It says by which angles elements are
/// turned, not which two are a pair: that is the affair of the op that turns them. Text tokens
/// have one position for all sections of multi-axis embeddings (mrope), which makes those the plain
/// form.
struct RotarySpec {
  int64_t dim = 0;  ///< even
  double theta = 10000.0;
  RotaryScaling scaling = RotaryScaling::kNone;
  double factor = 1.0;          ///< all but kNone: how much longer contexts became
  int64_t num_rotated = 0;      ///< kProportional: elements that turn, even
  double original_context = 0;  ///< kYarn, kLlama3: tokens before that
  double beta_fast = 32;        ///< kYarn: turns over the original context above which f stays
  double beta_slow = 1;         ///< kYarn: and below which it is f / factor
  bool truncate = true;         ///< kYarn: the ramp begins and ends at whole i
  double low_frequency_factor =
      1;  ///< kLlama3: wavelengths above original_context / this: f / factor
  double high_frequency_factor = 4;  ///< kLlama3: below original_context / this: f
  /// Multiplies cosines and sines (and so each of query and key).
  double amplitude = 1.0;
  /// kYarn: latent attention multiplies its scores by yarn_mscale(factor, mscale_all_dim)^2 where
  /// this is not 0. The angles do not read it: `amplitude` is a correction of its own.
  double mscale_all_dim = 0;
  /// Positions count from one multiple of this to the next: p is p / step * step (keys that many
  /// tokens share, DeepSeek-V4).
  int64_t step = 1;

  bool operator==(const RotarySpec&) const = default;
};

/// f_i, [dim / 2], in the float32 steps of transformers' modeling_rope_utils.py.
std::vector<float> inverse_frequencies(const RotarySpec& spec);

/// YaRN's correction of attention: 0.1 mscale ln(factor) + 1, or 1 where factor <= 1.
double yarn_mscale(double factor, double mscale);

}  // namespace moe4
