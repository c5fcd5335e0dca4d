// The forward pass that all architectures share.
#include "models/decoder.h"

#include <array>

#include "base/error.h"
#include "layers/observe.h"

namespace moe4 {

Decoder::Decoder(DecoderParts parts, const Device& device, ThreadPool& threads)
    : parts_(std::move(parts)), stream_(device, threads) {
  for (const DecoderLayer& layer : parts_.layers) {
    first_cache_.push_back(caches_.size());
    for (const ResidualBlock& block : layer) {
      has_post_norms_ = has_post_norms_ || block.post_norm != nullptr;
      if (block.mixer == nullptr) continue;
      for (CacheSpec& spec : block.mixer->caches()) caches_.push_back(std::move(spec));
    }
  }
  first_cache_.push_back(caches_.size());
}

void Decoder::reserve(const StepLimits& limits) const {
  for (int64_t layer = 0; layer < static_cast<int64_t>(parts_.layers.size()); ++layer) {
    const MoeBlock* moe = moe_block(layer);
    if (moe != nullptr) moe->experts().reserve(limits.max_tokens);
  }
}

size_t Decoder::workspace_size(const StepLimits& limits) const {
  // A table a kind of cache is enough: only sizes are read.
  const std::array<CacheTable, 1> tables{};
  const Batch bound{.num_tokens = limits.max_tokens,
                    .num_seqs = limits.max_seqs,
                    .num_decodes = std::min(limits.max_seqs, limits.max_tokens),
                    .max_query = limits.max_tokens,
                    .max_context = limits.max_context,
                    .num_logits = limits.max_logits,
                    .tables = tables};
  std::vector<LayerCache> caches;
  for (const CacheSpec& spec : caches_) caches.push_back({nullptr, cache_unit_bytes(spec), 0});
  Rows logits = Rows::dense(nullptr, limits.max_logits, parts_.config.vocab_size);
  Arena arena = Arena::measuring();
  Execution execution{stream(), arena};
  forward(bound, caches, logits, execution);
  return arena.peak();
}

// The residual on its way through a step.
struct Decoder::Flow {
  Rows residual;               // [T, width]; of several streams what a block reads of them
  Rows streams, coefficients;  // of several streams, see MixStreams
  Rows x, delta, normed;       // of one block: its input, what it yields, and the norm of that
  Rows waiting = {};           // the output of the block before, not yet added
  float scale = 1.0f;          // of the residual when it is
};

void Decoder::enter(const ResidualBlock& block, Flow& flow, Execution& execution) const {
  if (!parts_.streams) return;  // the norm adds
  if (!flow.waiting.empty()) {
    run(*parts_.streams->add,
        {.y = flow.waiting, .coefficients = flow.coefficients, .streams = flow.streams}, execution);
    flow.waiting = {};
  }
  run(*block.mix, {.streams = flow.streams, .x = flow.residual, .coefficients = flow.coefficients},
      execution);
}

void Decoder::see_layer(int64_t layer, const Flow& flow, Execution& execution) const {
  observe(Observer::Point::kLayer, layer, parts_.streams ? flow.streams : flow.residual, execution);
}

void Decoder::run_layers(const LayerStep& step, std::span<const LayerCache> caches, Flow& flow,
                         bool observed) const {
  Execution& execution = step.execution;
  for (size_t i = 0; i < parts_.layers.size(); ++i) {
    for (const ResidualBlock& block : parts_.layers[i]) {
      enter(block, flow, execution);
      const AddNorm::Args norm{
          .residual = flow.residual, .delta = flow.waiting, .scale = flow.scale, .y = flow.x};
      if (block.mixer == nullptr && !observed) {
        block.feed_forward->forward_normed(step, *block.norm, norm, flow.delta);
      } else {
        run(*block.norm, norm, execution);
        if (i > 0 && &block == &parts_.layers[i].front()) {
          see_layer(static_cast<int64_t>(i) - 1, flow, execution);
        }
        if (block.mixer != nullptr) {
          const size_t first = first_cache_[i], count = first_cache_[i + 1] - first;
          block.mixer->forward(step, flow.x, caches.subspan(first, count), flow.delta);
        } else {
          block.feed_forward->forward(step, flow.x, flow.delta);
        }
      }
      flow.waiting = flow.delta;
      if (block.post_norm != nullptr) {
        run(*block.post_norm, {.residual = flow.delta, .y = flow.normed}, execution);
        flow.waiting = flow.normed;
      }
      flow.scale = block.scale;
    }
  }
  if (!parts_.streams) return;
  run(*parts_.streams->add,
      {.y = flow.waiting, .coefficients = flow.coefficients, .streams = flow.streams}, execution);
  flow.waiting = {};
}

void Decoder::finish(const Flow& flow, const int32_t* rows, const Rows& y,
                     Execution& execution) const {
  if (!parts_.streams) {
    run(*parts_.final_norm,
        {.residual = flow.residual,
         .delta = flow.waiting,
         .scale = flow.scale,
         .rows = rows,
         .y = y},
        execution);
    return;
  }
  const Rows mixed = flow.residual.slice(0, y.rows);  // which no block reads any more
  run(*parts_.streams->head, {.streams = flow.streams, .rows = rows, .x = mixed}, execution);
  run(*parts_.final_norm, {.residual = mixed, .y = y}, execution);
}

void Decoder::forward(const Batch& batch, std::span<const LayerCache> caches, const Rows& logits,
                      Execution& execution) const {
  MOE4_CHECK(caches.size() == caches_.size());
  MOE4_CHECK(logits.rows == batch.num_logits && logits.width == parts_.config.vocab_size);
  Arena& arena = execution.arena;
  Arena::Frame frame(arena);
  const int64_t tokens = batch.num_tokens, width = parts_.config.hidden_size;
  const RowFormat format = execution.activations();
  Flow flow{.residual = take_rows(arena, tokens, width)};
  flow.delta = take_rows(arena, tokens, width, format);
  flow.x = take_rows(arena, tokens, width, format);
  if (has_post_norms_) flow.normed = take_rows(arena, tokens, width, format);
  if (parts_.streams) {
    const StreamShape& shape = parts_.streams->fill->problem();
    flow.streams = take_rows(arena, tokens, shape.all());
    flow.coefficients = take_rows(arena, tokens, shape.num_coefficients());
  }
  const bool observed = !execution.is_measuring() && execution.observer != nullptr;

  constexpr size_t kMostRotaries = 4;
  MOE4_CHECK(parts_.rotaries.size() <= kMostRotaries);
  std::array<Rows, kMostRotaries> angles;
  for (size_t i = 0; i < parts_.rotaries.size(); ++i) {
    angles[i] = take_rows(arena, tokens, parts_.rotaries[i]->problem().dim);
    run(*parts_.rotaries[i], {.positions = batch.positions, .y = angles[i]}, execution);
  }
  const int64_t chosen = parts_.num_chosen_keys;
  const LayerStep step{batch,
                       {angles.data(), parts_.rotaries.size()},
                       flow.residual,
                       execution,
                       chosen > 0 ? arena.take<int32_t>(tokens * chosen) : nullptr};

  run(*parts_.embed_tokens, {.ids = batch.token_ids, .y = flow.residual}, execution);
  observe(Observer::Point::kEmbedding, -1, flow.residual, execution);
  if (parts_.streams) {
    run(*parts_.streams->fill, {.x = flow.residual, .streams = flow.streams}, execution);
  }
  run_layers(step, caches, flow, observed);

  if (observed) {
    finish(flow, nullptr, flow.x, execution);  // and adds what waits
    flow.waiting = {};
    flow.scale = 1.0f;
    see_layer(static_cast<int64_t>(parts_.layers.size()) - 1, flow, execution);
    observe(Observer::Point::kFinalNorm, -1, flow.x, execution);
  }
  if (batch.num_logits == 0) return;
  const Rows last = take_rows(arena, batch.num_logits, width, format);
  finish(flow, batch.logits_rows, last, execution);
  run(*parts_.lm_head, {.x = last, .y = {&logits, 1}, .num_decode_tokens = batch.num_decode_logits},
      execution);
  if (parts_.soft_cap != nullptr) run(*parts_.soft_cap, {.y = logits}, execution);
}

const MoeBlock* Decoder::moe_block(int64_t layer) const {
  if (layer < 0 || layer >= static_cast<int64_t>(parts_.layers.size())) return nullptr;
  for (const ResidualBlock& block : parts_.layers[layer]) {
    const MoeBlock* moe = block.feed_forward != nullptr ? block.feed_forward->routed() : nullptr;
    if (moe != nullptr) return moe;
  }
  return nullptr;
}

int64_t Decoder::bytes_per_token() const {
  int64_t bytes = parts_.lm_head->weight_bytes();
  for (const DecoderLayer& layer : parts_.layers) {
    for (const ResidualBlock& block : layer) {
      if (block.mix != nullptr) bytes += block.mix->weight_bytes();
      bytes +=
          block.mixer != nullptr ? block.mixer->weight_bytes() : block.feed_forward->weight_bytes();
    }
  }
  return bytes;
}

}  // namespace moe4
