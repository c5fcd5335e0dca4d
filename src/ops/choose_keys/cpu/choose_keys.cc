// ChooseKeys on the CPU: some tokens at a time have their scores side by side, made in segments of
// keys by all threads; then each token takes its largest.
#include "ops/choose_keys/choose_keys.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "ops/cpu/choosing.h"
#include "ops/cpu/implementation.h"
#include "ops/cpu/rotate_pairs.h"

namespace moe4 {
namespace {

using choosing::kSegment, choosing::kTokens, choosing::Tokens;

class CpuChooseKeys final : public Prepared<ChooseKeys> {
 public:
  CpuChooseKeys(const ChooseKeys::Problem& problem, const ChooseKeys::Weights&,
                const OpOptions& options)
      : Prepared(problem),
        kernels_(op_kernels(options.isa)),
        threads_(options.threads != nullptr ? options.threads->size() : 1) {}

  BatchInvariance batch_invariant() const override { return BatchInvariance::kFull; }
  int64_t weight_bytes() const override { return 0; }
  size_t workspace_size(const ChooseKeys::Args& bound) const override {
    Arena arena = Arena::measuring();
    take_buffers(arena, *bound.batch);
    return arena.peak();
  }

  void run(const ChooseKeys::Args& args, std::span<std::byte> workspace,
           const Stream& stream) const override {
    MOE4_CHECK(stream.threads->size() <= threads_);
    Arena arena(workspace);
    const Buffers memory = take_buffers(arena, *args.batch);
    choosing::for_each_tokens(
        *args.batch, [&](const Tokens& tokens) { run_tokens(args, memory, tokens, stream); });
  }

 private:
  struct Buffers {
    float* scores;   // [kTokens, context]
    float* dots;     // [threads, num_heads, kPageTokens]
    int32_t* order;  // [threads, context]
    int64_t context = 0;
  };

  Buffers take_buffers(Arena& arena, const Batch& batch) const {
    Buffers memory{};
    memory.context = round_up(batch.max_context / problem().ratio, kPageTokens);
    memory.scores = arena.take<float>(kTokens * memory.context);
    memory.dots = arena.take<float>(threads_ * problem().num_heads * kPageTokens);
    memory.order = arena.take<int32_t>(threads_ * memory.context);
    return memory;
  }

  void run_tokens(const ChooseKeys::Args& args, const Buffers& memory, const Tokens& tokens,
                  const Stream& stream) const {
    const ChooseKeys::Problem& p = problem();
    const int32_t* positions = args.batch->positions + tokens.first;
    const int64_t keys = p.num_keys(positions[tokens.count - 1]);
    // Tokens that attend to all keys need no scores.
    int64_t begin = 0;
    for (; begin < tokens.count && p.num_keys(positions[begin]) <= p.most; ++begin) {
      int32_t* chosen = args.chosen + (tokens.first + begin) * p.most;
      const int64_t all = p.num_keys(positions[begin]);
      for (int64_t j = 0; j < p.most; ++j) chosen[j] = j < all ? static_cast<int32_t>(j) : -1;
    }
    if (begin == tokens.count) return;
    for (int64_t i = begin; i < tokens.count; ++i) {
      const int64_t t = tokens.first + i;
      for (int64_t a = 0; a < p.num_heads; ++a) {
        float* head = args.q.row(t) + a * p.dim;
        rotate(p.rotates_pairs, args.angles.row(t), p.rotary_dim,
               p.rotates_end ? head + p.dim - p.rotary_dim : head);
      }
    }
    choosing::for_each_segment(begin, tokens.count, keys, choosing::bytes_of_segment(p), stream,
                               [&](int64_t i, int64_t segment, int thread) {
                                 score(args, memory, tokens, i, segment, thread);
                               });
    stream.threads->parallel_for(
        tokens.count - begin, 1, [&](int64_t from, int64_t to, int thread) {
          for (int64_t i = begin + from; i < begin + to; ++i) {
            choose(memory.scores + i * memory.context, p.num_keys(positions[i]),
                   memory.order + thread * memory.context,
                   args.chosen + (tokens.first + i) * p.most);
          }
        });
  }

  // Scores of one token for one segment of keys.
  void score(const ChooseKeys::Args& args, const Buffers& memory, const Tokens& tokens, int64_t i,
             int64_t segment, int thread) const {
    const ChooseKeys::Problem& p = problem();
    const CacheTable& table = args.batch->tables[args.cache.table];
    const int32_t* blocks = table.blocks + tokens.sequence * table.max_blocks;
    const PagedSpec spec = p.cache();
    const int64_t t = tokens.first + i, keys = p.num_keys(args.batch->positions[t]);
    const int64_t of_page = spec.keys_of_page();
    const float* weights = args.weights.row(t);
    float* dots = memory.dots + thread * p.num_heads * kPageTokens;
    const int64_t end = std::min((segment + 1) * kSegment, keys);
    for (int64_t first = segment * kSegment; first < end; first += of_page) {
      const int64_t count = std::min(of_page, end - first);
      const std::byte* page = args.cache.data + blocks[spec.page_of(first)] * args.cache.unit_bytes;
      choosing::dots_of_page(kernels_, p, page, count, args.q.row(t), dots);
      float* scores = memory.scores + i * memory.context + first;
      std::fill_n(scores, count, 0.0f);
      for (int64_t a = 0; a < p.num_heads; ++a) {
        const float* row = dots + a * kPageTokens;
        for (int64_t j = 0; j < count; ++j) scores[j] += weights[a] * (row[j] <= 0 ? 0.0f : row[j]);
      }
    }
  }

  void choose(float* scores, int64_t keys, int32_t* order, int32_t* chosen) const {
    for (int64_t j = 0; j < keys; ++j) {
      if (std::isnan(scores[j])) scores[j] = std::numeric_limits<float>::infinity();
    }
    choosing::take_largest(scores, keys, problem().most, order, chosen);
  }

  const OpKernels& kernels_;
  int64_t threads_;
};

Support accepts(const ChooseKeys::Problem& problem) {
  if (Support no = require_plain_cache(problem.cache_dtype)) return no;
  return require_multiple_of_16("index_head_dim", problem.dim);
}

}  // namespace

const Implementation<ChooseKeys>& cpu_choose_keys() {
  static const CpuImplementation<ChooseKeys, CpuChooseKeys> implementation("cpu", accepts);
  return implementation;
}

}  // namespace moe4
