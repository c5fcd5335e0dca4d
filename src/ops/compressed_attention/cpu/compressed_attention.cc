// CompressedAttention on the CPU: PagedAttention to the keys that a token sees, copied to pages of
// their own, the window's first. Where there is nothing but a window, all tokens go at once.
#include "ops/compressed_attention/compressed_attention.h"

#include <algorithm>
#include <cstring>

#include "ops/attention/paged_attention.h"
#include "ops/cpu/implementation.h"
#include "ops/cpu/one_token.h"
#include "ops/cpu/parallel.h"

namespace moe4 {
namespace {

PagedAttention::Problem plain(const CompressedAttention::Problem& p) {
  return {.num_heads = p.num_heads,
          .num_kv_heads = 1,
          .head_dim = p.head_dim,
          .latent_dim = p.head_dim,
          .scale = p.scale,
          .window = p.ratio > 0 ? 0 : p.window,
          .sinks = true,
          .cache_dtype = p.cache_dtype};
}

class CpuCompressedAttention final : public Prepared<CompressedAttention> {
 public:
  CpuCompressedAttention(const CompressedAttention::Problem& problem,
                         const CompressedAttention::Weights& weights, const OpOptions& options)
      : Prepared(problem),
        attention_(prepare<PagedAttention>(plain(problem), {.sinks = weights.sinks}, options)) {}

  BatchInvariance batch_invariant() const override { return attention_->batch_invariant(); }
  int64_t weight_bytes() const override { return attention_->weight_bytes(); }
  size_t workspace_size(const CompressedAttention::Args& bound) const override {
    Arena arena = Arena::measuring();
    take_buffers(arena, *bound.batch);
    return arena.peak();
  }

  void run(const CompressedAttention::Args& args, std::span<std::byte> workspace,
           const Stream& stream) const override {
    Arena arena(workspace);
    const Buffers memory = take_buffers(arena, *args.batch);
    const Batch& batch = *args.batch;
    if (problem().ratio == 0) {
      attention_->run({.queries = args.queries, .batch = &batch, .cache = args.cache, .y = args.y},
                      memory.attention, stream);
    } else {
      for (int64_t s = 0; s < batch.num_seqs; ++s) {
        for (int64_t t = batch.query_start[s]; t < batch.query_start[s + 1]; ++t) {
          attend(args, memory, s, t, stream);
        }
      }
    }
    const int64_t tokens = batch.query_start[batch.num_seqs];
    const int64_t bytes = 2 * problem().num_heads * problem().rotary_dim * int64_t{sizeof(float)};
    stream.threads->parallel_for(tokens, parallel_grain(tokens, bytes),
                                 [&](int64_t begin, int64_t end, int) {
                                   for (int64_t t = begin; t < end; ++t) rotate_back(args, t);
                                 });
  }

 private:
  struct Buffers {
    std::byte* pages;
    int32_t* blocks;  // their numbers: 0, 1, ...
    std::span<std::byte> attention;
  };

  int64_t row_bytes() const { return problem().head_dim * size_of(problem().cache_dtype); }
  int64_t page_bytes() const { return kPageTokens * row_bytes(); }

  Buffers take_buffers(Arena& arena, const Batch& batch) const {
    const CompressedAttention::Problem& p = problem();
    Buffers memory{};
    if (p.ratio == 0) {
      const size_t size = attention_->workspace_size({.batch = &batch});
      memory.attention = {arena.bytes(size), size};
      return memory;
    }
    const int64_t entries = batch.max_context / p.ratio;
    const int64_t keys = std::min(p.window, batch.max_context) +
                         (p.num_chosen > 0 ? std::min(p.num_chosen, entries) : entries);
    const int64_t pages = ceil_div(keys, kPageTokens);
    const OneToken one;
    const Batch single = one.batch(keys);
    const size_t size = attention_->workspace_size({.batch = &single});
    memory.pages = arena.bytes(static_cast<size_t>(pages * page_bytes()));
    memory.blocks = arena.take<int32_t>(pages);
    memory.attention = {arena.bytes(size), size};
    return memory;
  }

  void attend(const CompressedAttention::Args& args, const Buffers& memory, int64_t s, int64_t t,
              const Stream& stream) const {
    const CompressedAttention::Problem& p = problem();
    const int64_t position = args.batch->positions[t];
    int64_t count = 0;
    // The key at `place` of a page of the sequence.
    const auto copy = [&](const LayerCache& cache, int64_t page, int64_t place) {
      const CacheTable& table = args.batch->tables[cache.table];
      const std::byte* from =
          cache.data + table.blocks[s * table.max_blocks + page] * cache.unit_bytes;
      std::memcpy(memory.pages + count * row_bytes(), from + place * row_bytes(),
                  static_cast<size_t>(row_bytes()));
      ++count;
    };
    for (int64_t j = std::max<int64_t>(position + 1 - p.window, 0); j <= position; ++j) {
      copy(args.cache, j / kPageTokens, j % kPageTokens);
    }
    const PagedSpec spec = p.entries();
    const int64_t entries = (position + 1) / p.ratio;
    const auto copy_entry = [&](int64_t j) {
      copy(args.entries, spec.page_of(j), j % spec.keys_of_page());
    };
    if (p.num_chosen == 0) {
      for (int64_t j = 0; j < entries; ++j) copy_entry(j);
    } else {
      const int32_t* chosen = args.chosen + t * p.num_chosen;
      for (int64_t i = 0; i < p.num_chosen && chosen[i] >= 0; ++i) copy_entry(chosen[i]);
    }
    const OneToken one(count, memory.blocks);
    const Batch single = one.batch(count);
    attention_->run({.queries = args.queries.slice(t, 1),
                     .batch = &single,
                     .cache = {.data = memory.pages, .unit_bytes = page_bytes()},
                     .y = args.y.slice(t, 1)},
                    memory.attention, stream);
  }

  void rotate_back(const CompressedAttention::Args& args, int64_t t) const {
    const CompressedAttention::Problem& p = problem();
    const float* angles = args.angles.row(t);
    const int64_t half = p.rotary_dim / 2;
    for (int64_t h = 0; h < p.num_heads; ++h) {
      float* x = args.y.row(t) + (h + 1) * p.head_dim - p.rotary_dim;
      for (int64_t i = 0; i < half; ++i) {
        const float cos = angles[i], sin = angles[half + i];
        const float a = x[2 * i], b = x[2 * i + 1];
        x[2 * i] = a * cos + b * sin;
        x[2 * i + 1] = b * cos - a * sin;
      }
    }
  }

  std::unique_ptr<Prepared<PagedAttention>> attention_;
};

Support accepts(const CompressedAttention::Problem& problem) {
  if (Support no = require_plain_cache(problem.cache_dtype)) return no;
  return require_multiple_of_16("head_dim", problem.head_dim);
}

}  // namespace

const Implementation<CompressedAttention>& cpu_compressed_attention() {
  static const CpuImplementation<CompressedAttention, CpuCompressedAttention> implementation(
      "cpu", accepts);
  return implementation;
}

}  // namespace moe4
