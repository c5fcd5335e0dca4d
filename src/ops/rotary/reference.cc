// RotaryAngles by its definition: angles are float32 products as in transformers, the rest float64.
#include <algorithm>
#include <cmath>

#include "ops/cpu/implementation.h"
#include "ops/rotary/rotary_angles.h"

namespace moe4 {
namespace {

class ReferenceRotaryAngles final : public Prepared<RotaryAngles> {
 public:
  ReferenceRotaryAngles(const RotarySpec& problem, const RotaryAngles::Weights&, const OpOptions&)
      : Prepared(problem) {}

  size_t workspace_size(const RotaryAngles::Args&) const override { return 0; }
  BatchInvariance batch_invariant() const override { return BatchInvariance::kFull; }
  int64_t weight_bytes() const override { return 0; }

  void run(const RotaryAngles::Args& args, std::span<std::byte>, const Stream&) const override {
    const std::vector<float> frequencies = inverse_frequencies(problem());
    const auto half = static_cast<int64_t>(frequencies.size());
    for (int64_t t = 0; t < args.y.rows; ++t) {
      for (int64_t i = 0; i < half; ++i) {
        const int64_t position = std::max(0, args.positions[t]);
        const float angle =
            static_cast<float>(position - position % problem().step) * frequencies[i];
        const auto at = static_cast<double>(angle);
        args.y.row(t)[i] = static_cast<float>(problem().amplitude * std::cos(at));
        args.y.row(t)[half + i] = static_cast<float>(problem().amplitude * std::sin(at));
      }
    }
  }
};

}  // namespace

const Implementation<RotaryAngles>& reference_rotary_angles() {
  static const CpuImplementation<RotaryAngles, ReferenceRotaryAngles> implementation(
      "reference", only_for_tests);
  return implementation;
}

}  // namespace moe4
