// PagedAttention: what calls must keep to, and who implements it.
#include <cmath>

#include "ops/attention/paged_attention.h"

namespace moe4 {

std::vector<float> sink_values(const PagedAttention::Problem& problem,
                               const PagedAttention::Weights& weights) {
  if (!problem.sinks) return {};
  std::vector<float> sinks = float_vector(weights.sinks, problem.num_heads);
  for (const float sink : sinks) {
    if (std::isfinite(sink)) continue;
    throw_bad_input({.what = "attention sink is not a finite number",
                     .tensor = weights.sinks.name,
                     .expected = "finite numbers",
                     .found = std::to_string(sink)});
  }
  return sinks;
}

void PagedAttention::check(const Problem& problem, const Args& args) {
  const int64_t width = problem.num_heads * problem.value_dim(), tokens = args.batch->num_tokens;
  MOE4_CHECK(args.queries.rows == tokens &&
             args.queries.width == problem.num_heads * problem.head_dim);
  MOE4_CHECK(args.y.rows == tokens && args.y.width == width);
  MOE4_CHECK(problem.window >= 0 && problem.chunk >= 0);
  MOE4_CHECK(problem.window == 0 || problem.chunk == 0);
  MOE4_CHECK(problem.num_chosen == 0 || (problem.window == 0 && problem.chunk == 0));
  MOE4_CHECK(problem.block_size >= 0 && (problem.block_size == 0 || problem.num_chosen > 0));
  MOE4_CHECK(problem.value_width >= 0 && problem.value_width <= problem.head_dim);
  MOE4_CHECK(problem.value_width == 0 || problem.latent_dim == 0);
  MOE4_CHECK(problem.output_gate == OutputGate::kNone ||
             (args.gates.rows == tokens && args.gates.width == problem.gate_width()));
  MOE4_CHECK(args.cache.unit_bytes >= cache_unit_bytes(problem.cache()));
}

const Implementation<PagedAttention>& cpu_paged_attention();
const Implementation<PagedAttention>& cuda_paged_attention();
const Implementation<PagedAttention>& reference_paged_attention();

template <>
std::span<const Implementation<PagedAttention>* const> implementations<PagedAttention>() {
  static const Implementation<PagedAttention>* const list[] = {
      &cpu_paged_attention(), &cuda_paged_attention(), &reference_paged_attention()};
  return list;
}

}  // namespace moe4
