// Memory and checks around one layer's experts.
#include "engine/layer_experts.h"

#include <algorithm>
#include <string>

#include "base/aligned_buffer.h"
#include "base/error.h"

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
  const auto run = [&](Execution& execution) {
    Arena::Frame frame(execution.arena);
    const Rows in = take_rows(execution.arena, tokens, width);
    if (!execution.is_measuring()) std::copy(x.begin(), x.end(), in.row(0));
    if (!routed) moe->route(in, topk_ids.data(), topk_weights.data(), execution);
    moe->run_routed(in, {topk_ids.data(), topk_weights.data()},
                    Rows::dense(y.data(), tokens, width), execution);
  };
  Arena measuring = Arena::measuring();
  Execution count{model.stream(), measuring};
  run(count);
  AlignedBuffer memory(measuring.peak() + Arena::kAlignment);
  Arena arena = Arena::within({memory.data(), memory.size()});
  Execution execution{model.stream(), arena};
  run(execution);
}

}  // namespace moe4
