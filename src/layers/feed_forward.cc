// Dense MLP and mixture of experts.
#include "layers/feed_forward.h"

#include "base/error.h"
#include "layers/observe.h"
#include "ops/experts/run_experts.h"

namespace moe4 {

int64_t DenseMlp::weight_bytes() const {
  return parts_.gate_up->weight_bytes() + parts_.down->weight_bytes();
}

void DenseMlp::forward(const LayerStep& step, const Rows& x, const Rows& y) const {
  Execution& execution = step.execution;
  Arena::Frame frame(execution.arena);
  const int64_t width = parts_.gated->problem().width;
  const bool is_gated = parts_.gated->problem().activation.is_gated();
  const int64_t decodes = step.num_decode_tokens();
  const RowFormat format = execution.activations();
  const Rows up = take_rows(execution.arena, x.rows, width, format);
  const Rows gate = is_gated ? take_rows(execution.arena, x.rows, width, format) : Rows{};
  const Rows gate_up[] = {gate, up};
  run(*parts_.gate_up,
      {.x = x, .y = std::span(gate_up).subspan(is_gated ? 0 : 1), .num_decode_tokens = decodes},
      execution);
  run(*parts_.gated, {.gate = gate, .up = up, .y = up}, execution);
  run(*parts_.down, {.x = up, .y = {&y, 1}, .num_decode_tokens = decodes}, execution);
}

namespace {

constexpr size_t kRouter = 0;  // its place in MoeBlockParts::inputs

}  // namespace

MoeBlock::MoeBlock(MoeBlockParts parts) : parts_(std::move(parts)) {
  size_t next = kRouter + 1;
  if (parts_.shared_down != nullptr) {
    if (parts_.shared_gated->problem().activation.is_gated()) gate_ = next++;
    up_ = next++;
    if (parts_.add_shared->problem().gated) shared_gate_ = next++;
  } else if (router().shared_gate) {
    shared_gate_ = next++;
  }
  if (parts_.from_latent != nullptr) to_latent_ = next++;
  MOE4_CHECK(parts_.inputs->problem().members.size() == next);
  MOE4_CHECK(parts_.router_norm == nullptr || next == kRouter + 1);
}

int64_t MoeBlock::weight_bytes() const {
  const int64_t experts = router().num_experts + router().shared_experts;
  int64_t bytes = parts_.inputs->weight_bytes() +
                  parts_.experts->weight_bytes() / experts * router().num_slots();
  if (parts_.from_latent != nullptr) bytes += parts_.from_latent->weight_bytes();
  if (parts_.shared_down != nullptr) bytes += parts_.shared_down->weight_bytes();
  return bytes;
}

void MoeBlock::route(const Rows& x, int32_t* topk_ids, float* topk_weights,
                     Execution& execution) const {
  if (router().by_token) {
    throw Error(ErrorCode::kUsage, "layer " + std::to_string(parts_.layer) +
                                       " takes a token's experts from its id: give topk_ids and "
                                       "topk_weights beside the hidden states");
  }
  Arena::Frame frame(execution.arena);
  Inputs inputs;
  run_inputs(x, -1, inputs, execution);
  run(*parts_.route, {.logits = inputs.logits, .topk_ids = topk_ids, .topk_weights = topk_weights},
      execution);
}

void MoeBlock::forward(const LayerStep& step, const Rows& x, const Rows& y) const {
  Execution& execution = step.execution;
  Arena& arena = execution.arena;
  Arena::Frame frame(arena);
  auto* ids = arena.take<int32_t>(x.rows * router().num_slots());
  auto* weights = arena.take<float>(x.rows * router().num_slots());
  Inputs inputs;
  const int64_t decodes = step.num_decode_tokens();
  run_inputs(x, decodes, inputs, execution);
  observe(Observer::Point::kRouter, parts_.layer, inputs.members[kRouter], execution);
  run(*parts_.route,
      {.logits = inputs.logits,
       .topk_ids = ids,
       .topk_weights = weights,
       .token_ids = step.batch.token_ids,
       .num_rows = step.batch.query_start + step.batch.num_seqs},
      execution);
  run_experts_on(to_latent_ != 0 ? inputs.members[to_latent_] : x,
                 {.topk_ids = ids, .topk_weights = weights, .num_decode_tokens = decodes}, y,
                 execution);
  if (parts_.shared_down == nullptr) return;
  const Rows& up = inputs.members[up_];
  run(*parts_.shared_gated,
      {.gate = gate_ != 0 ? inputs.members[gate_] : Rows{}, .up = up, .y = up}, execution);
  const Rows shared = take_rows(arena, x.rows, y.width, execution.activations());
  run(*parts_.shared_down, {.x = up, .y = {&shared, 1}, .num_decode_tokens = decodes}, execution);
  run(*parts_.add_shared,
      {.x = shared, .gate = shared_gate_ != 0 ? inputs.members[shared_gate_] : Rows{}, .y = y},
      execution);
}

void MoeBlock::begin_with(std::unique_ptr<Prepared<NormRoute>> norm_route) {
  MOE4_CHECK(parts_.router_norm == nullptr && parts_.shared_down == nullptr && to_latent_ == 0);
  norm_route_ = std::move(norm_route);
}

void MoeBlock::forward_normed(const LayerStep& step, const Prepared<AddNorm>& norm,
                              const AddNorm::Args& args, const Rows& y) const {
  Execution& execution = step.execution;
  // Who looks on sees logits, which NormRoute keeps to itself; memory is for both.
  const bool apart = norm_route_ == nullptr || execution.observer != nullptr;
  if (apart || execution.is_measuring()) FeedForward::forward_normed(step, norm, args, y);
  if (apart) return;
  Arena::Frame frame(execution.arena);
  const int64_t tokens = args.y.rows, decodes = step.num_decode_tokens();
  auto* ids = execution.arena.take<int32_t>(tokens * router().num_slots());
  auto* weights = execution.arena.take<float>(tokens * router().num_slots());
  run(*norm_route_,
      {.residual = args.residual,
       .delta = args.delta,
       .scale = args.scale,
       .y = args.y,
       .topk_ids = ids,
       .topk_weights = weights,
       .num_rows = step.batch.query_start + step.batch.num_seqs,
       .num_decode_tokens = decodes},
      execution);
  run_experts_on(args.y, {.topk_ids = ids, .topk_weights = weights, .num_decode_tokens = decodes},
                 y, execution);
}

void MoeBlock::run_routed(const Rows& x, const Routing& routing, const Rows& y,
                          Execution& execution) const {
  Arena::Frame frame(execution.arena);
  Inputs inputs;
  if (to_latent_ != 0) run_inputs(x, routing.num_decode_tokens, inputs, execution);
  run_experts_on(to_latent_ != 0 ? inputs.members[to_latent_] : x, routing, y, execution);
}

Rows MoeBlock::normed(const Prepared<AddNorm>* norm, const Rows& x, Execution& execution) {
  if (norm == nullptr) return x;
  const Rows y = take_rows(execution.arena, x.rows, x.width, execution.activations());
  run(*norm, {.residual = x, .y = y}, execution);
  return y;
}

void MoeBlock::run_experts_on(const Rows& unnormed, const Routing& routing, const Rows& y,
                              Execution& execution) const {
  Arena::Frame frame(execution.arena);
  const Rows input = normed(parts_.experts_norm.get(), unnormed, execution);
  const Rows sum =
      to_latent_ != 0 ? take_rows(execution.arena, input.rows, input.width, execution.activations())
                      : y;
  run_experts(*parts_.experts,
              {.x = input,
               .topk_ids = routing.topk_ids,
               .topk_weights = routing.topk_weights,
               .y = sum,
               .num_decode_tokens = routing.num_decode_tokens},
              execution);
  if (to_latent_ == 0) return;
  run(*parts_.from_latent, {.x = sum, .y = {&y, 1}, .num_decode_tokens = routing.num_decode_tokens},
      execution);
}

void MoeBlock::run_inputs(const Rows& x, int64_t num_decode_tokens, Inputs& inputs,
                          Execution& execution) const {
  const auto& members = parts_.inputs->problem().members;
  inputs.logits = take_rows(execution.arena, x.rows, router().num_logits(), RowFormat::kF32);
  inputs.members[kRouter] = inputs.logits.columns(0, router().num_experts);
  for (size_t i = kRouter + 1; i < members.size(); ++i) {
    const bool is_gate = i == shared_gate_;
    if (is_gate && router().shared_gate) {
      inputs.members[i] = inputs.logits.columns(router().num_experts, 1);
      continue;
    }
    inputs.members[i] = take_rows(execution.arena, x.rows, members[i].out_features,
                                  is_gate ? RowFormat::kF32 : execution.activations());
  }
  Arena::Frame frame(execution.arena);
  const Rows input = normed(parts_.router_norm.get(), x, execution);
  run(*parts_.inputs,
      {.x = input,
       .y = {inputs.members.data(), members.size()},
       .num_decode_tokens = num_decode_tokens},
      execution);
}

void ParallelMoe::forward(const LayerStep& step, const Rows& x, const Rows& y) const {
  Execution& execution = step.execution;
  Arena::Frame frame(execution.arena);
  const RowFormat format = execution.activations();
  const Rows part = take_rows(execution.arena, x.rows, x.width, format);
  parts_.mlp->forward(step, x, part);
  run(*parts_.mlp_norm, {.residual = part, .y = y}, execution);
  parts_.moe->forward(step, step.residual, part);
  const Rows normed = take_rows(execution.arena, x.rows, x.width, format);
  run(*parts_.moe_norm, {.residual = part, .y = normed}, execution);
  run(*parts_.add, {.x = normed, .y = y}, execution);
}

}  // namespace moe4
