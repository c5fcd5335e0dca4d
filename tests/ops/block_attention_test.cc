// ChooseBlocks and BlockAttention over ragged batches: attention to blocks that an indexer chooses.
#include "ops/block_attention/block_attention.h"

#include <gtest/gtest.h>

#include "numerics/f16.h"
#include "ops/attention/paged_attention.h"
#include "ops/choose_blocks/choose_blocks.h"
#include "ops/conformance.h"

namespace moe4 {
namespace {

using namespace moe4::testing;

// Decodes first, one of them far past a segment of 1024 keys; an empty sequence; prompts that end
// inside a page and on its edge.
const std::vector<Piece> kPieces = {{5, 1},  {2100, 1}, {63, 1},  {64, 1},  {70, 0},
                                    {0, 65}, {64, 64},  {128, 3}, {1020, 9}};

// Random rows of a sequence's positions in pages whose other places hold NaN.
class Pages {
 public:
  Pages(const PagedSpec& spec, const RaggedBatch& ragged, const std::vector<Piece>& pieces)
      : spec_(spec), ragged_(ragged) {
    cache.unit_bytes = cache_unit_bytes(spec);
    memory_.assign(ragged.num_pages * cache.unit_bytes / 4 + 16, NAN);
    cache.data = reinterpret_cast<std::byte*>(memory_.data());
    for (size_t s = 0; s < pieces.size(); ++s) {
      for (int64_t j = 0; j < pieces[s].context + pieces[s].tokens; ++j) {
        for (int64_t array = 0; array < arrays(); ++array) {
          Random random(s * 7919 + j * 31 + array * 1000003 + 5);
          for (int64_t d = 0; d < spec.key_dim; ++d) {
            set(static_cast<int64_t>(s), j, array, d, random.normal());
          }
        }
      }
    }
  }

  void set(int64_t s, int64_t position, int64_t array, int64_t d, float x) {
    const int64_t block =
        ragged_.table.blocks[s * ragged_.table.max_blocks + position / kPageTokens];
    std::byte* page = cache.data + block * cache.unit_bytes;
    const int64_t i = (array * kPageTokens + position % kPageTokens) * spec_.key_dim + d;
    if (spec_.dtype == DType::kF16) {
      reinterpret_cast<F16*>(page)[i] = to_f16(x);
    } else {
      reinterpret_cast<float*>(page)[i] = x;
    }
  }

  LayerCache cache;

 private:
  int64_t arrays() const { return spec_.num_kv_heads * (spec_.value_dim > 0 ? 2 : 1); }

  PagedSpec spec_;
  const RaggedBatch& ragged_;
  std::vector<float> memory_;
};

// Calls check(op) with the reference and with all that are judged.
template <class Op>
void each_and_reference(const typename Op::Problem& problem, ThreadPool& threads,
                        const std::function<void(const Prepared<Op>&)>& check) {
  {
    SCOPED_TRACE("reference");
    check(*reference_of<Op>().prepare(problem, {}, {}));
  }
  each_implementation<Op>(
      problem,
      [&](const Implementation<Op>& implementation, const OpOptions& options) {
        check(*implementation.prepare(problem, {}, options));
      },
      threads);
}

struct ChooseCase {
  explicit ChooseCase(const ChooseBlocks::Problem& p, const std::vector<Piece>& pieces = kPieces)
      : problem(p),
        ragged(pieces, 1, 2),
        q(ragged.batch.num_tokens, p.num_heads * p.dim, 71, 1.0f),
        chosen(ragged.batch.num_tokens * p.num_heads * p.most, -7),
        pages(p.cache(), ragged, pieces) {}

  std::vector<int32_t> run(const Prepared<ChooseBlocks>& op, ThreadPool& threads) {
    run_op(op,
           {.q = q.view(), .batch = &ragged.batch, .cache = pages.cache, .chosen = chosen.data()},
           threads);
    return chosen;
  }
  std::vector<int32_t> of(int64_t t, int64_t head) const {
    const auto first = chosen.begin() + (t * problem.num_heads + head) * problem.most;
    return {first, first + problem.most};
  }

  ChooseBlocks::Problem problem;
  RaggedBatch ragged;
  OwnedRows q;
  std::vector<int32_t> chosen;
  Pages pages;
};

// Blocks of two pages, of a part of a page, and of no whole part of it.
const ChooseBlocks::Problem kChooseProblems[] = {
    {.num_heads = 4, .dim = 128, .block_size = 128, .most = 4, .local = 1},
    {.num_heads = 3, .dim = 32, .block_size = 8, .most = 5, .local = 2, .cache_dtype = DType::kF32},
    {.num_heads = 2, .dim = 16, .block_size = 24, .most = 3, .cache_dtype = DType::kF32},
    {.num_heads = 1, .dim = 16, .block_size = 100, .most = 1, .local = 1}};

TEST(ChooseBlocks, ChoosesWhatFloat64Chooses) {
  for (const ChooseBlocks::Problem& problem : kChooseProblems) {
    SCOPED_TRACE(problem.block_size);
    for (const int num_threads : {1, 5}) {
      ThreadPool threads(num_threads);
      ChooseCase reference(problem);
      const std::vector<int32_t> expected =
          reference.run(*reference_of<ChooseBlocks>().prepare(problem, {}, {}), threads);
      each_implementation<ChooseBlocks>(
          problem,
          [&](const Implementation<ChooseBlocks>& implementation, const OpOptions& options) {
            ChooseCase c(problem);
            EXPECT_EQ(c.run(*implementation.prepare(problem, {}, options), threads), expected);
          },
          threads);
    }
  }
}

TEST(ChooseBlocks, ListsRiseHoldTheLocalBlocksAndPaddingIsLeftAlone) {
  ThreadPool threads(2);
  for (const ChooseBlocks::Problem& problem : kChooseProblems) {
    each_and_reference<ChooseBlocks>(problem, threads, [&](const Prepared<ChooseBlocks>& op) {
      ChooseCase c(problem);
      c.run(op, threads);
      for (int64_t t = 0; t < c.ragged.batch.num_tokens; ++t) {
        for (int64_t a = 0; a < problem.num_heads; ++a) {
          const std::vector<int32_t> list = c.of(t, a);
          if (t >= c.ragged.real_tokens()) {
            EXPECT_EQ(list[0], -7);
            continue;
          }
          const int64_t own = c.ragged.positions[t] / problem.block_size;
          const int64_t count = std::min(own + 1, problem.most);
          for (int64_t i = 0; i < problem.most; ++i) {
            if (i >= count) {
              ASSERT_EQ(list[i], -1);
            } else {
              ASSERT_GT(list[i], i > 0 ? list[i - 1] : -1);
              ASSERT_LE(list[i], own);
            }
          }
          for (int64_t i = 0; i < std::min(problem.local, count); ++i) {
            ASSERT_EQ(list[count - 1 - i], own - i);
          }
        }
      }
    });
  }
}

TEST(ChooseBlocks, TheLargestKeyOfABlockCountsAndEqualOnesGoToTheLowerBlock) {
  ThreadPool threads(1);
  const ChooseBlocks::Problem problem{
      .num_heads = 1, .dim = 16, .block_size = 4, .most = 2, .cache_dtype = DType::kF32};
  each_and_reference<ChooseBlocks>(problem, threads, [&](const Prepared<ChooseBlocks>& op) {
    ChooseCase c(problem, {{17, 1}});  // blocks 0 to 4, the last of two keys
    std::fill(c.q.values.begin(), c.q.values.end(), 0.0f);
    c.q.set(0, 3, 1.0f);
    for (int64_t j = 0; j < 18; ++j) c.pages.set(0, j, 0, 3, -5.0f);
    c.run(op, threads);
    EXPECT_EQ(c.of(0, 0), (std::vector<int32_t>{0, 1}));
    c.pages.set(0, 11, 0, 3, -1.0f);  // the last of block 2
    c.pages.set(0, 17, 0, 3, -2.0f);  // of block 4: the token's own
    c.run(op, threads);
    EXPECT_EQ(c.of(0, 0), (std::vector<int32_t>{2, 4}));
    c.pages.set(0, 5, 0, 3, NAN);
    c.run(op, threads);
    EXPECT_EQ(c.of(0, 0), (std::vector<int32_t>{1, 2}));
  });
}

struct AttentionCase {
  explicit AttentionCase(const BlockAttention::Problem& p,
                         const std::vector<Piece>& pieces = kPieces)
      : problem(p),
        ragged(pieces, 1, 2),
        queries(ragged.batch.num_tokens, p.num_heads * p.head_dim, 81, 1.0f),
        chosen(ragged.batch.num_tokens * p.num_kv_heads * p.num_chosen, -1),
        pages(p.cache(), ragged, pieces) {
    // Of each kv head others: its own and every so-many-th before it.
    for (int64_t t = 0; t < ragged.real_tokens(); ++t) {
      const int64_t own = ragged.positions[t] / p.block_size;
      for (int64_t g = 0; g < p.num_kv_heads; ++g) {
        int32_t* list = chosen.data() + (t * p.num_kv_heads + g) * p.num_chosen;
        const int64_t count = std::min(own + 1, p.num_chosen);
        const int64_t step = own < p.num_chosen ? 1 : std::max<int64_t>(own / (count + g), 1);
        for (int64_t i = 0; i < count; ++i) {
          list[count - 1 - i] = static_cast<int32_t>(own - i * step);
        }
      }
    }
  }

  std::vector<float> run(const Prepared<BlockAttention>& op, ThreadPool& threads) {
    OwnedRows y(ragged.batch.num_tokens, problem.num_heads * problem.head_dim);
    run_op(op,
           {.queries = queries.view(),
            .batch = &ragged.batch,
            .cache = pages.cache,
            .chosen = chosen.data(),
            .y = y.view()},
           threads);
    std::vector<float> values = y.dense();
    values.resize(ragged.real_tokens() * y.width);
    return values;
  }

  BlockAttention::Problem problem;
  RaggedBatch ragged;
  OwnedRows queries;
  std::vector<int32_t> chosen;
  Pages pages;
};

const BlockAttention::Problem kProblems[] = {{.num_heads = 8,
                                              .num_kv_heads = 2,
                                              .head_dim = 32,
                                              .scale = 0.2f,
                                              .block_size = 128,
                                              .num_chosen = 3},
                                             {.num_heads = 6,
                                              .num_kv_heads = 3,
                                              .head_dim = 16,
                                              .scale = 0.3f,
                                              .block_size = 8,
                                              .num_chosen = 4,
                                              .cache_dtype = DType::kF32},
                                             {.num_heads = 26,
                                              .num_kv_heads = 2,
                                              .head_dim = 16,
                                              .scale = 0.3f,
                                              .block_size = 100,
                                              .num_chosen = 13,
                                              .cache_dtype = DType::kF32}};

TEST(BlockAttention, EqualsFloat64) {
  for (const BlockAttention::Problem& problem : kProblems) {
    SCOPED_TRACE(problem.block_size);
    ThreadPool threads(3);
    AttentionCase reference(problem);
    const std::vector<float> expected =
        reference.run(*reference_of<BlockAttention>().prepare(problem, {}, {}), threads);
    each_implementation<BlockAttention>(
        problem,
        [&](const Implementation<BlockAttention>& implementation, const OpOptions& options) {
          AttentionCase c(problem);
          const auto op = implementation.prepare(problem, {}, options);
          EXPECT_LT(relative_error(c.run(*op, threads), expected), 1e-5);
        },
        threads);
  }
}

TEST(BlockAttention, BlocksThatAreNotChosenAreNotSeenAndEachKvHeadHasItsOwn) {
  ThreadPool threads(2);
  const BlockAttention::Problem& problem = kProblems[1];
  const std::vector<Piece> pieces = {{300, 1}};
  each_and_reference<BlockAttention>(problem, threads, [&](const Prepared<BlockAttention>& op) {
    AttentionCase plain(problem, pieces);
    const std::vector<float> expected = plain.run(op, threads);
    const auto of_head = [&](const std::vector<float>& y, int64_t g) {
      return std::vector<float>(y.begin() + g * 32, y.begin() + (g + 1) * 32);
    };
    for (int64_t g = 0; g < 3; ++g) {
      const int32_t* list = plain.chosen.data() + g * problem.num_chosen;
      for (int64_t b = 0; b <= 300 / 8; ++b) {
        AttentionCase other(problem, pieces);
        other.pages.set(0, std::min<int64_t>(b * 8 + 7, 300), g, 3, 30.0f);
        const std::vector<float> found = other.run(op, threads);
        const bool is_chosen = std::find(list, list + 4, b) != list + 4;
        EXPECT_EQ(of_head(found, g) != of_head(expected, g), is_chosen) << g << " " << b;
        EXPECT_EQ(of_head(found, (g + 1) % 3), of_head(expected, (g + 1) % 3));
      }
    }
  });
}

TEST(BlockAttention, AllBlocksHaveTheBitsOfAllKeysAndASequenceThoseOfItAlone) {
  ThreadPool threads(4), one(1);
  for (BlockAttention::Problem problem : kProblems) {
    problem.num_chosen = 1024 / problem.block_size;  // less than some sequences have
    each_implementation<BlockAttention>(
        problem,
        [&](const Implementation<BlockAttention>& implementation, const OpOptions& options) {
          const PagedAttention::Problem whole{.num_heads = problem.num_heads,
                                              .num_kv_heads = problem.num_kv_heads,
                                              .head_dim = problem.head_dim,
                                              .scale = problem.scale,
                                              .cache_dtype = problem.cache_dtype};
          const auto op = implementation.prepare(problem, {}, options);
          AttentionCase c(problem);
          const std::vector<float> found = c.run(*op, threads);
          EXPECT_TRUE(same_bits(c.run(*op, one), found));
          OwnedRows y(c.ragged.batch.num_tokens, c.queries.width);
          run_op(*prepare<PagedAttention>(whole, {}, options),
                 {.queries = c.queries.view(),
                  .batch = &c.ragged.batch,
                  .cache = c.pages.cache,
                  .y = y.view()},
                 threads);
          const int64_t width = y.width;
          int64_t behind = 0;
          for (int64_t t = 0; t < c.ragged.real_tokens(); ++t) {
            const bool sees_all = c.ragged.positions[t] / problem.block_size < problem.num_chosen;
            EXPECT_EQ(same_bits(y.row(t), std::span(found).subspan(t * width, width)), sees_all)
                << t;
            behind += sees_all ? 0 : 1;
          }
          EXPECT_GT(behind, 0);
          for (size_t s = 0; s < kPieces.size(); ++s) {
            AttentionCase alone(problem);
            const int32_t first = alone.ragged.query_start[s],
                          last = alone.ragged.query_start[s + 1];
            for (int32_t& start : alone.ragged.query_start) start = std::clamp(start, first, last);
            OwnedRows single(alone.ragged.batch.num_tokens, width);
            run_op(*op,
                   {.queries = alone.queries.view(),
                    .batch = &alone.ragged.batch,
                    .cache = alone.pages.cache,
                    .chosen = alone.chosen.data(),
                    .y = single.view()},
                   threads);
            for (int64_t t = first; t < last; ++t) {
              EXPECT_TRUE(same_bits(single.row(t), std::span(found).subspan(t * width, width)));
            }
          }
        },
        threads);
  }
}

}  // namespace
}  // namespace moe4
