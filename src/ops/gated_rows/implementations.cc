// GatedRows, AddScaled and SoftCap: what calls must keep to, and who implements them.
#include "ops/gated_rows/gated_rows.h"

namespace moe4 {

void GatedRows::check(const Problem& problem, const Args& args) {
  MOE4_CHECK(problem.activation.is_gated() || args.gate.empty());
  MOE4_CHECK(args.gate.empty() || args.gate.format == args.up.format);
  const Rows& gate = problem.activation.is_gated() ? args.gate : args.up;
  for (const Rows* rows : {&gate, &args.up, &args.y}) {
    MOE4_CHECK(rows->width == problem.width && rows->rows == args.y.rows);
    MOE4_CHECK(rows->stride >= round_up(problem.width, 16));
  }
}

void AddScaled::check(const Problem& problem, const Args& args) {
  MOE4_CHECK(args.x.width == problem.width && args.y.width == problem.width);
  MOE4_CHECK(args.x.rows == args.y.rows);
  MOE4_CHECK(!problem.gated || (args.gate.width == 1 && args.gate.rows == args.y.rows));
}

void SoftCap::check(const Problem& problem, const Args& args) {
  MOE4_CHECK(problem.cap > 0 && args.y.width == problem.width);
}

const Implementation<GatedRows>& cpu_gated_rows();
const Implementation<GatedRows>& cuda_gated_rows();
const Implementation<GatedRows>& reference_gated_rows();
const Implementation<AddScaled>& cpu_add_scaled();
const Implementation<AddScaled>& cuda_add_scaled();
const Implementation<AddScaled>& reference_add_scaled();
const Implementation<SoftCap>& cpu_soft_cap();
const Implementation<SoftCap>& cuda_soft_cap();
const Implementation<SoftCap>& reference_soft_cap();

template <>
std::span<const Implementation<GatedRows>* const> implementations<GatedRows>() {
  static const Implementation<GatedRows>* const list[] = {&cpu_gated_rows(), &cuda_gated_rows(),
                                                          &reference_gated_rows()};
  return list;
}

template <>
std::span<const Implementation<AddScaled>* const> implementations<AddScaled>() {
  static const Implementation<AddScaled>* const list[] = {&cpu_add_scaled(), &cuda_add_scaled(),
                                                          &reference_add_scaled()};
  return list;
}

template <>
std::span<const Implementation<SoftCap>* const> implementations<SoftCap>() {
  static const Implementation<SoftCap>* const list[] = {&cpu_soft_cap(), &cuda_soft_cap(),
                                                        &reference_soft_cap()};
  return list;
}

}  // namespace moe4
