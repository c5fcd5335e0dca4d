// Dense MLP and mixture of experts.
#include "layers/feed_forward.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/error.h"
#include "moe/dequantize.h"

namespace moe4 {
namespace {

// A token whose router logits are NaN has no experts (route_topk): its output is no number, or
// broken weights would pass for a token that needs none.
void poison_unrouted(const int32_t* topk_ids, int64_t top_k, int64_t num_tokens, int64_t width,
                     float* out) {
  for (int64_t t = 0; t < num_tokens; ++t) {
    if (topk_ids[t * top_k] < 0)
      std::fill_n(out + t * width, width, std::numeric_limits<float>::quiet_NaN());
  }
}

// silu(gate) * up into activations ready for down_proj.
Activations gated(LayerContext& context, const float* gate, const float* up, int64_t num_tokens,
                  int64_t width) {
  const Activations act = take_activations(context, num_tokens, width);
  const int64_t padded = padded_row(width);
  const int64_t grain = parallel_grain(num_tokens, 3 * padded * int64_t{sizeof(float)});
  context.threads.parallel_for(num_tokens, grain, [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t) {
      context.kernels.silu_mul(gate + t * padded, up + t * padded, padded, act.row(t));
    }
  });
  return act;
}

int64_t bytes_of(const MlpWeights& weights) {
  return weights.gate_proj.weight_bytes() + weights.up_proj.weight_bytes() +
         weights.down_proj.weight_bytes();
}

}  // namespace

int64_t DenseMlp::weight_bytes() const { return bytes_of(weights_); }

void DenseMlp::forward(LayerContext& context, const Activations& x, int64_t num_tokens,
                       float* out) const {
  Scratch::Frame frame(context.scratch);
  const int64_t width = weights_.gate_proj.out_features();
  const Activations gate = take_activations(context, num_tokens, width);
  const Activations up = take_activations(context, num_tokens, width);
  const LinearCall calls[] = {{&weights_.gate_proj, x.data, x.stride, gate.data, gate.stride},
                              {&weights_.up_proj, x.data, x.stride, up.data, up.stride}};
  apply_linears(context, calls, num_tokens);
  const Activations act = gated(context, gate.data, up.data, num_tokens, width);
  apply_linear(context,
               {&weights_.down_proj, act.data, act.stride, out, weights_.down_proj.out_features()},
               num_tokens);
}

MoeBlock::MoeBlock(MoeBlockParts parts) : parts_(std::move(parts)) {
  parts_.router_config.correction_bias = parts_.correction_bias;
}

int64_t MoeBlock::weight_bytes() const {
  const RouterConfig& router = parts_.router_config;
  int64_t bytes = parts_.router.weight_bytes() +
                  parts_.experts->weight_bytes() / router.num_experts * router.top_k;
  if (parts_.shared) bytes += bytes_of(*parts_.shared);
  if (parts_.shared_gate) bytes += parts_.shared_gate->weight_bytes();
  return bytes;
}

void MoeBlock::select(LayerContext& context, const float* logits, int64_t num_tokens,
                      int32_t* topk_ids, float* topk_weights) const {
  const int64_t experts = parts_.router_config.num_experts, k = top_k();
  context.threads.parallel_for(num_tokens, 16, [&](int64_t begin, int64_t end, int) {
    route_topk(parts_.router_config, logits + begin * experts, end - begin, topk_ids + begin * k,
               topk_weights + begin * k);
  });
}

void MoeBlock::router_logits(LayerContext& context, const Activations& x, int64_t num_tokens,
                             float* logits) const {
  apply_linear(context, {&parts_.router, x.data, x.stride, logits, num_experts()}, num_tokens);
}

void MoeBlock::route(LayerContext& context, const Activations& x, int64_t num_tokens,
                     int32_t* topk_ids, float* topk_weights) const {
  Scratch::Frame frame(context.scratch);
  auto* logits = context.scratch.take<float>(num_tokens * num_experts());
  router_logits(context, x, num_tokens, logits);
  select(context, logits, num_tokens, topk_ids, topk_weights);
}

void MoeBlock::run_experts(LayerContext& context, const Activations& x, int64_t num_tokens,
                           const int32_t* topk_ids, const float* topk_weights, float* y) const {
  Scratch::Frame frame(context.scratch);
  MOE4_CHECK(x.stride == x.width);  // backends take dense rows
  HostExperts& experts = *parts_.experts;
  const size_t size = experts.workspace_size(num_tokens);
  ExpertsArgs args{.num_tokens = num_tokens,
                   .hidden_states = x.data,
                   .hidden_dtype = DType::kF32,
                   .topk_ids = topk_ids,
                   .topk_weights = topk_weights,
                   .output = y,
                   .output_dtype = DType::kF32,
                   .workspace = {context.scratch.bytes(size), size}};
  if (experts.accepts_float32()) {
    experts.run(args);
    return;
  }
  const int64_t values = num_tokens * x.width;
  auto* in = context.scratch.take<Bf16>(values);
  auto* out = context.scratch.take<Bf16>(values);
  context.kernels.to_bf16(x.data, values, in);
  args.hidden_states = in;
  args.output = out;
  args.hidden_dtype = args.output_dtype = DType::kBF16;
  experts.run(args);
  convert_to_float(out, DType::kBF16, values, y);
}

void MoeBlock::forward(LayerContext& context, const Activations& x, int64_t num_tokens,
                       float* out) const {
  Scratch::Frame frame(context.scratch);
  Scratch& scratch = context.scratch;
  const int64_t experts = parts_.router_config.num_experts, hidden = x.width;
  auto* logits = scratch.take<float>(num_tokens * experts);
  auto* ids = scratch.take<int32_t>(num_tokens * top_k());
  auto* weights = scratch.take<float>(num_tokens * top_k());

  LinearCall calls[4] = {{&parts_.router, x.data, x.stride, logits, experts}};
  size_t num_calls = 1;
  Activations gate, up;
  float* shared_gate = nullptr;
  if (parts_.shared) {
    const int64_t width = parts_.shared->gate_proj.out_features();
    gate = take_activations(context, num_tokens, width);
    up = take_activations(context, num_tokens, width);
    calls[num_calls++] = {&parts_.shared->gate_proj, x.data, x.stride, gate.data, gate.stride};
    calls[num_calls++] = {&parts_.shared->up_proj, x.data, x.stride, up.data, up.stride};
  }
  if (parts_.shared_gate) {
    shared_gate = scratch.take<float>(num_tokens);
    calls[num_calls++] = {&*parts_.shared_gate, x.data, x.stride, shared_gate, 1};
  }
  apply_linears(context, {calls, num_calls}, num_tokens);
  select(context, logits, num_tokens, ids, weights);
  run_experts(context, x, num_tokens, ids, weights, out);
  poison_unrouted(ids, top_k(), num_tokens, hidden, out);
  if (!parts_.shared) return;

  const Activations act = gated(context, gate.data, up.data, num_tokens, gate.width);
  auto* shared = scratch.take<float>(num_tokens * hidden);
  apply_linear(context, {&parts_.shared->down_proj, act.data, act.stride, shared, hidden},
               num_tokens);
  const int64_t grain = parallel_grain(num_tokens, 3 * hidden * int64_t{sizeof(float)});
  context.threads.parallel_for(num_tokens, grain, [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t) {
      const float factor =
          shared_gate != nullptr ? 1.0f / (1.0f + std::exp(-shared_gate[t])) : 1.0f;
      context.kernels.axpy(factor, shared + t * hidden, hidden, out + t * hidden);
    }
  });
}

}  // namespace moe4
