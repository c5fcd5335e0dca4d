// Memory of steps and the making of batches.
#include "engine/runner.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "base/error.h"
#include "base/thread_pool.h"
#include "engine/decode_sizes.h"
#include "engine/finite.h"
#include "ops/sample/take_chosen.h"

namespace moe4 {
namespace {

// Of one row: Sample::Args::masks.
int64_t mask_bytes(int64_t vocab_size) {
  return ceil_div(vocab_size, int64_t{64}) * int64_t{sizeof(uint64_t)};
}

// Tables of a batch: all paged layers share their page numbers, all recurrent ones their slots.
enum : int32_t { kPagedTable, kStateTable, kNumTables };

// Sample chooses around -infinity, which limits put into rows; out of a model it is a broken
// number.
void refuse_minus_infinity(const Rows& logits, SampleStatus* status, ThreadPool& threads) {
  const auto vocab = static_cast<size_t>(logits.width);
  threads.parallel_for(logits.rows, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t r = begin; r < end; ++r) {
      const std::span<const float> row(logits.row(r), vocab);
      if (status[r] == SampleStatus::kChosen && first_not_finite(row))
        status[r] = SampleStatus::kBadLogits;
    }
  });
}

}  // namespace

Runner::BatchLayout Runner::layout_of(const RunnerLimits& limits, int64_t max_blocks) {
  // 64 int32s are 256 bytes, so that every array is aligned as an allocation would be.
  int64_t at = 0;
  const auto place = [&](int64_t count) { return std::exchange(at, round_up(at + count, 64)); };
  const StepLimits& step = limits.step;
  BatchLayout layout{};
  layout.token_ids = place(step.max_tokens);
  layout.positions = place(step.max_tokens);
  layout.slots = place(step.max_tokens);
  layout.query_start = place(step.max_seqs + 1);
  layout.context_len = place(step.max_seqs);
  layout.state = place(step.max_seqs);
  layout.logits_rows = place(step.max_logits);
  layout.blocks = place(step.max_seqs * max_blocks);  // last: most of it is rarely used
  layout.size = at;
  return layout;
}

int64_t Runner::buffer_bytes(const RunnerLimits& limits, int64_t vocab_size) {
  const int64_t rows = limits.step.max_logits;
  const int64_t max_blocks = ceil_div(limits.step.max_context, kPageTokens);
  const int64_t batch = layout_of(limits, max_blocks).size * int64_t{sizeof(int32_t)};
  const int64_t logits = rows * vocab_size * int64_t{sizeof(float)};
  return batch + logits + 2 * rows * int64_t{sizeof(SampleRow)} +
         rows * int64_t{sizeof(int32_t) + sizeof(SampleStatus)} +
         limits.step.max_masked * mask_bytes(vocab_size);
}

Runner::Runner(const Model& model, const RunnerLimits& limits)
    : model_(model),
      limits_(limits),
      max_blocks_(ceil_div(limits.step.max_context, kPageTokens)),
      layout_(layout_of(limits, max_blocks_)) {
  const Device& device = model.stream().device;
  for (const CacheSpec& spec : model.caches()) {
    const bool paged = std::holds_alternative<PagedSpec>(spec);
    const int64_t unit = cache_unit_bytes(spec);
    const int64_t units = paged ? limits.num_pages : limits.num_state_slots;
    const DeviceMemory& pool = pools_.emplace_back(device, static_cast<size_t>(units * unit));
    caches_.push_back(
        {.data = pool.data(), .unit_bytes = unit, .table = paged ? kPagedTable : kStateTable});
  }
  const auto rows = static_cast<size_t>(limits.step.max_logits);
  const size_t choice_bytes = rows * (sizeof(int32_t) + sizeof(SampleStatus));
  const auto masks_bytes =
      static_cast<size_t>(limits.step.max_masked * mask_bytes(model.config().vocab_size));
  sampler_ = prepare<Sample>({.vocab_size = model.config().vocab_size}, {},
                             {.device = device, .threads = model.stream().threads});
  device_samples_ = DeviceMemory(device, 2 * rows * sizeof(SampleRow));
  device_choices_ = DeviceMemory(device, choice_bytes);
  device_masks_ = DeviceMemory(device, masks_bytes);
  model.reserve(limits.step);
  const size_t workspace = std::max(model.workspace_size(limits.step), sampling_workspace());
  // Memory promises 64 bytes, an arena wants more.
  workspace_ = DeviceMemory(device, workspace + Arena::kAlignment);
  const auto batch_bytes = static_cast<size_t>(layout_.size) * sizeof(int32_t);
  const auto logits_bytes =
      static_cast<size_t>(limits.step.max_logits * model.config().vocab_size) * sizeof(float);
  const size_t num_flights = device.is_cpu() ? 1 : 2;
  flights_.reserve(num_flights);
  for (size_t i = 0; i < num_flights; ++i) {
    Flight& flight = flights_.emplace_back(device);
    flight.batch = HostMemory(device, batch_bytes);
    flight.samples = HostMemory(device, rows * sizeof(SampleRow));
    flight.choices = HostMemory(device, choice_bytes);
    flight.masks = HostMemory(device, masks_bytes);
  }
  host_logits_ = HostMemory(device, logits_bytes);
  if (!device.is_cpu()) {
    device_batch_ = DeviceMemory(device, batch_bytes);
    device_logits_ = DeviceMemory(device, logits_bytes);
  }
  const std::byte* data = device.is_cpu() ? flights_[0].batch.data() : device_batch_.data();
  const auto* batch = reinterpret_cast<const int32_t*>(data);
  tables_.resize(kNumTables);
  tables_[kPagedTable] = {
      .blocks = batch + layout_.blocks, .max_blocks = max_blocks_, .slots = batch + layout_.slots};
  tables_[kStateTable] = {.state = batch + layout_.state};
  if (device.is_cpu()) return;
  const StepLimits& step = limits.step;
  decode_sizes_ = decode_sizes(std::min({step.max_seqs, step.max_tokens, step.max_logits}));
  context_sizes_ = context_sizes(limits.step.max_context);
  record_graphs();
}

Runner::~Runner() {
  try {
    wait(model_.stream());
  } catch (...) {  // the error has been told by the step that met it
  }
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
  int32_t* host = host_batch();
  const bool on_cpu = model_.stream().device.is_cpu();
  const int32_t* there = on_cpu ? host : reinterpret_cast<const int32_t*>(device_batch_.data());
  Batch batch{.num_seqs = static_cast<int64_t>(pieces.size()),
              .token_ids = there + layout_.token_ids,
              .positions = there + layout_.positions,
              .query_start = there + layout_.query_start,
              .context_len = there + layout_.context_len,
              .logits_rows = there + layout_.logits_rows,
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
    int32_t* row = host + layout_.blocks + static_cast<int64_t>(s) * max_blocks_;
    for (int64_t b = 0; b < max_blocks_; ++b) {
      row[b] = b < blocks ? piece.pages[b] : -1;
      MOE4_CHECK(row[b] < limits_.num_pages && (b >= blocks || row[b] >= 0));
    }
    for (int64_t t = 0; t < tokens; ++t) {
      const int64_t position = piece.context + t;
      host[layout_.token_ids + first + t] = piece.token_ids[t];
      host[layout_.positions + first + t] = static_cast<int32_t>(position);
      host[layout_.slots + first + t] = static_cast<int32_t>(
          int64_t{row[position / kPageTokens]} * kPageTokens + position % kPageTokens);
    }
    for (int64_t t = tokens - piece.num_logits; t < tokens; ++t) {
      host[layout_.logits_rows + batch.num_logits++] = static_cast<int32_t>(first + t);
    }
    if (piece.is_decode) batch.num_decode_logits = batch.num_logits;
    const auto seq = static_cast<int64_t>(s);
    host[layout_.query_start + seq] = static_cast<int32_t>(first);
    host[layout_.context_len + seq] = static_cast<int32_t>(context);
    host[layout_.state + seq] = piece.state_slot;
    batch.num_tokens += tokens;
    batch.max_query = std::max(batch.max_query, tokens);
    batch.max_context = std::max(batch.max_context, context);
  }
  host[layout_.query_start + batch.num_seqs] = static_cast<int32_t>(batch.num_tokens);
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
  size_t size = 0;
  visit_caches(pages, state_slot, [&](const std::byte*, size_t bytes) { size += bytes; });
  to.resize(size);
  size_t at = 0;
  visit_caches(pages, state_slot, [&](const std::byte* from, size_t bytes) {
    copy(model_.stream(), to.data() + at, from, bytes);
    at += bytes;
  });
  wait(model_.stream());
}

void Runner::restore(std::span<const int32_t> pages, int32_t state_slot,
                     std::span<const std::byte> from) {
  size_t at = 0;
  visit_caches(pages, state_slot, [&](std::byte* to, size_t bytes) {
    MOE4_CHECK(bytes <= from.size() - at);
    copy(model_.stream(), to, from.data() + at, bytes);
    at += bytes;
  });
  MOE4_CHECK(at == from.size());
  wait(model_.stream());
}

void Runner::copy_state(int32_t from, int32_t to) {
  MOE4_CHECK(from >= 0 && from < limits_.num_state_slots);
  MOE4_CHECK(to >= 0 && to < limits_.num_state_slots && to != from);
  for (const LayerCache& cache : caches_) {
    if (cache.table != kStateTable) continue;
    copy(model_.stream(), cache.data + to * cache.unit_bytes, cache.data + from * cache.unit_bytes,
         static_cast<size_t>(cache.unit_bytes));
  }
}

bool Runner::is_plain_decode(std::span<const SequencePiece> pieces) {
  return !pieces.empty() &&
         std::all_of(pieces.begin(), pieces.end(), [](const SequencePiece& piece) {
           return piece.is_decode && piece.token_ids.size() == 1 && piece.num_logits == 1;
         });
}

// Sequences and tokens that are nobody's: nothing is stored for them, no expert computes them.
void Runner::pad_to(int64_t num_seqs, Batch& batch) {
  int32_t* host = host_batch();
  for (int64_t s = batch.num_seqs; s < num_seqs; ++s) {
    host[layout_.token_ids + s] = -1;
    host[layout_.positions + s] = 0;
    host[layout_.slots + s] = -1;
    host[layout_.query_start + s + 1] = host[layout_.query_start + batch.num_seqs];
    host[layout_.context_len + s] = 0;
    host[layout_.state + s] = -1;
    host[layout_.logits_rows + s] = static_cast<int32_t>(s);
    std::fill_n(host + layout_.blocks + s * max_blocks_, max_blocks_, -1);
  }
  batch.num_tokens = batch.num_seqs = batch.num_decodes = num_seqs;
  batch.num_logits = batch.num_decode_logits = num_seqs;
}

const Graph& Runner::graph_for(Batch& batch) {
  const auto size = std::lower_bound(decode_sizes_.begin(), decode_sizes_.end(), batch.num_seqs);
  const auto context =
      std::lower_bound(context_sizes_.begin(), context_sizes_.end(), batch.max_context);
  pad_to(*size, batch);
  return graphs_[static_cast<size_t>((size - decode_sizes_.begin()) *
                                         static_cast<int64_t>(context_sizes_.size()) +
                                     (context - context_sizes_.begin()))];
}

void Runner::record_graphs() {
  const HostMemory& rows = flights_[0].samples;
  std::fill_n(reinterpret_cast<SampleRow*>(rows.data()), limits_.step.max_logits, SampleRow{});
  copy(model_.stream(), device_samples_.data(), rows.data(), rows.size());
  wait(model_.stream());
  for (const int64_t size : decode_sizes_) {
    for (const int64_t context : context_sizes_) {
      Batch batch = make_batch({});
      batch.max_query = batch.query_of_decode = 1;
      pad_to(size, batch);
      batch.max_context = context;
      graphs_.emplace_back(model_.stream(), [&] {
        forward(batch, nullptr);
        choose(sample_args(size, /*greedily=*/true));
      });
    }
  }
}

void Runner::forward(const Batch& batch, Observer* observer) {
  const Stream& stream = model_.stream();
  if (!stream.device.is_cpu()) {
    auto* ids = reinterpret_cast<int32_t*>(device_batch_.data()) + layout_.token_ids;
    take_chosen(ids, batch.num_tokens, reinterpret_cast<const int32_t*>(device_choices_.data()),
                stream);
  }
  Arena arena = Arena::within({workspace_.data(), workspace_.size()});
  Execution execution{stream, arena, observer};
  model_.forward(batch, caches_, logits(batch.num_logits), execution);
}

Rows Runner::logits(int64_t num_rows) const {
  std::byte* data = model_.stream().device.is_cpu() ? host_logits_.data() : device_logits_.data();
  return Rows::dense(reinterpret_cast<float*>(data), num_rows, model_.config().vocab_size);
}

Sample::Args Runner::sample_args(int64_t num_rows, bool greedily) const {
  const int64_t most = limits_.step.max_logits;
  auto* ids = reinterpret_cast<int32_t*>(device_choices_.data());
  const auto* rows = reinterpret_cast<const SampleRow*>(device_samples_.data());
  return {.logits = logits(num_rows),
          .rows = greedily ? rows : rows + most,
          .ids = ids,
          .status = reinterpret_cast<SampleStatus*>(ids + most),
          .any_sampled = !greedily,
          .any_truncated = !greedily};
}

size_t Runner::sampling_workspace() const {
  Sample::Args args = sample_args(limits_.step.max_logits, /*greedily=*/false);
  args.num_edited = limits_.step.max_masked;
  return sampler_->workspace_size(args);
}

void Runner::choose(const Sample::Args& args) {
  Arena arena = Arena::within({workspace_.data(), workspace_.size()});
  Execution execution{model_.stream(), arena};
  moe4::run(*sampler_, args, execution);
}

StepResult Runner::run(std::span<const SequencePiece> pieces, Observer* observer) {
  begin(pieces, observer);
  return finish();
}

void Runner::begin(std::span<const SequencePiece> pieces, Observer* observer) {
  MOE4_CHECK(num_begun_ < static_cast<int64_t>(flights_.size()));
  newest_ = (newest_ + 1) % flights_.size();
  Flight& flight = flights_[newest_];
  Batch batch = make_batch(pieces);
  flight.num_logits = batch.num_logits;
  flight.chose = false;
  const Stream& stream = model_.stream();
  if (stream.device.is_cpu()) {
    forward(batch, observer);
    choose_tokens(pieces, /*chose_greedily=*/false, flight);
    if (flight.chose) {
      refuse_minus_infinity(logits(flight.num_logits), statuses(flight), *stream.threads);
    }
    ++num_begun_;
    return;
  }
  const Graph* graph = nullptr;
  if (observer == nullptr && is_plain_decode(pieces) && batch.num_seqs <= decode_sizes_.back()) {
    graph = &graph_for(batch);
  }
  // All of it up to the used rows of the block table, in one copy.
  const auto used = static_cast<size_t>(layout_.blocks + batch.num_seqs * max_blocks_);
  copy_little(stream, device_batch_.data(), flight.batch.data(), used * sizeof(int32_t));
  if (graph != nullptr) {
    graph->launch(stream);
  } else {
    forward(batch, observer);
  }
  if (!choose_tokens(pieces, graph != nullptr, flight)) {
    copy(stream, host_logits_.data(), device_logits_.data(),
         static_cast<size_t>(flight.num_logits * model_.config().vocab_size) * sizeof(float));
  }
  flight.done.record(stream);
  ++num_begun_;
}

bool Runner::choose_tokens(std::span<const SequencePiece> pieces, bool chose_greedily,
                           Flight& flight) {
  const auto rows = static_cast<size_t>(flight.num_logits);
  const auto most = static_cast<size_t>(limits_.step.max_logits);
  auto* samples = reinterpret_cast<SampleRow*>(flight.samples.data());
  std::fill_n(samples, rows, SampleRow{});
  bool all = true, greedy = true, any_truncated = false;
  const auto row_of_masks = static_cast<size_t>(mask_bytes(model_.config().vocab_size));
  int32_t num_masked = 0;
  size_t row = 0;
  for (const SequencePiece& piece : pieces) {
    if (piece.num_logits == 0) continue;
    row += static_cast<size_t>(piece.num_logits);
    all = all && piece.sample != nullptr && piece.num_logits == 1;
    if (piece.sample == nullptr) continue;
    flight.chose = true;
    SampleRow& sample = samples[row - 1];
    sample = *piece.sample;
    if (!piece.mask.empty()) {
      MOE4_CHECK(num_masked < limits_.step.max_masked && piece.mask.size_bytes() >= row_of_masks);
      std::copy_n(reinterpret_cast<const std::byte*>(piece.mask.data()), row_of_masks,
                  flight.masks.data() + static_cast<size_t>(num_masked) * row_of_masks);
      sample.mask = sample.edited = num_masked++;
    }
    if (piece.sample->scale == 0) continue;
    greedy = false;
    any_truncated = any_truncated || piece.sample->top_k > 0 || piece.sample->top_p < 1.0f;
  }
  if (!flight.chose) return rows == 0;
  const Stream& stream = model_.stream();
  if (!greedy || !chose_greedily || num_masked > 0) {
    copy(stream, device_masks_.data(), flight.masks.data(),
         static_cast<size_t>(num_masked) * row_of_masks);
    copy(stream, device_samples_.data() + most * sizeof(SampleRow), samples,
         rows * sizeof(SampleRow));
    Sample::Args args = sample_args(flight.num_logits, /*greedily=*/false);
    args.any_sampled = !greedy;
    args.any_truncated = any_truncated;
    args.masks = reinterpret_cast<const uint64_t*>(device_masks_.data());
    args.num_edited = num_masked;
    choose(args);
  }
  copy_little(stream, flight.choices.data(), device_choices_.data(),
              (most + rows) * sizeof(int32_t));  // the states lie behind all ids
  return all;
}

StepResult Runner::finish() {
  MOE4_CHECK(num_begun_ > 0);
  const Flight& flight = num_begun_ == 1 ? flights_[newest_] : flights_[1 - newest_];
  --num_begun_;
  flight.done.wait();
  const int64_t vocab = model_.config().vocab_size;
  auto* logits = reinterpret_cast<float*>(host_logits_.data());
  StepResult result{.logits = Rows::dense(logits, flight.num_logits, vocab)};
  if (!flight.chose) return result;
  const auto rows = static_cast<size_t>(flight.num_logits);
  result.ids = {reinterpret_cast<const int32_t*>(flight.choices.data()), rows};
  result.status = {statuses(flight), rows};
  return result;
}

SampleStatus* Runner::statuses(const Flight& flight) const {
  auto* ids = reinterpret_cast<int32_t*>(flight.choices.data());
  return reinterpret_cast<SampleStatus*>(ids + limits_.step.max_logits);
}

std::span<float> Runner::row_without_choice(const StepResult& result, int64_t row) {
  const auto vocab = static_cast<size_t>(model_.config().vocab_size);
  if (model_.stream().device.is_cpu()) return {result.logits.row(row), vocab};
  using Limits = std::numeric_limits<float>;
  const bool is_bad = result.status[static_cast<size_t>(row)] == SampleStatus::kBadLogits;
  failed_row_.assign(vocab, is_bad ? Limits::quiet_NaN() : -Limits::infinity());
  return failed_row_;
}

}  // namespace moe4
