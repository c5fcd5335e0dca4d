// Dense MLP and mixture of experts.
#include "layers/feed_forward.h"

#include "base/error.h"
#include "ops/experts/run_experts.h"

namespace moe4 {

int64_t DenseMlp::weight_bytes() const {
  return parts_.gate_up->weight_bytes() + parts_.down->weight_bytes();
}

void DenseMlp::forward(const LayerStep& step, const Rows& x, const Rows& y) const {
  Execution& execution = step.execution;
  Arena::Frame frame(execution.arena);
  const int64_t width = parts_.gated->problem().width;
  const Rows gate_up[] = {take_rows(execution.arena, x.rows, width),
                          take_rows(execution.arena, x.rows, width)};
  run(*parts_.gate_up, {.x = x, .y = gate_up}, execution);
  run(*parts_.gated, {.gate = gate_up[0], .up = gate_up[1], .y = gate_up[0]}, execution);
  run(*parts_.down, {.x = gate_up[0], .y = {&y, 1}}, execution);
}

namespace {

// Places in MoeBlockParts::inputs.
constexpr size_t kRouter = 0, kGate = 1, kUp = 2, kSharedGate = 3, kMostInputs = 4;

}  // namespace

MoeBlock::MoeBlock(MoeBlockParts parts) : parts_(std::move(parts)) {
  const size_t inputs = parts_.inputs->problem().members.size();
  MOE4_CHECK(parts_.shared_down != nullptr ? inputs == kSharedGate || inputs == kMostInputs
                                           : inputs == 1);
}

int64_t MoeBlock::weight_bytes() const {
  const RouterConfig& router = parts_.route->problem();
  int64_t bytes = parts_.inputs->weight_bytes() +
                  parts_.experts->weight_bytes() / router.num_experts * router.top_k;
  if (parts_.shared_down != nullptr) bytes += parts_.shared_down->weight_bytes();
  return bytes;
}

void MoeBlock::route(const Rows& x, int32_t* topk_ids, float* topk_weights,
                     Execution& execution) const {
  Arena::Frame frame(execution.arena);
  Inputs inputs;
  run_inputs(x, inputs, execution);
  run(*parts_.route,
      {.logits = inputs[kRouter], .topk_ids = topk_ids, .topk_weights = topk_weights}, execution);
}

void MoeBlock::forward(const LayerStep& step, const Rows& x, const Rows& y) const {
  Execution& execution = step.execution;
  Arena& arena = execution.arena;
  Arena::Frame frame(arena);
  auto* ids = arena.take<int32_t>(x.rows * top_k());
  auto* weights = arena.take<float>(x.rows * top_k());
  Inputs inputs;
  run_inputs(x, inputs, execution);
  if (execution.observer != nullptr) {
    execution.observer->see(Observer::Point::kRouter, parts_.layer, inputs[kRouter]);
  }
  run(*parts_.route, {.logits = inputs[kRouter], .topk_ids = ids, .topk_weights = weights},
      execution);
  run_experts(*parts_.experts,
              {.x = x,
               .top_k = top_k(),
               .topk_ids = ids,
               .topk_weights = weights,
               .y = y,
               .num_decode_tokens = step.batch.num_decodes * step.batch.query_of_decode,
               .unrouted_is_nan = true},
              execution);
  if (parts_.shared_down == nullptr) return;
  run(*parts_.shared_gated, {.gate = inputs[kGate], .up = inputs[kUp], .y = inputs[kGate]},
      execution);
  const Rows shared = take_rows(arena, x.rows, y.width);
  run(*parts_.shared_down, {.x = inputs[kGate], .y = {&shared, 1}}, execution);
  run(*parts_.add_shared, {.x = shared, .gate = inputs[kSharedGate], .y = y}, execution);
}

void MoeBlock::run_inputs(const Rows& x, Inputs& inputs, Execution& execution) const {
  const auto& members = parts_.inputs->problem().members;
  for (size_t i = 0; i < members.size(); ++i) {
    inputs[i] = take_rows(execution.arena, x.rows, members[i].out_features);
  }
  run(*parts_.inputs, {.x = x, .y = {inputs.data(), members.size()}}, execution);
}

}  // namespace moe4
