// LatentAttention on NVIDIA GPUs: queries absorb W_k, PagedAttention attends with all heads over
// the one head of latents, W_v turns what comes out into values; of long steps, some heads at a
// time.
#include "ops/latent_attention/latent_attention.h"

#include <algorithm>

#include "numerics/bf16.h"
#include "ops/attention/paged_attention.h"
#include "ops/cuda/implementation.h"
#include "ops/latent_attention/cuda/head_products.h"

namespace moe4 {
namespace {

using namespace cuda;

// Heads that long steps do at a time, and what a step may take to do all at once. Not part of the
// arithmetic.
constexpr int64_t kFewHeads = 16;
constexpr int64_t kMaxBytes = int64_t{512} << 20;

PagedAttention::Problem absorbed(const LatentAttention::Problem& p, int64_t num_heads) {
  return {.num_heads = num_heads,
          .num_kv_heads = 1,
          .head_dim = p.latent_dim + p.rope_dim,
          .latent_dim = p.latent_dim,
          .scale = p.scale,
          .num_chosen = p.num_chosen,
          .cache_dtype = p.cache_dtype};
}

class CudaLatentAttention final : public Prepared<LatentAttention> {
 public:
  CudaLatentAttention(const LatentAttention::Problem& problem,
                      const LatentAttention::Weights& weights, const OpOptions& options)
      : Prepared(problem), dependent_(options.device.sm >= 90) {
    const DeviceGuard guard(options.device.index);
    const PlainMatrix kv_b = decode_kv_b(problem, weights.kv_b);
    const bool is_bf16 = kv_b.dtype == DType::kBF16;
    weight_bytes_ = static_cast<int64_t>(kv_b.data.size());
    const int64_t rows = problem.nope_dim + problem.value_dim;
    const auto at = [&](int64_t row, int64_t column) {
      const std::byte* values = kv_b.row(row);
      return is_bf16 ? to_float(reinterpret_cast<const Bf16*>(values)[column])
                     : reinterpret_cast<const float*>(values)[column];
    };
    const auto heads = static_cast<int>(problem.num_heads);
    const auto latents = static_cast<int>(problem.latent_dim);
    keys_ = pack_head_matrices(
        heads, latents, static_cast<int>(problem.nope_dim), is_bf16, options.threads,
        [&](int head, int latent, int nope) { return at(head * rows + nope, latent); });
    values_ = pack_head_matrices(heads, static_cast<int>(problem.value_dim), latents, is_bf16,
                                 options.threads, [&](int head, int value, int latent) {
                                   return at(head * rows + problem.nope_dim + value, latent);
                                 });
    all_heads_ = prepare<PagedAttention>(absorbed(problem, problem.num_heads), {}, options);
    if (problem.num_heads > kFewHeads && problem.num_heads % kFewHeads == 0) {
      few_heads_ = prepare<PagedAttention>(absorbed(problem, kFewHeads), {}, options);
    }
  }

  BatchInvariance batch_invariant() const override { return all_heads_->batch_invariant(); }
  int64_t weight_bytes() const override { return weight_bytes_; }

  // For a bound and all that is smaller: a shorter step may do all heads at once.
  size_t workspace_size(const LatentAttention::Args& bound) const override {
    const int64_t tokens = bound.batch->num_tokens;
    const int64_t most = std::max<int64_t>(kMaxBytes / bytes_of_token(*all_heads_), 1);
    const size_t all = taken(*all_heads_, *bound.batch, std::min(tokens, most));
    return few_heads_ == nullptr ? taken(*all_heads_, *bound.batch, tokens)
                                 : std::max(all, taken(*few_heads_, *bound.batch, tokens));
  }

  void run(const LatentAttention::Args& args, std::span<std::byte> workspace,
           const Stream& stream) const override {
    const LatentAttention::Problem& p = problem();
    const Batch& batch = *args.batch;
    if (batch.num_tokens == 0 || batch.num_seqs == 0) return;
    MOE4_CHECK(args.angles.format == RowFormat::kF32);
    const auto handle = static_cast<cudaStream_t>(stream.handle);
    const bool few =
        few_heads_ != nullptr && batch.num_tokens * bytes_of_token(*all_heads_) > kMaxBytes;
    const Prepared<PagedAttention>& attention = few ? *few_heads_ : *all_heads_;
    const int64_t heads = attention.problem().num_heads;
    for (int64_t head = 0; head < p.num_heads; head += heads) {
      Arena arena(workspace);
      const Buffers memory = take_buffers(arena, attention, batch, batch.num_tokens);
      multiply_heads(
          keys_,
          {.first_head = static_cast<int>(head),
           .num_heads = static_cast<int>(heads),
           .x = args.q.columns(head * (p.nope_dim + p.rope_dim), heads * (p.nope_dim + p.rope_dim)),
           .x_head_stride = p.nope_dim + p.rope_dim,
           .y = memory.queries,
           .y_head_stride = p.latent_dim + p.rope_dim,
           .rope_dim = static_cast<int>(p.rope_dim),
           .angles = args.angles,
           .positions = batch.positions,
           .temperature = p.temperature},
          handle, dependent_);
      attention.run({.queries = memory.queries,
                     .batch = args.batch,
                     .cache = args.cache,
                     .chosen = args.chosen,
                     .y = memory.contexts},
                    memory.attention, stream);
      multiply_heads(values_,
                     {.first_head = static_cast<int>(head),
                      .num_heads = static_cast<int>(heads),
                      .x = memory.contexts,
                      .x_head_stride = p.latent_dim,
                      .y = args.y.columns(head * p.value_dim, heads * p.value_dim),
                      .y_head_stride = p.value_dim},
                     handle, dependent_);
    }
  }

 private:
  struct Buffers {
    Rows queries;   // [T, heads * (latent + rope)]
    Rows contexts;  // [T, heads * latent]: sums of latents
    std::span<std::byte> attention;
  };

  static Buffers take_buffers(Arena& arena, const Prepared<PagedAttention>& attention,
                              const Batch& batch, int64_t tokens) {
    const PagedAttention::Problem& p = attention.problem();
    Buffers memory{};
    memory.queries = take_rows(arena, tokens, p.num_heads * p.head_dim);
    memory.contexts = take_rows(arena, tokens, p.num_heads * p.latent_dim);
    const size_t size = attention.workspace_size({.batch = &batch});
    memory.attention = {arena.bytes(size), size};
    return memory;
  }
  static size_t taken(const Prepared<PagedAttention>& attention, const Batch& batch,
                      int64_t tokens) {
    Arena arena = Arena::measuring();
    take_buffers(arena, attention, batch, tokens);
    return arena.peak();
  }
  static int64_t bytes_of_token(const Prepared<PagedAttention>& attention) {
    const PagedAttention::Problem& p = attention.problem();
    return p.num_heads * (p.head_dim + p.latent_dim) * int64_t{sizeof(float)};
  }

  HeadMatrices keys_;    // W_k^T: [latent, nope] a head
  HeadMatrices values_;  // W_v: [value, latent] a head
  std::unique_ptr<Prepared<PagedAttention>> all_heads_, few_heads_;
  int64_t weight_bytes_ = 0;
  bool dependent_;
};

}  // namespace

template <>
std::unique_ptr<Prepared<LatentAttention>> prepare_on_cuda<LatentAttention>(
    const LatentAttention::Problem& problem, const LatentAttention::Weights& weights,
    const OpOptions& options) {
  return std::make_unique<CudaLatentAttention>(problem, weights, options);
}

}  // namespace moe4
