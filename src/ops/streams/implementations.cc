// FillStreams, MixStreams and AddToStreams: what calls must keep to, and who implements them.
#include "ops/streams/streams.h"

namespace moe4 {

void FillStreams::check(const Problem& problem, const Args& args) {
  MOE4_CHECK(args.x.width == problem.width && args.streams.width == problem.all());
  MOE4_CHECK(args.x.rows == args.streams.rows);
}

void MixStreams::check(const Problem& problem, const Args& args) {
  MOE4_CHECK(problem.shape.num_streams > 0 && problem.shape.num_streams <= StreamShape::kMost);
  MOE4_CHECK(args.streams.width == problem.shape.all() && args.x.width == problem.shape.width);
  MOE4_CHECK(args.rows != nullptr || args.x.rows <= args.streams.rows);
  MOE4_CHECK(problem.is_head || (args.coefficients.rows == args.x.rows &&
                                 args.coefficients.width == problem.shape.num_coefficients()));
}

void AddToStreams::check(const Problem& problem, const Args& args) {
  MOE4_CHECK(args.y.width == problem.width && args.streams.width == problem.all());
  MOE4_CHECK(args.coefficients.width == problem.num_coefficients());
  MOE4_CHECK(args.y.rows == args.streams.rows && args.coefficients.rows == args.streams.rows);
}

const Implementation<FillStreams>& cpu_fill_streams();
const Implementation<FillStreams>& cuda_fill_streams();
const Implementation<FillStreams>& reference_fill_streams();
const Implementation<MixStreams>& cpu_mix_streams();
const Implementation<MixStreams>& cuda_mix_streams();
const Implementation<MixStreams>& reference_mix_streams();
const Implementation<AddToStreams>& cpu_add_to_streams();
const Implementation<AddToStreams>& cuda_add_to_streams();
const Implementation<AddToStreams>& reference_add_to_streams();

template <>
std::span<const Implementation<FillStreams>* const> implementations<FillStreams>() {
  static const Implementation<FillStreams>* const list[] = {
      &cpu_fill_streams(), &cuda_fill_streams(), &reference_fill_streams()};
  return list;
}

template <>
std::span<const Implementation<MixStreams>* const> implementations<MixStreams>() {
  static const Implementation<MixStreams>* const list[] = {&cpu_mix_streams(), &cuda_mix_streams(),
                                                           &reference_mix_streams()};
  return list;
}

template <>
std::span<const Implementation<AddToStreams>* const> implementations<AddToStreams>() {
  static const Implementation<AddToStreams>* const list[] = {
      &cpu_add_to_streams(), &cuda_add_to_streams(), &reference_add_to_streams()};
  return list;
}

}  // namespace moe4
