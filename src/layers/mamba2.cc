// The Mamba-2 mixer's composition.
#include "layers/mamba2.h"

namespace moe4 {

int64_t Mamba2::weight_bytes() const {
  return parts_.in_proj->weight_bytes() + parts_.out_proj->weight_bytes() +
         parts_.ssm->weight_bytes();
}

void Mamba2::forward(const LayerStep& step, const Rows& x, std::span<const LayerCache> caches,
                     const Rows& y) const {
  Execution& execution = step.execution;
  Arena& arena = execution.arena;
  Arena::Frame frame(arena);
  const int64_t decodes = step.num_decode_tokens();
  const RowFormat format = execution.activations();
  const Ssm::Problem& p = parts_.ssm->problem();
  const Rows projected = take_rows(arena, x.rows, p.projected(), format);
  const Rows mixed = take_rows(arena, x.rows, p.inner(), format);
  run(*parts_.in_proj, {.x = x, .y = {&projected, 1}, .num_decode_tokens = decodes}, execution);
  run(*parts_.ssm,
      {.z = projected.columns(0, p.inner()),
       .u = projected.columns(p.inner(), p.channels()),
       .dt = projected.columns(p.inner() + p.channels(), p.num_heads),
       .batch = &step.batch,
       .cache = caches.front(),
       .y = mixed},
      execution);
  run(*parts_.out_proj, {.x = mixed, .y = {&y, 1}, .num_decode_tokens = decodes}, execution);
}

}  // namespace moe4
