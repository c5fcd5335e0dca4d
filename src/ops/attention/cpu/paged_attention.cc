// PagedAttention on the CPU: tiles of queries pass over fixed segments of keys, whose results are
// merged in order; sinks join once, at the end.
#include "ops/attention/paged_attention.h"

#include <algorithm>
#include <cmath>

#include "ops/cpu/implementation.h"
#include "ops/cpu/kernels.h"
#include "ops/cpu/parallel.h"
#include "ops/cpu/recurrent.h"

namespace moe4 {
namespace {

// Keys are attended to in segments of this many, merged in order; long contexts spread their
// segments over threads in decode. Part of the arithmetic: changing it changes the last bits.
constexpr int64_t kSegment = 1024;
static_assert(kSegment % kKeyBlock == 0);
static_assert(kPageTokens == kKeyBlock);

// Queries of one KV head worked on together: two tiles of the widest kernel.
constexpr int64_t kQueryTile = 12;
static_assert(kQueryTile <= kMaxQueries);

// Segments of one tile are worked on by several threads while there are fewer tiles than this for
// each of them.
constexpr int64_t kTilesPerThread = 4;

// Unnormalised attention of some queries over some keys.
struct Partial {
  float* accumulators;  // [kQueryTile, value_dim]
  float* max_score;     // [kQueryTile]
  float* sum;           // [kQueryTile]

  static int64_t floats(int64_t value_dim) { return kQueryTile * (value_dim + 2); }
  static Partial at(float* memory, int64_t value_dim) {
    float* max_score = memory + kQueryTile * value_dim;
    return {memory, max_score, max_score + kQueryTile};
  }
};

// into <- into merged with `next`, whose keys follow.
void merge(const Partial& into, const Partial& next, int64_t num_queries, int64_t value_dim) {
  for (int64_t q = 0; q < num_queries; ++q) {
    if (next.sum[q] == 0.0f) continue;  // sees no key of that segment
    // A window may leave it none of the segments before either: then nothing is there to add to,
    // not even zeros, whose signs could differ.
    if (into.sum[q] == 0.0f) {
      std::copy_n(next.accumulators + q * value_dim, value_dim, into.accumulators + q * value_dim);
      into.sum[q] = next.sum[q];
      into.max_score[q] = next.max_score[q];
      continue;
    }
    const float top = std::max(into.max_score[q], next.max_score[q]);
    const float keep = std::exp(into.max_score[q] - top);
    const float add = std::exp(next.max_score[q] - top);
    float* a = into.accumulators + q * value_dim;
    const float* b = next.accumulators + q * value_dim;
    for (int64_t d = 0; d < value_dim; ++d) a[d] = a[d] * keep + b[d] * add;
    into.sum[q] = into.sum[q] * keep + next.sum[q] * add;
    into.max_score[q] = top;
  }
}

// Some queries of a sequence, of every KV head. Query i of a KV head with `group` heads is head
// i % group of the sequence's token i / group.
struct Tile {
  int32_t sequence;
  int32_t num_queries;
  int64_t first_query;
  int64_t first_segment;  // that its first query sees
  int64_t segments;       // from there to the last that its last query sees
  int64_t partial;        // of its first segment, where segments are spread; for KV head 0
};

class CpuPagedAttention final : public Prepared<PagedAttention> {
 public:
  CpuPagedAttention(const PagedAttention::Problem& problem, const PagedAttention::Weights& weights,
                    const OpOptions& options)
      : Prepared(problem),
        kernels_(op_kernels(options.isa)),
        threads_(options.threads != nullptr ? options.threads->size() : 1),
        group_(problem.num_heads / problem.num_kv_heads),
        sinks_(sink_values(problem, weights)) {}

  BatchInvariance batch_invariant() const override { return BatchInvariance::kFull; }
  int64_t weight_bytes() const override {
    return static_cast<int64_t>(sinks_.size() * sizeof(float));
  }
  size_t workspace_size(const PagedAttention::Args& bound) const override {
    Arena arena = Arena::measuring();
    take_buffers(arena, *bound.batch);
    return arena.peak();
  }
  void run(const PagedAttention::Args& args, std::span<std::byte> workspace,
           const Stream& stream) const override;

 private:
  struct Buffers {
    Tile* tiles;
    float* gathered;  // [threads, kQueryTile, dim]
    float* partials;
  };
  // One call: its arguments, memory and tiles.
  struct Step {
    const PagedAttention::Args& args;
    Buffers memory;
    int64_t num_tiles = 0;
    int64_t num_partials = 0;  // of one KV head, where segments are spread
    int64_t key_bytes = 0;     // that all tiles of one KV head pass over
  };

  Buffers take_buffers(Arena& arena, const Batch& batch) const;
  int64_t most_tiles(const Batch& batch) const;
  void make_tiles(Step& step) const;
  void attend(const Step& step, const Tile& tile, int64_t head, int64_t segment, int thread,
              const Partial& into) const;
  void finish(const Step& step, const Tile& tile, int64_t head, const Partial& total) const;
  // Multiplies a head of a token.
  void apply_gate(const Step& step, int64_t token, int64_t head, float* out) const;
  void run_whole_tiles(const Step& step, const Stream& stream) const;
  void run_spread_segments(const Step& step, const Stream& stream) const;

  int64_t dim() const { return problem().head_dim; }  // of queries and keys
  int64_t value_dim() const { return problem().value_dim(); }
  bool values_are_keys() const { return problem().latent_dim > 0; }
  // The first key that a token at `position` sees.
  int64_t first_key(int64_t position) const { return problem().first_key(position); }
  Partial partial_at(const Step& step, int64_t i) const {
    return Partial::at(step.memory.partials + i * Partial::floats(value_dim()), value_dim());
  }
  // Whether so few tiles of a KV head are spread over threads by segments.
  bool spreads(int64_t tiles) const {
    return problem().num_kv_heads * tiles < kTilesPerThread * threads_;
  }

  const OpKernels& kernels_;
  int64_t threads_, group_;
  std::vector<float> sinks_;  // [num_heads] or empty
};

// Every sequence has one tile that is not full at most.
int64_t CpuPagedAttention::most_tiles(const Batch& batch) const {
  return batch.num_tokens * group_ / kQueryTile + batch.num_seqs;
}

CpuPagedAttention::Buffers CpuPagedAttention::take_buffers(Arena& arena, const Batch& batch) const {
  const int64_t kv_heads = problem().num_kv_heads, tiles = most_tiles(batch);
  // Spread segments want a partial each; the tiles that are spread are few.
  const int64_t few = std::min(tiles, ceil_div(kTilesPerThread * threads_, kv_heads));
  const int64_t spread = kv_heads * few * ceil_div(batch.max_context, kSegment);
  Buffers memory{};
  memory.tiles = arena.take<Tile>(tiles);
  memory.gathered = arena.take<float>(threads_ * kQueryTile * dim());
  memory.partials =
      arena.take<float>(Partial::floats(value_dim()) * std::max(spread, 2 * threads_));
  return memory;
}

void CpuPagedAttention::make_tiles(Step& step) const {
  const Batch& batch = *step.args.batch;
  const int64_t row_bytes = (dim() + value_dim()) * size_of(problem().cache_dtype);
  for (int64_t s = 0; s < batch.num_seqs; ++s) {
    const int64_t first = batch.query_start[s];
    const int64_t queries = (batch.query_start[s + 1] - first) * group_;
    for (int64_t begin = 0; begin < queries; begin += kQueryTile) {
      const int64_t n = std::min(kQueryTile, queries - begin);
      const int64_t end = batch.positions[first + (begin + n - 1) / group_] + int64_t{1};
      const int64_t keys_from = first_key(batch.positions[first + begin / group_]);
      const int64_t first_segment = keys_from / kSegment;
      const int64_t segments = ceil_div(end, kSegment) - first_segment;
      step.memory.tiles[step.num_tiles++] = {.sequence = static_cast<int32_t>(s),
                                             .num_queries = static_cast<int32_t>(n),
                                             .first_query = begin,
                                             .first_segment = first_segment,
                                             .segments = segments,
                                             .partial = step.num_partials};
      step.num_partials += segments;
      // Every query of a tile passes over keys and values.
      step.key_bytes += (end - keys_from) * row_bytes * n;
    }
  }
}

void CpuPagedAttention::attend(const Step& step, const Tile& tile, int64_t head, int64_t segment,
                               int thread, const Partial& into) const {
  const Batch& batch = *step.args.batch;
  const CacheTable& table = batch.tables[step.args.cache.table];
  const int64_t first_token = batch.query_start[tile.sequence] + tile.first_query / group_;
  const int64_t first_member = tile.first_query % group_;
  const int64_t key_bytes = kPageTokens * dim() * size_of(problem().cache_dtype);
  const int64_t value_bytes = kPageTokens * value_dim() * size_of(problem().cache_dtype);
  int64_t positions[kQueryTile] = {}, first_keys[kQueryTile] = {};
  const auto query_at = [&](int64_t i) {
    const int64_t q = first_member + i;
    return step.args.queries.row(first_token + q / group_) + (head * group_ + q % group_) * dim();
  };
  for (int64_t i = 0; i < tile.num_queries; ++i) {
    positions[i] = batch.positions[first_token + (first_member + i) / group_];
    first_keys[i] = first_key(positions[i]);
  }
  // Queries of one token lie side by side; those of several are brought together.
  const float* queries = query_at(0);
  if (first_member + tile.num_queries > group_) {
    float* gathered = step.memory.gathered + thread * kQueryTile * dim();
    for (int64_t i = 0; i < tile.num_queries; ++i) {
      std::copy_n(query_at(i), dim(), gathered + i * dim());
    }
    queries = gathered;
  }
  const int64_t num_keys = positions[tile.num_queries - 1] + 1;
  const int64_t keys_from = first_keys[0] / kKeyBlock * kKeyBlock;
  const int64_t begin = (tile.first_segment + segment) * kSegment;
  kernels_.attend({.queries = queries,
                   .positions = positions,
                   .first_keys = first_keys,
                   .num_queries = tile.num_queries,
                   .pages = step.args.cache.data,
                   .blocks = table.blocks + tile.sequence * table.max_blocks,
                   .page_bytes = step.args.cache.unit_bytes,
                   .key_offset = head * key_bytes,
                   .value_offset = values_are_keys()
                                       ? head * key_bytes
                                       : problem().num_kv_heads * key_bytes + head * value_bytes,
                   .kv_dtype = problem().cache_dtype,
                   .key_dim = dim(),
                   .value_dim = value_dim(),
                   .value_stride = values_are_keys() ? dim() : value_dim(),
                   .scale = problem().scale,
                   .key_begin = std::max(begin, keys_from),
                   .key_end = std::min(begin + kSegment, num_keys),
                   .accumulators = into.accumulators,
                   .max_score = into.max_score,
                   .sum = into.sum});
}

// Divides by the sum, of which a sink is part, applies the gate and stores the heads.
void CpuPagedAttention::finish(const Step& step, const Tile& tile, int64_t head,
                               const Partial& total) const {
  const int64_t first = step.args.batch->query_start[tile.sequence];
  for (int64_t i = 0; i < tile.num_queries; ++i) {
    const int64_t q = tile.first_query + i;
    const int64_t t = first + q / group_, h = head * group_ + q % group_;
    float* out = step.args.y.row(t) + h * value_dim();
    const float* from = total.accumulators + i * value_dim();
    float inverse = 1.0f / total.sum[i];
    if (!sinks_.empty()) {
      const float top = std::max(total.max_score[i], sinks_[h]);
      const float keys = std::exp(total.max_score[i] - top);
      inverse = keys / (total.sum[i] * keys + std::exp(sinks_[h] - top));
    }
    if (problem().value_scale != 1.0f) inverse *= problem().value_scale;
    for (int64_t d = 0; d < value_dim(); ++d) out[d] = from[d] * inverse;
    apply_gate(step, t, h, out);
  }
}

void CpuPagedAttention::apply_gate(const Step& step, int64_t token, int64_t head,
                                   float* out) const {
  if (problem().output_gate == OutputGate::kNone) return;
  const float* gates = step.args.gates.row(token);
  switch (problem().output_gate) {
    case OutputGate::kSigmoidBesideQuery:
      kernels_.sigmoid_mul(out, gates + (2 * head + 1) * value_dim(), value_dim());
      break;
    case OutputGate::kSigmoidPerHead:
    case OutputGate::kSoftplusPerHead: {
      const bool is_sigmoid = problem().output_gate == OutputGate::kSigmoidPerHead;
      const float factor =
          is_sigmoid ? 1.0f / (1.0f + std::exp(-gates[head])) : softplus(gates[head]);
      for (int64_t d = 0; d < value_dim(); ++d) out[d] *= factor;
      break;
    }
    case OutputGate::kSoftplusPerElement:
      for (int64_t d = 0; d < value_dim(); ++d) out[d] *= softplus(gates[head * value_dim() + d]);
      break;
    case OutputGate::kNone:
      break;
  }
}

void CpuPagedAttention::run_whole_tiles(const Step& step, const Stream& stream) const {
  const int64_t items = problem().num_kv_heads * step.num_tiles;
  const int64_t grain = parallel_grain(items, step.key_bytes / step.num_tiles);
  stream.threads->parallel_for(items, grain, [&](int64_t begin, int64_t end, int thread) {
    const Partial total = partial_at(step, int64_t{2} * thread);
    const Partial next = partial_at(step, int64_t{2} * thread + 1);
    for (int64_t i = begin; i < end; ++i) {
      const int64_t head = i / step.num_tiles;
      const Tile& tile = step.memory.tiles[i % step.num_tiles];
      attend(step, tile, head, 0, thread, total);
      for (int64_t s = 1; s < tile.segments; ++s) {
        attend(step, tile, head, s, thread, next);
        merge(total, next, tile.num_queries, value_dim());
      }
      finish(step, tile, head, total);
    }
  });
}

void CpuPagedAttention::run_spread_segments(const Step& step, const Stream& stream) const {
  const int64_t items = problem().num_kv_heads * step.num_partials;
  stream.threads->parallel_for(items, 1, [&](int64_t begin, int64_t end, int thread) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t of_head = i % step.num_partials;
      const Tile* tile = step.memory.tiles + step.num_tiles - 1;
      while (tile->partial > of_head) --tile;  // few tiles, else they would not be spread
      attend(step, *tile, i / step.num_partials, of_head - tile->partial, thread,
             partial_at(step, i));
    }
  });
  for (int64_t head = 0; head < problem().num_kv_heads; ++head) {
    for (int64_t i = 0; i < step.num_tiles; ++i) {
      const Tile& tile = step.memory.tiles[i];
      const int64_t first = head * step.num_partials + tile.partial;
      const Partial total = partial_at(step, first);
      for (int64_t s = 1; s < tile.segments; ++s) {
        merge(total, partial_at(step, first + s), tile.num_queries, value_dim());
      }
      finish(step, tile, head, total);
    }
  }
}

void CpuPagedAttention::run(const PagedAttention::Args& args, std::span<std::byte> workspace,
                            const Stream& stream) const {
  MOE4_CHECK(stream.threads->size() <= threads_);
  Arena arena(workspace);
  Step step{.args = args, .memory = take_buffers(arena, *args.batch)};
  make_tiles(step);
  if (step.num_tiles == 0) return;
  if (step.num_partials > step.num_tiles && spreads(step.num_tiles)) {
    run_spread_segments(step, stream);
  } else {
    run_whole_tiles(step, stream);
  }
}

Support accepts(const PagedAttention::Problem& problem) {
  if (problem.num_chosen > 0) {
    return Rejection{Rejection::Kind::kShape, "it attends to keys that follow each other"};
  }
  if (Support no = require_plain_cache(problem.cache_dtype)) return no;
  if (Support no = require_multiple_of_16("head_dim", problem.head_dim)) return no;
  return require_multiple_of_16("latent_dim", problem.value_dim());
}

}  // namespace

const Implementation<PagedAttention>& cpu_paged_attention() {
  static const CpuImplementation<PagedAttention, CpuPagedAttention> implementation("cpu", accepts);
  return implementation;
}

}  // namespace moe4
