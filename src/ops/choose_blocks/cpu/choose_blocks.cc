// ChooseBlocks on the CPU: some tokens at a time have the largest scores of runs of keys side by
// side, made in segments by all threads; then each head of a token takes its blocks.
#include "ops/choose_blocks/choose_blocks.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "ops/cpu/choosing.h"
#include "ops/cpu/implementation.h"

namespace moe4 {
namespace {

using choosing::kSegment, choosing::kTokens, choosing::Tokens;

class CpuChooseBlocks final : public Prepared<ChooseBlocks> {
 public:
  CpuChooseBlocks(const ChooseBlocks::Problem& problem, const ChooseBlocks::Weights&,
                  const OpOptions& options)
      : Prepared(problem),
        kernels_(op_kernels(options.isa)),
        threads_(options.threads != nullptr ? options.threads->size() : 1),
        run_keys_(std::gcd(problem.block_size, kPageTokens)) {}

  BatchInvariance batch_invariant() const override { return BatchInvariance::kFull; }
  int64_t weight_bytes() const override { return 0; }
  size_t workspace_size(const ChooseBlocks::Args& bound) const override {
    Arena arena = Arena::measuring();
    take_buffers(arena, *bound.batch);
    return arena.peak();
  }

  void run(const ChooseBlocks::Args& args, std::span<std::byte> workspace,
           const Stream& stream) const override {
    MOE4_CHECK(stream.threads->size() <= threads_);
    Arena arena(workspace);
    const Buffers memory = take_buffers(arena, *args.batch);
    choosing::for_each_tokens(
        *args.batch, [&](const Tokens& tokens) { run_tokens(args, memory, tokens, stream); });
  }

 private:
  struct Buffers {
    float* largest;  // [kTokens, num_heads, runs]: of run_keys_ keys each
    float* dots;     // [threads, num_heads, kPageTokens]
    float* scores;   // [threads, blocks]
    int32_t* order;  // [threads, blocks]
    int64_t runs = 0, blocks = 0;
  };

  Buffers take_buffers(Arena& arena, const Batch& batch) const {
    const ChooseBlocks::Problem& p = problem();
    Buffers memory{};
    memory.runs = round_up(batch.max_context, kPageTokens) / run_keys_;
    memory.blocks = ceil_div(batch.max_context, p.block_size);
    memory.largest = arena.take<float>(kTokens * p.num_heads * memory.runs);
    memory.dots = arena.take<float>(threads_ * p.num_heads * kPageTokens);
    memory.scores = arena.take<float>(threads_ * memory.blocks);
    memory.order = arena.take<int32_t>(threads_ * memory.blocks);
    return memory;
  }

  void run_tokens(const ChooseBlocks::Args& args, const Buffers& memory, const Tokens& tokens,
                  const Stream& stream) const {
    const ChooseBlocks::Problem& p = problem();
    const int32_t* positions = args.batch->positions + tokens.first;
    const int64_t keys = positions[tokens.count - 1] + int64_t{1};
    // Tokens that attend to all blocks need no scores.
    int64_t begin = 0;
    for (; begin < tokens.count && positions[begin] / p.block_size < p.most; ++begin) {
      int32_t* chosen = args.chosen + (tokens.first + begin) * p.num_heads * p.most;
      for (int64_t i = 0; i < p.num_heads * p.most; ++i) {
        const int64_t block = i % p.most;
        chosen[i] = block <= positions[begin] / p.block_size ? static_cast<int32_t>(block) : -1;
      }
    }
    if (begin == tokens.count) return;
    choosing::for_each_segment(begin, tokens.count, keys, choosing::bytes_of_segment(p), stream,
                               [&](int64_t i, int64_t segment, int thread) {
                                 score(args, memory, tokens, i, segment, thread);
                               });
    const int64_t heads = (tokens.count - begin) * p.num_heads;
    stream.threads->parallel_for(heads, 1, [&](int64_t from, int64_t to, int thread) {
      for (int64_t i = from; i < to; ++i) {
        const int64_t token = begin + i / p.num_heads, head = i % p.num_heads;
        choose(memory.largest + (token * p.num_heads + head) * memory.runs, positions[token],
               memory.scores + thread * memory.blocks, memory.order + thread * memory.blocks,
               args.chosen + ((tokens.first + token) * p.num_heads + head) * p.most);
      }
    });
  }

  // The largest scores of one token for one segment of keys.
  void score(const ChooseBlocks::Args& args, const Buffers& memory, const Tokens& tokens, int64_t i,
             int64_t segment, int thread) const {
    const ChooseBlocks::Problem& p = problem();
    const CacheTable& table = args.batch->tables[args.cache.table];
    const int32_t* blocks = table.blocks + tokens.sequence * table.max_blocks;
    const int64_t t = tokens.first + i, keys = args.batch->positions[t] + int64_t{1};
    float* dots = memory.dots + thread * p.num_heads * kPageTokens;
    const int64_t end = std::min((segment + 1) * kSegment, keys);
    for (int64_t first = segment * kSegment; first < end; first += kPageTokens) {
      const int64_t count = std::min(kPageTokens, end - first);
      const std::byte* page = args.cache.data + blocks[first / kPageTokens] * args.cache.unit_bytes;
      choosing::dots_of_page(kernels_, p, page, count, args.q.row(t), dots);
      for (int64_t a = 0; a < p.num_heads; ++a) {
        float* largest = memory.largest + (i * p.num_heads + a) * memory.runs + first / run_keys_;
        for (int64_t j = 0; j < count; ++j) {
          const float dot = dots[a * kPageTokens + j];
          const float score = std::isnan(dot) ? std::numeric_limits<float>::infinity() : dot;
          float& run = largest[j / run_keys_];
          run = j % run_keys_ == 0 ? score : std::max(run, score);
        }
      }
    }
  }

  // `largest` of one head of the token at `position`.
  void choose(const float* largest, int64_t position, float* scores, int32_t* order,
              int32_t* chosen) const {
    const ChooseBlocks::Problem& p = problem();
    const int64_t runs = position / run_keys_ + 1, of_block = p.block_size / run_keys_;
    const int64_t own = position / p.block_size;
    for (int64_t b = 0; b <= own; ++b) {
      const int64_t end = std::min((b + 1) * of_block, runs);
      scores[b] = b > own - p.local ? std::numeric_limits<float>::infinity()
                                    : *std::max_element(largest + b * of_block, largest + end);
    }
    choosing::take_largest(scores, own + 1, p.most, order, chosen);
  }

  const OpKernels& kernels_;
  int64_t threads_;
  int64_t run_keys_;  // divides blocks and pages
};

Support accepts(const ChooseBlocks::Problem& problem) {
  if (Support no = require_plain_cache(problem.cache_dtype)) return no;
  return require_multiple_of_16("the indexer's head width", problem.dim);
}

}  // namespace

const Implementation<ChooseBlocks>& cpu_choose_blocks() {
  static const CpuImplementation<ChooseBlocks, CpuChooseBlocks> implementation("cpu", accepts);
  return implementation;
}

}  // namespace moe4
