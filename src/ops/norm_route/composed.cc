// NormRoute as three ops: for every device, and the judge of kernels that do it at once.
#include "ops/norm_route/composed.h"

#include <algorithm>
#include <array>

namespace moe4 {
namespace {

struct Calls {
  AddNorm::Args norm;
  LinearGroup::Args router;
  Route::Args route;
  std::array<Rows, 2> members;
  size_t logit_bytes = 0;
};

// Of rows from `first` on, with logits in `memory` (null when only sizes matter). `calls` stays in
// place.
void make_calls(const NormRoute::Problem& problem, const NormRoute::Args& args, int64_t first,
                std::byte* memory, Calls& calls) {
  const int64_t rows = args.y.rows - first, slots = problem.route.num_slots();
  const auto rest = [&](const Rows& all) { return all.empty() ? all : all.slice(first, rows); };
  const Rows logits{memory, RowFormat::kF32, rows, problem.route.num_logits(),
                    padded_row(problem.route.num_logits())};
  calls.logit_bytes = static_cast<size_t>(round_up(
      logits.rows * logits.stride * element_bytes(logits.format), int64_t{Arena::kAlignment}));
  calls.norm = {.residual = rest(args.residual),
                .delta = rest(args.delta),
                .scale = args.scale,
                .y = rest(args.y)};
  calls.members = {logits.columns(0, problem.route.num_experts),
                   logits.columns(problem.route.num_experts, 1)};
  calls.router = {
      .x = calls.norm.y,
      .y = {calls.members.data(), problem.router.members.size()},
      .num_decode_tokens = args.num_decode_tokens < 0 ? -1 : args.num_decode_tokens - first};
  calls.route = {
      .logits = logits,
      .topk_ids = args.topk_ids == nullptr ? nullptr : args.topk_ids + first * slots,
      .topk_weights = args.topk_weights == nullptr ? nullptr : args.topk_weights + first * slots,
      .num_rows = args.num_rows,
      .first_row = first};
}

}  // namespace

size_t ComposedNormRoute::workspace_size(const NormRoute::Args& bound) const {
  Calls calls;
  make_calls(problem(), bound, 0, nullptr, calls);
  return calls.logit_bytes + std::max({parts_.norm->workspace_size(calls.norm),
                                       parts_.router->workspace_size(calls.router),
                                       parts_.route->workspace_size(calls.route)});
}

void ComposedNormRoute::run_from(int64_t first, const NormRoute::Args& args,
                                 std::span<std::byte> workspace, const Stream& stream) const {
  if (first == args.y.rows) return;
  Calls calls;
  make_calls(problem(), args, first, workspace.data(), calls);
  const std::span<std::byte> rest = workspace.subspan(calls.logit_bytes);
  parts_.norm->run(calls.norm, rest, stream);
  parts_.router->run(calls.router, rest, stream);
  parts_.route->run(calls.route, rest, stream);
}

BatchInvariance ComposedNormRoute::batch_invariant() const {
  return parts_.router->batch_invariant();  // of the others, a row's bits are its own
}

int64_t ComposedNormRoute::weight_bytes() const {
  return parts_.norm->weight_bytes() + parts_.router->weight_bytes() + parts_.route->weight_bytes();
}

}  // namespace moe4
