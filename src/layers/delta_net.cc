// The gated delta net's composition.
#include "layers/delta_net.h"

namespace moe4 {

int64_t DeltaNetMixer::weight_bytes() const {
  return parts_.in_proj->weight_bytes() + parts_.out_proj->weight_bytes() +
         parts_.delta_net->weight_bytes();
}

void DeltaNetMixer::forward(const LayerStep& step, const Rows& x,
                            std::span<const LayerCache> caches, const Rows& y) const {
  Execution& execution = step.execution;
  Arena& arena = execution.arena;
  Arena::Frame frame(arena);
  const DeltaNet::Problem& p = parts_.delta_net->problem();
  const int64_t tokens = x.rows, decodes = step.num_decode_tokens();
  const RowFormat format = execution.activations();
  const Rows projected[] = {
      take_rows(arena, tokens, p.channels(), format), take_rows(arena, tokens, p.values(), format),
      take_rows(arena, tokens, p.num_value_heads), take_rows(arena, tokens, p.num_value_heads)};
  const Rows merged = take_rows(arena, tokens, p.values(), format);
  run(*parts_.in_proj, {.x = x, .y = projected, .num_decode_tokens = decodes}, execution);
  run(*parts_.delta_net,
      {.qkv = projected[0],
       .z = projected[1],
       .a = projected[3],
       .b = projected[2],
       .batch = &step.batch,
       .cache = caches.front(),
       .y = merged},
      execution);
  run(*parts_.out_proj, {.x = merged, .y = {&y, 1}, .num_decode_tokens = decodes}, execution);
}

}  // namespace moe4
