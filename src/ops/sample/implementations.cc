// Sample: what calls must keep to, and who implements it.
#include <algorithm>
#include <cmath>

#include "ops/sample/sample.h"

namespace moe4 {

double sample_least(float min_p) {
  const double floor = -44;  // weights are integers
  return min_p > 0 ? std::max(floor, std::log2(static_cast<double>(min_p))) : floor;
}

void Sample::check(const Problem& problem, const Args& args) {
  MOE4_CHECK(problem.vocab_size > 0 && problem.vocab_size <= int64_t{1} << 19);
  MOE4_CHECK(args.logits.width == problem.vocab_size && args.logits.format == RowFormat::kF32);
  MOE4_CHECK(args.num_top >= 0 && args.num_top <= kMaxTop && args.num_top <= problem.vocab_size);
  MOE4_CHECK(args.num_top == 0 || args.logits.data == nullptr || args.logprobs != nullptr);
  MOE4_CHECK(args.num_edited >= 0 && args.num_edited <= args.logits.rows);
}

const Implementation<Sample>& cpu_sample();
const Implementation<Sample>& cuda_sample();
const Implementation<Sample>& reference_sample();

template <>
std::span<const Implementation<Sample>* const> implementations<Sample>() {
  static const Implementation<Sample>* const list[] = {&cpu_sample(), &cuda_sample(),
                                                       &reference_sample()};
  return list;
}

}  // namespace moe4
