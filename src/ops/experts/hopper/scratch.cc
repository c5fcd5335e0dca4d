// Sizes of the arrays between the launches of the wgmma path.
#include "base/checked_math.h"
#include "ops/experts/hopper/hopper_kernels.h"

namespace moe4::cuda::hopper {

Scratch take_scratch(Arena& arena, const PackedLayerView& layer, int64_t num_tokens, bool runs) {
  const int64_t pairs = num_tokens * layer.top_k;
  Scratch scratch;
  scratch.hidden_steps = static_cast<int>(ceil_div(layer.hidden_size, kStepK));
  scratch.intermediate_steps = static_cast<int>(ceil_div(layer.intermediate_size, kStepK));
  scratch.positions = round_up(pairs + 7 * layer.num_local_experts, 8);
  const int64_t rows = layer.weight_on_input ? pairs : num_tokens;
  scratch.hidden = arena.take<uint16_t>(rows * scratch.hidden_steps * kStepK);
  scratch.sorted_pairs = arena.take<int32_t>(scratch.positions);
  scratch.positions_of_pairs = arena.take<int32_t>(pairs);
  const int64_t tiles = pairs / max_tile_tokens(TileConfig::k16) + layer.num_local_experts + 1;
  scratch.tiles = arena.take<TokenTile>(tiles);
  scratch.stored_of_tokens = arena.take<int32_t>(tiles);
  scratch.num_tiles = arena.take<int32_t>(1);
  scratch.taken = arena.take<int32_t>(1);
  scratch.stored = arena.take<int32_t>(1);
  scratch.intermediate =
      arena.take<uint16_t>(scratch.positions * scratch.intermediate_steps * kStepK);
  scratch.outputs = arena.take<uint8_t>(
      scratch.positions * (runs ? int64_t{layer.hidden_size} * 4
                                : int64_t{output_blocks(layer.hidden_size)} * kOutputRowBytes));
  return scratch;
}

}  // namespace moe4::cuda::hopper
