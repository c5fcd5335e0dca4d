// BlockAttention on the CPU: PagedAttention to the keys of a token's blocks, copied to pages of
// their own, in their order, for one kv head at a time.
#include "ops/block_attention/block_attention.h"

#include <algorithm>
#include <cstring>

#include "ops/attention/paged_attention.h"
#include "ops/cpu/implementation.h"
#include "ops/cpu/one_token.h"

namespace moe4 {
namespace {

PagedAttention::Problem plain(const BlockAttention::Problem& p, int64_t num_kv_heads) {
  return {.num_heads = p.num_heads / p.num_kv_heads * num_kv_heads,
          .num_kv_heads = num_kv_heads,
          .head_dim = p.head_dim,
          .scale = p.scale,
          .cache_dtype = p.cache_dtype};
}

class CpuBlockAttention final : public Prepared<BlockAttention> {
 public:
  CpuBlockAttention(const BlockAttention::Problem& problem, const BlockAttention::Weights&,
                    const OpOptions& options)
      : Prepared(problem),
        all_(prepare<PagedAttention>(plain(problem, problem.num_kv_heads), {}, options)),
        of_head_(prepare<PagedAttention>(plain(problem, 1), {}, options)) {}

  BatchInvariance batch_invariant() const override { return all_->batch_invariant(); }
  int64_t weight_bytes() const override { return 0; }
  size_t workspace_size(const BlockAttention::Args& bound) const override {
    Arena arena = Arena::measuring();
    take_buffers(arena, *bound.batch);
    return arena.peak();
  }

  void run(const BlockAttention::Args& args, std::span<std::byte> workspace,
           const Stream& stream) const override {
    Arena arena(workspace);
    const Buffers memory = take_buffers(arena, *args.batch);
    const Batch& batch = *args.batch;
    if (sees_all(batch)) {
      all_->run({.queries = args.queries, .batch = &batch, .cache = args.cache, .y = args.y},
                memory.attention, stream);
      return;
    }
    for (int64_t s = 0; s < batch.num_seqs; ++s) {
      for (int64_t t = batch.query_start[s]; t < batch.query_start[s + 1]; ++t) {
        for (int64_t g = 0; g < problem().num_kv_heads; ++g) attend(args, memory, s, t, g, stream);
      }
    }
  }

 private:
  struct Buffers {
    std::byte* pages;
    int32_t* blocks;  // their numbers: 0, 1, ...
    std::span<std::byte> attention;
  };

  int64_t most_keys() const { return problem().block_size * problem().num_chosen; }
  int64_t page_bytes() const { return cache_unit_bytes(CacheSpec{of_head_->problem().cache()}); }

  Buffers take_buffers(Arena& arena, const Batch& batch) const {
    const int64_t keys = std::min(most_keys(), batch.max_context);
    const int64_t pages = ceil_div(keys, kPageTokens);
    const OneToken one;
    const Batch single = one.batch(keys);
    const size_t size = std::max(all_->workspace_size({.batch = &batch}),
                                 of_head_->workspace_size({.batch = &single}));
    Buffers memory{};
    memory.pages = arena.bytes(static_cast<size_t>(pages * page_bytes()));
    memory.blocks = arena.take<int32_t>(pages);
    memory.attention = {arena.bytes(size), size};
    return memory;
  }

  // Whether no token leaves keys out; its bits are those of attend().
  bool sees_all(const Batch& batch) const {
    const int32_t* end = batch.positions + batch.query_start[batch.num_seqs];
    return std::all_of(batch.positions, end, [&](int32_t p) { return p < most_keys(); });
  }

  void attend(const BlockAttention::Args& args, const Buffers& memory, int64_t s, int64_t t,
              int64_t g, const Stream& stream) const {
    const BlockAttention::Problem& p = problem();
    const int32_t* chosen = args.chosen + (t * p.num_kv_heads + g) * p.num_chosen;
    const int64_t keys = args.batch->positions[t] + int64_t{1};
    const CacheTable& table = args.batch->tables[args.cache.table];
    const int32_t* blocks = table.blocks + s * table.max_blocks;
    const int64_t row_bytes = p.head_dim * size_of(p.cache_dtype);
    const int64_t array_bytes = kPageTokens * row_bytes;  // keys, or values, of a head in a page
    int64_t count = 0;
    // As long as they lie side by side in both.
    const auto copy = [&](int64_t from, int64_t n) {
      const std::byte* page = args.cache.data + blocks[from / kPageTokens] * args.cache.unit_bytes +
                              from % kPageTokens * row_bytes;
      std::byte* to =
          memory.pages + count / kPageTokens * page_bytes() + count % kPageTokens * row_bytes;
      const auto bytes = static_cast<size_t>(n * row_bytes);
      std::memcpy(to, page + g * array_bytes, bytes);
      std::memcpy(to + array_bytes, page + (p.num_kv_heads + g) * array_bytes, bytes);
      count += n;
    };
    for (int64_t i = 0; i < p.num_chosen && chosen[i] >= 0; ++i) {
      const int64_t end = std::min((chosen[i] + int64_t{1}) * p.block_size, keys);
      for (int64_t j = chosen[i] * p.block_size; j < end;) {
        const int64_t n =
            std::min({end - j, kPageTokens - j % kPageTokens, kPageTokens - count % kPageTokens});
        copy(j, n);
        j += n;
      }
    }
    MOE4_CHECK(count > 0);
    const OneToken one(count, memory.blocks);
    const Batch single = one.batch(count);
    const int64_t width = of_head_->problem().num_heads * p.head_dim;
    of_head_->run({.queries = args.queries.slice(t, 1).columns(g * width, width),
                   .batch = &single,
                   .cache = {.data = memory.pages, .unit_bytes = page_bytes()},
                   .y = args.y.slice(t, 1).columns(g * width, width)},
                  memory.attention, stream);
  }

  std::unique_ptr<Prepared<PagedAttention>> all_, of_head_;
};

Support accepts(const BlockAttention::Problem& problem) {
  if (Support no = require_plain_cache(problem.cache_dtype)) return no;
  return require_multiple_of_16("head_dim", problem.head_dim);
}

}  // namespace

const Implementation<BlockAttention>& cpu_block_attention() {
  static const CpuImplementation<BlockAttention, CpuBlockAttention> implementation("cpu", accepts);
  return implementation;
}

}  // namespace moe4
