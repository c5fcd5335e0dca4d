// LatentAttention on the CPU: queries absorb W_k, PagedAttention attends with all heads over the
// one head of latents, W_v turns what comes out into values; some tokens at a time. Where keys are
// chosen, those of a token are copied to pages of their own, in their order.
#include "ops/latent_attention/latent_attention.h"

#include <algorithm>
#include <cstring>

#include "ops/attention/paged_attention.h"
#include "ops/cpu/implementation.h"
#include "ops/cpu/kernels.h"
#include "ops/cpu/one_token.h"
#include "ops/cpu/parallel.h"
#include "ops/cpu/rotate_pairs.h"

namespace moe4 {
namespace {

// Tokens that go through the three parts together: enough to use a head's W_k and W_v often while
// they are in a cache, few enough that the absorbed queries (295 KB a token with 128 heads) stay
// near. Not part of the arithmetic.
constexpr int64_t kTokens = 64;

PagedAttention::Problem absorbed(const LatentAttention::Problem& p) {
  return {.num_heads = p.num_heads,
          .num_kv_heads = 1,
          .head_dim = p.latent_dim + p.rope_dim,
          .latent_dim = p.latent_dim,
          .scale = p.scale,
          .cache_dtype = p.cache_dtype};
}

class CpuLatentAttention final : public Prepared<LatentAttention> {
 public:
  CpuLatentAttention(const LatentAttention::Problem& problem,
                     const LatentAttention::Weights& weights, const OpOptions& options)
      : Prepared(problem),
        kernels_(op_kernels(options.isa)),
        kv_b_(decode_kv_b(problem, weights.kv_b)),
        attention_(prepare<PagedAttention>(absorbed(problem), {}, options)) {}

  BatchInvariance batch_invariant() const override { return attention_->batch_invariant(); }
  int64_t weight_bytes() const override { return static_cast<int64_t>(kv_b_.data.size()); }
  size_t workspace_size(const LatentAttention::Args& bound) const override {
    Arena arena = Arena::measuring();
    take_buffers(arena, *bound.batch);
    return arena.peak();
  }

  void run(const LatentAttention::Args& args, std::span<std::byte> workspace,
           const Stream& stream) const override {
    Arena arena(workspace);
    const Buffers memory = take_buffers(arena, *args.batch);
    // Tokens behind the last sequence are padding.
    const int64_t tokens = args.batch->query_start[args.batch->num_seqs];
    for (int64_t begin = 0; begin < tokens; begin += kTokens) {
      run_tokens(args, memory, begin, std::min(kTokens, tokens - begin), stream);
    }
  }

 private:
  struct Buffers {
    Rows queries;          // [kTokens, heads * (latent + rope)]
    Rows contexts;         // [kTokens, heads * latent]: sums of latents
    int32_t* query_start;  // [S + 1]
    std::span<std::byte> attention;
    // Of chosen keys.
    std::byte* pages;  // [num_chosen / 64 pages]
    int32_t* blocks;   // their numbers: 0, 1, ...
  };

  Buffers take_buffers(Arena& arena, const Batch& batch) const {
    const PagedAttention::Problem& p = attention_->problem();
    const int64_t tokens = std::min(batch.num_tokens, kTokens);
    Batch part = batch;
    part.num_tokens = tokens;
    Buffers memory{};
    memory.queries = take_rows(arena, tokens, p.num_heads * p.head_dim);
    memory.contexts = take_rows(arena, tokens, p.num_heads * p.latent_dim);
    memory.query_start = arena.take<int32_t>(batch.num_seqs + 1);
    const size_t size = attention_->workspace_size({.batch = &part});
    if (problem().num_chosen == 0) {
      memory.attention = {arena.bytes(size), size};
      return memory;
    }
    const OneToken one;
    const Batch single = one.batch(problem().num_chosen);
    const size_t most = std::max(size, attention_->workspace_size({.batch = &single}));
    memory.attention = {arena.bytes(most), most};
    const int64_t pages = ceil_div(problem().num_chosen, kPageTokens);
    memory.pages = arena.bytes(static_cast<size_t>(pages * page_bytes()));
    memory.blocks = arena.take<int32_t>(pages);
    return memory;
  }

  void run_tokens(const LatentAttention::Args& args, const Buffers& memory, int64_t begin,
                  int64_t count, const Stream& stream) const {
    const Rows queries = memory.queries.slice(0, count);
    const Rows contexts = memory.contexts.slice(0, count);
    each_head(count, stream, [&](int64_t head) { absorb(args, begin, head, queries); });

    // The step as these tokens see it: every sequence has the part of it that they are.
    Batch part = *args.batch;
    part.num_tokens = count;
    part.positions += begin;
    part.query_start = memory.query_start;
    for (int64_t s = 0; s <= part.num_seqs; ++s) {
      const int64_t start = args.batch->query_start[s];
      memory.query_start[s] =
          static_cast<int32_t>(std::clamp<int64_t>(start, begin, begin + count) - begin);
    }
    if (sees_all(args, begin, count)) {
      attention_->run({.queries = queries, .batch = &part, .cache = args.cache, .y = contexts},
                      memory.attention, stream);
    } else {
      for (int64_t s = 0; s < part.num_seqs; ++s) {
        for (int64_t t = part.query_start[s]; t < part.query_start[s + 1]; ++t) {
          attend_chosen(args, memory, s, begin, t, stream);
        }
      }
    }

    each_head(count, stream, [&](int64_t head) {
      const LatentAttention::Problem& p = problem();
      kernels_.times_transposed({.matrix = kv_b_.row(first_row(head) + p.nope_dim),
                                 .dtype = kv_b_.dtype,
                                 .rows = p.value_dim,
                                 .columns = p.latent_dim,
                                 .num_tokens = count,
                                 .x = contexts.row(0) + head * p.latent_dim,
                                 .y = args.y.row(begin) + head * p.value_dim,
                                 .x_stride = contexts.stride,
                                 .y_stride = args.y.stride});
    });
  }

  int64_t page_bytes() const { return cache_unit_bytes(CacheSpec{attention_->problem().cache()}); }
  // Whether none of the tokens leaves keys out; its bits are those of attend_chosen().
  bool sees_all(const LatentAttention::Args& args, int64_t begin, int64_t count) const {
    const int64_t most = problem().num_chosen;
    const int32_t* positions = args.batch->positions + begin;
    return most == 0 ||
           std::all_of(positions, positions + count, [&](int32_t p) { return p < most; });
  }

  // Of token `begin + t` of sequence s, row t of the buffers.
  void attend_chosen(const LatentAttention::Args& args, const Buffers& memory, int64_t s,
                     int64_t begin, int64_t t, const Stream& stream) const {
    const int64_t most = problem().num_chosen;
    const int32_t* chosen = args.chosen + (begin + t) * most;
    const int64_t keys = std::find(chosen, chosen + most, -1) - chosen;
    MOE4_CHECK(keys > 0);
    const CacheTable& table = args.batch->tables[args.cache.table];
    const int32_t* blocks = table.blocks + s * table.max_blocks;
    const int64_t row_bytes = attention_->problem().head_dim * size_of(problem().cache_dtype);
    for (int64_t i = 0; i < keys; ++i) {
      const std::byte* page =
          args.cache.data + blocks[chosen[i] / kPageTokens] * args.cache.unit_bytes;
      std::memcpy(memory.pages + i / kPageTokens * page_bytes() + i % kPageTokens * row_bytes,
                  page + chosen[i] % kPageTokens * row_bytes, static_cast<size_t>(row_bytes));
    }
    const OneToken one(keys, memory.blocks);
    const Batch batch = one.batch(keys);
    attention_->run({.queries = memory.queries.slice(t, 1),
                     .batch = &batch,
                     .cache = {.data = memory.pages, .unit_bytes = page_bytes()},
                     .y = memory.contexts.slice(t, 1)},
                    memory.attention, stream);
  }

  void absorb(const LatentAttention::Args& args, int64_t begin, int64_t head,
              const Rows& queries) const {
    const LatentAttention::Problem& p = problem();
    const float* q = args.q.row(begin) + head * (p.nope_dim + p.rope_dim);
    float* out = queries.row(0) + head * (p.latent_dim + p.rope_dim);
    kernels_.times_matrix({.matrix = kv_b_.row(first_row(head)),
                           .dtype = kv_b_.dtype,
                           .rows = p.nope_dim,
                           .columns = p.latent_dim,
                           .num_tokens = queries.rows,
                           .x = q,
                           .y = out,
                           .x_stride = args.q.stride,
                           .y_stride = queries.stride});
    for (int64_t t = 0; t < queries.rows; ++t) {
      float* rope = out + t * queries.stride + p.latent_dim;
      std::copy_n(q + t * args.q.stride + p.nope_dim, p.rope_dim, rope);
      rotate_pairs(args.angles.row(begin + t), p.rope_dim, rope);
      if (p.temperature.is_one()) continue;
      const auto factor = static_cast<float>(p.temperature.at(args.batch->positions[begin + t]));
      float* query = out + t * queries.stride;
      for (int64_t i = 0; i < p.latent_dim + p.rope_dim; ++i) query[i] *= factor;
    }
  }

  template <typename F>
  void each_head(int64_t tokens, const Stream& stream, const F& run) const {
    const LatentAttention::Problem& p = problem();
    const int64_t bytes = p.latent_dim * (p.nope_dim + p.value_dim) / 2 * size_of(kv_b_.dtype) +
                          tokens * p.latent_dim * int64_t{sizeof(float)};
    stream.threads->parallel_for(p.num_heads, parallel_grain(p.num_heads, bytes),
                                 [&](int64_t first, int64_t last, int) {
                                   for (int64_t head = first; head < last; ++head) run(head);
                                 });
  }

  // Of a head's rows in kv_b.
  int64_t first_row(int64_t head) const {
    return head * (problem().nope_dim + problem().value_dim);
  }

  const OpKernels& kernels_;
  PlainMatrix kv_b_;
  std::unique_ptr<Prepared<PagedAttention>> attention_;
};

Support accepts(const LatentAttention::Problem& problem) {
  if (Support no = require_multiple_of_16("kv_lora_rank", problem.latent_dim)) return no;
  return require_multiple_of_16("qk_rope_head_dim", problem.rope_dim);
}

}  // namespace

const Implementation<LatentAttention>& cpu_latent_attention() {
  static const CpuImplementation<LatentAttention, CpuLatentAttention> implementation("cpu",
                                                                                     accepts);
  return implementation;
}

}  // namespace moe4
