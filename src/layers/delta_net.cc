// The gated delta net's composition.
#include "layers/delta_net.h"

namespace moe4 {

DeltaNetMixer::DeltaNetMixer(const DeltaNet::Problem& problem, DeltaNetParts parts,
                             const OpOptions& options)
    : in_proj_(std::move(parts.in_proj)),
      out_proj_(std::move(parts.out_proj)),
      delta_net_(prepare<DeltaNet>(problem, parts.weights, options)) {}

int64_t DeltaNetMixer::weight_bytes() const {
  return in_proj_->weight_bytes() + out_proj_->weight_bytes() + delta_net_->weight_bytes();
}

void DeltaNetMixer::forward(const LayerStep& step, const Rows& x,
                            std::span<const LayerCache> caches, const Rows& y) const {
  Execution& execution = step.execution;
  Arena& arena = execution.arena;
  Arena::Frame frame(arena);
  const DeltaNet::Problem& p = delta_net_->problem();
  const int64_t tokens = x.rows;
  const Rows projected[] = {
      take_rows(arena, tokens, p.channels()), take_rows(arena, tokens, p.values()),
      take_rows(arena, tokens, p.num_value_heads), take_rows(arena, tokens, p.num_value_heads)};
  const Rows merged = take_rows(arena, tokens, p.values());
  run(*in_proj_, {.x = x, .y = projected}, execution);
  run(*delta_net_,
      {.qkv = projected[0],
       .z = projected[1],
       .a = projected[3],
       .b = projected[2],
       .batch = &step.batch,
       .cache = caches.front(),
       .y = merged},
      execution);
  run(*out_proj_, {.x = merged, .y = {&y, 1}}, execution);
}

}  // namespace moe4
