// Memory of steps and the making of batches.
#include "engine/runner.h"

#include <algorithm>

#include "base/error.h"

namespace moe4 {
namespace {

// Tables of a batch: all paged layers share their page numbers, all recurrent ones their slots.
enum : int32_t { kPagedTable, kStateTable, kNumTables };

}  // namespace

Runner::Runner(const Model& model, const RunnerLimits& limits)
    : model_(model), limits_(limits), max_blocks_(ceil_div(limits.step.max_context, kPageTokens)) {
  for (const CacheSpec& spec : model.caches()) {
    const bool paged = std::holds_alternative<PagedSpec>(spec);
    const int64_t unit = cache_unit_bytes(spec);
    const int64_t units = paged ? limits.num_pages : limits.num_state_slots;
    AlignedBuffer& pool = pools_.emplace_back(static_cast<size_t>(units * unit));
    caches_.push_back(
        {.data = pool.data(), .unit_bytes = unit, .table = paged ? kPagedTable : kStateTable});
  }
  // AlignedBuffer promises 64 bytes, an arena wants more.
  workspace_ = AlignedBuffer(model.workspace_size(limits.step) + Arena::kAlignment);
  const auto tokens = static_cast<size_t>(limits.step.max_tokens);
  const auto seqs = static_cast<size_t>(limits.step.max_seqs);
  token_ids_.resize(tokens);
  positions_.resize(tokens);
  slots_.resize(tokens);
  query_start_.resize(seqs + 1);
  context_len_.resize(seqs);
  state_.resize(seqs);
  blocks_.resize(seqs * static_cast<size_t>(max_blocks_));
  logits_rows_.resize(static_cast<size_t>(limits.step.max_logits));
  tables_.resize(kNumTables);
  tables_[kPagedTable] = {
      .blocks = blocks_.data(), .max_blocks = max_blocks_, .slots = slots_.data()};
  tables_[kStateTable] = {.state = state_.data()};
}

void Runner::check_ids(std::span<const int32_t> ids, int64_t first) const {
  const int64_t vocab = model_.config().vocab_size;
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] >= 0 && ids[i] < vocab) continue;
    throw_bad_input({.what = "token id outside the vocabulary at position " +
                             std::to_string(first + static_cast<int64_t>(i)),
                     .expected = "0 to " + std::to_string(vocab - 1),
                     .found = std::to_string(ids[i]),
                     .hint = "use ids of this model's own tokenizer"});
  }
}

Batch Runner::make_batch(std::span<const SequencePiece> pieces) {
  MOE4_CHECK(static_cast<int64_t>(pieces.size()) <= limits_.step.max_seqs);
  Batch batch{.num_seqs = static_cast<int64_t>(pieces.size()),
              .token_ids = token_ids_.data(),
              .positions = positions_.data(),
              .query_start = query_start_.data(),
              .context_len = context_len_.data(),
              .logits_rows = logits_rows_.data(),
              .tables = tables_};
  for (size_t s = 0; s < pieces.size(); ++s) {
    const SequencePiece& piece = pieces[s];
    const auto tokens = static_cast<int64_t>(piece.token_ids.size());
    const int64_t context = piece.context + tokens, first = batch.num_tokens;
    const int64_t blocks = ceil_div(context, kPageTokens);
    MOE4_CHECK(first + tokens <= limits_.step.max_tokens && context <= limits_.step.max_context);
    MOE4_CHECK(static_cast<int64_t>(piece.pages.size()) >= blocks);
    MOE4_CHECK(piece.num_logits <= tokens &&
               batch.num_logits + piece.num_logits <= limits_.step.max_logits);
    MOE4_CHECK(piece.state_slot >= 0 && piece.state_slot < limits_.num_state_slots);
    if (piece.is_decode) {
      MOE4_CHECK(batch.num_decodes == static_cast<int64_t>(s));
      MOE4_CHECK(s == 0 || tokens == batch.query_of_decode);
      batch.query_of_decode = tokens;
      ++batch.num_decodes;
    }
    int32_t* row = blocks_.data() + static_cast<int64_t>(s) * max_blocks_;
    for (int64_t b = 0; b < max_blocks_; ++b) {
      row[b] = b < blocks ? piece.pages[b] : -1;
      MOE4_CHECK(row[b] < limits_.num_pages && (b >= blocks || row[b] >= 0));
    }
    for (int64_t t = 0; t < tokens; ++t) {
      const int64_t position = piece.context + t;
      token_ids_[first + t] = piece.token_ids[t];
      positions_[first + t] = static_cast<int32_t>(position);
      slots_[first + t] = static_cast<int32_t>(int64_t{row[position / kPageTokens]} * kPageTokens +
                                               position % kPageTokens);
    }
    for (int64_t t = tokens - piece.num_logits; t < tokens; ++t) {
      logits_rows_[batch.num_logits++] = static_cast<int32_t>(first + t);
    }
    query_start_[s] = static_cast<int32_t>(first);
    context_len_[s] = static_cast<int32_t>(context);
    state_[s] = piece.state_slot;
    batch.num_tokens += tokens;
    batch.max_query = std::max(batch.max_query, tokens);
    batch.max_context = std::max(batch.max_context, context);
  }
  query_start_[pieces.size()] = static_cast<int32_t>(batch.num_tokens);
  return batch;
}

template <typename Visit>
void Runner::visit_caches(std::span<const int32_t> pages, int32_t state_slot,
                          const Visit& visit) const {
  for (const LayerCache& cache : caches_) {
    const auto bytes = static_cast<size_t>(cache.unit_bytes);
    if (cache.table == kStateTable) {
      MOE4_CHECK(state_slot >= 0 && state_slot < limits_.num_state_slots);
      visit(cache.data + state_slot * cache.unit_bytes, bytes);
      continue;
    }
    for (const int32_t page : pages) {
      MOE4_CHECK(page >= 0 && page < limits_.num_pages);
      visit(cache.data + page * cache.unit_bytes, bytes);
    }
  }
}

void Runner::save(std::span<const int32_t> pages, int32_t state_slot,
                  std::vector<std::byte>& to) const {
  to.clear();
  visit_caches(pages, state_slot, [&](const std::byte* from, size_t bytes) {
    to.insert(to.end(), from, from + bytes);
  });
}

void Runner::restore(std::span<const int32_t> pages, int32_t state_slot,
                     std::span<const std::byte> from) {
  size_t at = 0;
  visit_caches(pages, state_slot, [&](std::byte* to, size_t bytes) {
    MOE4_CHECK(bytes <= from.size() - at);
    std::copy_n(from.data() + at, bytes, to);
    at += bytes;
  });
  MOE4_CHECK(at == from.size());
}

void Runner::copy_state(int32_t from, int32_t to) {
  MOE4_CHECK(from >= 0 && from < limits_.num_state_slots);
  MOE4_CHECK(to >= 0 && to < limits_.num_state_slots && to != from);
  for (const LayerCache& cache : caches_) {
    if (cache.table != kStateTable) continue;
    std::copy_n(cache.data + from * cache.unit_bytes, cache.unit_bytes,
                cache.data + to * cache.unit_bytes);
  }
}

void Runner::run(std::span<const SequencePiece> pieces, const Rows& logits, Observer* observer) {
  const Batch batch = make_batch(pieces);
  Arena arena = Arena::within({workspace_.data(), workspace_.size()});
  Execution execution{model_.stream(), arena, observer};
  model_.forward(batch, caches_, logits, execution);
}

}  // namespace moe4
