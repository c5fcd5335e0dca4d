// Memory and checks around one layer's experts.
#include "engine/layer_experts.h"

#include <algorithm>
#include <string>

#include "base/error.h"
#include "ops/row_copies.h"

namespace moe4 {

void run_layer_experts(const Model& model, int64_t layer, std::span<const float> x,
                       std::vector<int32_t>& topk_ids, std::vector<float>& topk_weights,
                       std::vector<float>& y) {
  const MoeBlock* moe = model.moe_block(layer);
  if (moe == nullptr) {
    throw Error(ErrorCode::kUsage, "layer " + std::to_string(layer) + " has no routed experts");
  }
  const int64_t width = model.config().hidden_size;
  const auto tokens = static_cast<int64_t>(x.size()) / width;
  if (tokens * width != static_cast<int64_t>(x.size())) {
    throw_bad_input({.what = "wrong shape of x",
                     .expected = "rows of " + std::to_string(width) + " values",
                     .found = std::to_string(x.size()) + " values"});
  }
  const auto pairs = static_cast<size_t>(tokens * moe->top_k());
  const bool routed = !topk_ids.empty();
  if (routed && (topk_ids.size() != pairs || topk_weights.size() != pairs)) {
    throw_bad_input(
        {.what = "wrong shape of topk_ids or topk_weights",
         .expected = std::to_string(tokens) + " rows of " + std::to_string(moe->top_k()),
         .found = std::to_string(topk_ids.size()) + " and " + std::to_string(topk_weights.size()) +
                  " values"});
  }
  topk_ids.resize(pairs);
  topk_weights.resize(pairs);
  y.resize(x.size());
  const Stream& stream = model.stream();
  const auto run = [&](Execution& execution) {
    Arena::Frame frame(execution.arena);
    const Rows in = take_rows(execution.arena, tokens, width, execution.activations());
    const Rows out = take_rows(execution.arena, tokens, width, execution.activations());
    auto* ids = execution.arena.take<int32_t>(static_cast<int64_t>(pairs));
    auto* weights = execution.arena.take<float>(static_cast<int64_t>(pairs));
    const bool runs = !execution.is_measuring();
    if (runs) {
      write_rows(x, in, stream);
      if (routed) {
        copy(stream, ids, topk_ids.data(), pairs * sizeof(int32_t));
        copy(stream, weights, topk_weights.data(), pairs * sizeof(float));
      }
    }
    if (!routed) moe->route(in, ids, weights, execution);
    moe->run_routed(in, {.topk_ids = ids, .topk_weights = weights}, out, execution);
    if (!runs) return;
    read_rows(out, y, stream);
    copy(stream, topk_ids.data(), ids, pairs * sizeof(int32_t));
    copy(stream, topk_weights.data(), weights, pairs * sizeof(float));
    wait(stream);
  };
  moe->experts().reserve(tokens);
  Arena measuring = Arena::measuring();
  Execution count{stream, measuring};
  run(count);
  const DeviceMemory memory(stream.device, measuring.peak() + Arena::kAlignment);
  Arena arena = Arena::within({memory.data(), memory.size()});
  Execution execution{stream, arena};
  run(execution);
}

}  // namespace moe4
