// Memory and checks around one layer's experts.
#include "engine/layer_experts.h"

#include <algorithm>
#include <string>

#include "base/error.h"
#include "ops/row_copies.h"

namespace moe4 {
namespace {

// Of rows with `from` values each the first ones into rows of `to`; what `from` lacks stays.
template <typename T>
void copy_slots(const std::vector<T>& rows, int64_t from, std::vector<T>& into, int64_t to) {
  const auto count = static_cast<int64_t>(rows.size()) / from;
  for (int64_t t = 0; t < count; ++t) {
    std::copy_n(rows.begin() + t * from, std::min(from, to), into.begin() + t * to);
  }
}

}  // namespace

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
  const int64_t top_k = moe->router().top_k, slots = moe->router().num_slots();
  const auto pairs = static_cast<size_t>(tokens * top_k);
  const bool routed = !topk_ids.empty();
  if (routed && (topk_ids.size() != pairs || topk_weights.size() != pairs)) {
    throw_bad_input({.what = "wrong shape of topk_ids or topk_weights",
                     .expected = std::to_string(tokens) + " rows of " + std::to_string(top_k),
                     .found = std::to_string(topk_ids.size()) + " and " +
                              std::to_string(topk_weights.size()) + " values"});
  }
  topk_ids.resize(pairs);
  topk_weights.resize(pairs);
  // Slots of shared experts stay empty.
  std::vector<int32_t> slot_ids(static_cast<size_t>(tokens * slots), -1);
  std::vector<float> slot_weights(slot_ids.size());
  y.resize(x.size());
  const Stream& stream = model.stream();
  const auto run = [&](Execution& execution) {
    Arena::Frame frame(execution.arena);
    const Rows in = take_rows(execution.arena, tokens, width, execution.activations());
    const Rows out = take_rows(execution.arena, tokens, width, execution.activations());
    auto* ids = execution.arena.take<int32_t>(tokens * slots);
    auto* weights = execution.arena.take<float>(tokens * slots);
    const bool runs = !execution.is_measuring();
    if (runs) write_rows(x, in, stream);
    if (!routed) moe->route(in, ids, weights, execution);
    if (runs) {
      if (!routed) {
        std::vector<int32_t> all_ids(slot_ids.size());
        std::vector<float> all_weights(slot_ids.size());
        copy(stream, all_ids.data(), ids, all_ids.size() * sizeof(int32_t));
        copy(stream, all_weights.data(), weights, all_weights.size() * sizeof(float));
        wait(stream);
        copy_slots(all_ids, slots, topk_ids, top_k);
        copy_slots(all_weights, slots, topk_weights, top_k);
      }
      copy_slots(topk_ids, top_k, slot_ids, slots);
      for (int32_t& id : slot_ids) {
        if (id >= moe->router().num_experts) id = -1;  // no shared expert
      }
      copy_slots(topk_weights, top_k, slot_weights, slots);
      copy(stream, ids, slot_ids.data(), slot_ids.size() * sizeof(int32_t));
      copy(stream, weights, slot_weights.data(), slot_weights.size() * sizeof(float));
    }
    moe->run_routed(in, {.topk_ids = ids, .topk_weights = weights}, out, execution);
    if (!runs) return;
    read_rows(out, y, stream);
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
