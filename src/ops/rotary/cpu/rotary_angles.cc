// RotaryAngles on the CPU.
#include "ops/rotary/rotary_angles.h"

#include <algorithm>
#include <cmath>

#include "ops/cpu/implementation.h"
#include "ops/cpu/parallel.h"

namespace moe4 {
namespace {

class CpuRotaryAngles final : public Prepared<RotaryAngles> {
 public:
  CpuRotaryAngles(const RotarySpec& problem, const RotaryAngles::Weights&, const OpOptions&)
      : Prepared(problem), frequencies_(inverse_frequencies(problem)) {}

  size_t workspace_size(const RotaryAngles::Args&) const override { return 0; }
  BatchInvariance batch_invariant() const override { return BatchInvariance::kFull; }
  int64_t weight_bytes() const override { return 0; }

  void run(const RotaryAngles::Args& args, std::span<std::byte>,
           const Stream& stream) const override {
    const auto half = static_cast<int64_t>(frequencies_.size());
    const auto amplitude = static_cast<float>(problem().amplitude);
    // A cosine and a sine take about as long as 64 bytes from memory.
    const int64_t grain = parallel_grain(args.y.rows, 128 * half);
    stream.threads->parallel_for(args.y.rows, grain, [&](int64_t begin, int64_t end, int) {
      for (int64_t t = begin; t < end; ++t) {
        const int64_t whole = std::max(0, args.positions[t]) / problem().step * problem().step;
        const auto position = static_cast<float>(whole);
        float* out = args.y.row(t);
        for (int64_t i = 0; i < half; ++i) {
          const float angle = position * frequencies_[i];
          out[i] = amplitude * static_cast<float>(std::cos(static_cast<double>(angle)));
          out[half + i] = amplitude * static_cast<float>(std::sin(static_cast<double>(angle)));
        }
      }
    });
  }

 private:
  std::vector<float> frequencies_;
};

}  // namespace

const Implementation<RotaryAngles>& cpu_rotary_angles() {
  static const CpuImplementation<RotaryAngles, CpuRotaryAngles> implementation("cpu");
  return implementation;
}

}  // namespace moe4
