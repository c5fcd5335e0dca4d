// ChooseBlocks and BlockAttention over ragged batches: attention to blocks that an indexer chooses.
#include "ops/block_attention/block_attention.h"

#include <gtest/gtest.h>

#include "numerics/e4m3.h"
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
constexpr int64_t kDecodes = 4;
// The same with drafts, more and less of them.
const std::vector<Piece> kDrafts = {{5, 3},   {2100, 3}, {62, 3},  {64, 2}, {0, 0},
                                    {990, 3}, {0, 65},   {64, 64}, {960, 9}};
constexpr int64_t kDraftDecodes = 6;

// How a step comes: as prompts alone, with generated tokens in front, with drafts. CPUs make no
// difference.
struct Step {
  const std::vector<Piece>& pieces;
  int64_t num_decodes;
};
const Step kSteps[] = {{kPieces, 0}, {kPieces, kDecodes}, {kDrafts, kDraftDecodes}};

std::span<const Step> steps() {
  ThreadPool threads(1);
  const std::vector<OpOptions> all = op_options(threads);
  const bool is_cpu = !all.empty() && all.front().device.is_cpu();
  return std::span(kSteps).first(is_cpu ? 1 : 3);
}

// Random rows of a sequence's positions in pages whose other places hold NaN.
class Pages {
 public:
  Pages(const PagedSpec& spec, const RaggedBatch& ragged, const std::vector<Piece>& pieces,
        float k_scale = 1.0f, float v_scale = 1.0f)
      : spec_(spec), ragged_(ragged), k_scale_(k_scale), v_scale_(v_scale) {
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
    if (spec_.dtype == DType::kF8E4M3) {
      const float scale = array < spec_.num_kv_heads ? k_scale_ : v_scale_;
      reinterpret_cast<uint8_t*>(page)[i] = e4m3_from_float(x / scale);
    } else if (spec_.dtype == DType::kF16) {
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
  float k_scale_, v_scale_;
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
  explicit ChooseCase(const ChooseBlocks::Problem& p, const std::vector<Piece>& pieces = kPieces,
                      int64_t num_decodes = 0)
      : problem(p),
        ragged(pieces, 1, 2, num_decodes),
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

// Blocks of two pages, of a part of a page, and of no whole part of it. On a GPU: runs of keys of
// all sizes, heads that fill a tile of columns and that do not.
const ChooseBlocks::Problem kChooseProblems[] = {
    {.num_heads = 4, .dim = 128, .block_size = 128, .most = 4, .local = 1},
    {.num_heads = 3, .dim = 32, .block_size = 8, .most = 5, .local = 2, .cache_dtype = DType::kF32},
    {.num_heads = 2, .dim = 16, .block_size = 24, .most = 3, .cache_dtype = DType::kF32},
    {.num_heads = 1, .dim = 16, .block_size = 100, .most = 1, .local = 1},
    {.num_heads = 3, .dim = 32, .block_size = 8, .most = 5, .local = 2},
    {.num_heads = 8, .dim = 48, .block_size = 16, .most = 17, .local = 3},
    {.num_heads = 2, .dim = 112, .block_size = 90, .most = 2},
    {.num_heads = 5, .dim = 16, .block_size = 7, .most = 150, .local = 4},
    {.num_heads = 33, .dim = 16, .block_size = 1, .most = 129, .local = 64},
    {.num_heads = 64, .dim = 64, .block_size = 192, .most = 3, .local = 1}};

TEST(ChooseBlocks, ChoosesWhatFloat64Chooses) {
  for (const ChooseBlocks::Problem& problem : kChooseProblems) {
    SCOPED_TRACE(problem.block_size);
    if (!is_judged<ChooseBlocks>(problem)) continue;
    for (const Step& step : steps()) {
      ThreadPool threads(step.num_decodes == 0 ? 5 : 1);
      ChooseCase reference(problem, step.pieces, step.num_decodes);
      const std::vector<int32_t> expected =
          reference.run(*reference_of<ChooseBlocks>().prepare(problem, {}, {}), threads);
      each_implementation<ChooseBlocks>(
          problem,
          [&](const Implementation<ChooseBlocks>& implementation, const OpOptions& options) {
            ChooseCase c(problem, step.pieces, step.num_decodes);
            EXPECT_EQ(c.run(*implementation.prepare(problem, {}, options), threads), expected);
          },
          threads);
    }
  }
}

TEST(ChooseBlocks, ListsRiseHoldTheLocalBlocksAndPaddingIsLeftAlone) {
  ThreadPool threads(2);
  for (const ChooseBlocks::Problem& problem : kChooseProblems) {
    if (!is_judged<ChooseBlocks>(problem)) continue;
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
  const ChooseBlocks::Problem problem{.num_heads = 1, .dim = 16, .block_size = 4, .most = 2};
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

// Queries and keys are small whole numbers, so that scores are exact and many are equal.
void make_whole(ChooseCase& c) {
  Random random(74);
  for (int64_t t = 0; t < c.q.rows; ++t) {
    for (int64_t i = 0; i < c.q.width; ++i) {
      c.q.set(t, i, static_cast<float>(random.below(5)) - 2.0f);
    }
  }
  for (size_t s = 0; s + 1 < c.ragged.query_start.size(); ++s) {
    for (int64_t j = 0; j < c.ragged.context_len[s]; ++j) {
      for (int64_t d = 0; d < c.problem.dim; ++d) {
        c.pages.set(static_cast<int64_t>(s), j, 0, d, static_cast<float>(random.below(3)) - 1.0f);
      }
    }
  }
}

// The step with all tokens but one elsewhere.
void leave_alone(RaggedBatch& ragged, int64_t token) {
  for (int32_t& start : ragged.query_start) {
    start = static_cast<int32_t>(std::clamp<int64_t>(start, token, token + 1));
  }
}

TEST(ChooseBlocks, ManyEqualScoresOfLongContextsGoToTheLowestBlocks) {
  ThreadPool threads(2);
  for (const int64_t block_size : {1, 4, 128}) {
    const ChooseBlocks::Problem problem{
        .num_heads = 3, .dim = 16, .block_size = block_size, .most = 33, .local = 1};
    const std::vector<Piece> pieces = {{20000, 2}, {4095, 3}, {12345, 1}};
    for (const int64_t decodes : {0, 3}) {
      ChooseCase reference(problem, pieces, decodes);
      make_whole(reference);
      const std::vector<int32_t> expected =
          reference.run(*reference_of<ChooseBlocks>().prepare(problem, {}, {}), threads);
      each_implementation<ChooseBlocks>(
          problem,
          [&](const Implementation<ChooseBlocks>& implementation, const OpOptions& options) {
            ChooseCase c(problem, pieces, decodes);
            make_whole(c);
            EXPECT_EQ(c.run(*implementation.prepare(problem, {}, options), threads), expected);
          },
          threads);
    }
  }
}

// On a GPU: of more tokens than have their ranks side by side.
TEST(ChooseBlocks, ALongPromptHasTheChoicesOfItsTokensAlone) {
  ThreadPool threads(2);
  const ChooseBlocks::Problem problem{
      .num_heads = 2, .dim = 16, .block_size = 1, .most = 64, .local = 1};
  const std::vector<Piece> pieces = {{9000, 1}, {8000, 1900}};
  each_implementation<ChooseBlocks>(
      problem,
      [&](const Implementation<ChooseBlocks>& implementation, const OpOptions& options) {
        const auto op = implementation.prepare(problem, {}, options);
        ChooseCase whole(problem, pieces, 1);
        make_whole(whole);
        whole.run(*op, threads);
        for (int64_t t = 0; t < whole.ragged.real_tokens(); t += t == 0 ? 1 : 157) {
          ChooseCase alone(problem, pieces);
          make_whole(alone);
          leave_alone(alone.ragged, t);
          is_judging = false;
          alone.run(*reference_of<ChooseBlocks>().prepare(problem, {}, {}), threads);
          is_judging = true;
          for (int64_t a = 0; a < 2; ++a) EXPECT_EQ(whole.of(t, a), alone.of(t, a)) << t;
        }
      },
      threads);
}

TEST(ChooseBlocks, ATokenHasTheSameChoiceAlone) {
  ThreadPool threads(2);
  const ChooseBlocks::Problem problem = kChooseProblems[0];
  each_implementation<ChooseBlocks>(
      problem,
      [&](const Implementation<ChooseBlocks>& implementation, const OpOptions& options) {
        const auto op = implementation.prepare(problem, {}, options);
        ASSERT_EQ(op->batch_invariant(), BatchInvariance::kFull);
        ChooseCase whole(problem, kPieces, kDecodes);
        whole.run(*op, threads);
        for (int64_t t = 0; t < whole.ragged.real_tokens(); t += t < 4 ? 1 : 13) {
          ChooseCase alone(problem, kPieces, kDecodes);
          leave_alone(alone.ragged, t);
          alone.run(*op, threads);
          for (int64_t a = 0; a < problem.num_heads; ++a) {
            EXPECT_EQ(alone.of(t, a), whole.of(t, a)) << t;
          }
        }
      },
      threads);
}

struct AttentionCase {
  explicit AttentionCase(const BlockAttention::Problem& p,
                         const std::vector<Piece>& pieces = kPieces, int64_t num_decodes = 0)
      : problem(p),
        ragged(pieces, 1, 2, num_decodes),
        queries(ragged.batch.num_tokens, p.num_heads * p.head_dim, 81, 1.0f),
        chosen(ragged.batch.num_tokens * p.num_kv_heads * p.num_chosen, -1),
        pages(p.cache(), ragged, pieces, p.k_scale, p.v_scale) {
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

  std::vector<float> run(const Prepared<BlockAttention>& op, ThreadPool& threads,
                         RowFormat format = RowFormat::kF32) {
    OwnedRows y(ragged.batch.num_tokens, problem.num_heads * problem.head_dim, NAN, format);
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

// On a GPU also: heads of every width that it has a kernel of its own for, groups of more and less
// than 16 heads.
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
                                              .cache_dtype = DType::kF32},
                                             {.num_heads = 6,
                                              .num_kv_heads = 3,
                                              .head_dim = 16,
                                              .scale = 0.3f,
                                              .block_size = 8,
                                              .num_chosen = 4},
                                             {.num_heads = 52,
                                              .num_kv_heads = 2,
                                              .head_dim = 48,
                                              .scale = 0.2f,
                                              .block_size = 100,
                                              .num_chosen = 13},
                                             {.num_heads = 32,
                                              .num_kv_heads = 2,
                                              .head_dim = 128,
                                              .scale = 0.09f,
                                              .block_size = 128,
                                              .num_chosen = 16},
                                             {.num_heads = 4,
                                              .num_kv_heads = 1,
                                              .head_dim = 256,
                                              .scale = 0.06f,
                                              .block_size = 24,
                                              .num_chosen = 7},
                                             {.num_heads = 16,
                                              .num_kv_heads = 1,
                                              .head_dim = 128,
                                              .scale = 0.09f,
                                              .block_size = 128,
                                              .num_chosen = 4,
                                              .cache_dtype = DType::kF8E4M3,
                                              .k_scale = 0.03f,
                                              .v_scale = 0.05f},
                                             {.num_heads = 3,
                                              .num_kv_heads = 1,
                                              .head_dim = 240,
                                              .scale = 0.1f,
                                              .block_size = 40,
                                              .num_chosen = 5,
                                              .cache_dtype = DType::kF8E4M3}};

// On a GPU queries and weights are F16.
double attention_tolerance(const OpOptions& options, RowFormat format) {
  return tolerance(format, options.device.is_cpu() ? 1e-5 : 5e-4);
}

TEST(BlockAttention, EqualsFloat64) {
  for (const BlockAttention::Problem& problem : kProblems) {
    SCOPED_TRACE(&problem - kProblems);
    if (!is_judged<BlockAttention>(problem)) continue;
    ThreadPool threads(3);
    for (const Step& step : steps()) {
      AttentionCase reference(problem, step.pieces, step.num_decodes);
      const std::vector<float> expected =
          reference.run(*reference_of<BlockAttention>().prepare(problem, {}, {}), threads);
      for (const RowFormat format : activation_formats()) {
        each_implementation<BlockAttention>(
            problem,
            [&](const Implementation<BlockAttention>& implementation, const OpOptions& options) {
              AttentionCase c(problem, step.pieces, step.num_decodes);
              const auto op = implementation.prepare(problem, {}, options);
              const std::vector<float> found = c.run(*op, threads, format);
              const double allowed = attention_tolerance(options, format);
              EXPECT_LT(relative_error(found, expected), allowed);
              // Where it is off: token by token.
              const int64_t width = problem.num_heads * problem.head_dim;
              int shown = 0;
              for (int64_t t = 0; t < c.ragged.real_tokens() && shown < 4; ++t) {
                const auto part = [&](const std::vector<float>& y) {
                  return std::span(y).subspan(t * width, width);
                };
                const double error = relative_error(part(found), part(expected));
                if (error < 8 * allowed) continue;
                ++shown;
                ADD_FAILURE() << "token " << t << " at position " << c.ragged.positions[t]
                              << " is off by " << error;
              }
            },
            threads);
      }
    }
  }
}

// The definition of one op by that of the other.
TEST(BlockAttention, IsPagedAttentionWithListsOfBlocks) {
  ThreadPool threads(1);
  for (const BlockAttention::Problem& problem : kProblems) {
    if (problem.num_heads * problem.head_dim > 1000) continue;  // no other ones, but slow
    AttentionCase c(problem);
    const std::vector<float> expected =
        c.run(*reference_of<BlockAttention>().prepare(problem, {}, {}), threads);
    OwnedRows y(c.ragged.batch.num_tokens, c.queries.width);
    const PagedAttention::Problem with_lists{.num_heads = problem.num_heads,
                                             .num_kv_heads = problem.num_kv_heads,
                                             .head_dim = problem.head_dim,
                                             .scale = problem.scale,
                                             .num_chosen = problem.num_chosen,
                                             .block_size = problem.block_size,
                                             .cache_dtype = problem.cache_dtype,
                                             .k_scale = problem.k_scale,
                                             .v_scale = problem.v_scale};
    run_op(*reference_of<PagedAttention>().prepare(with_lists, {}, {}),
           {.queries = c.queries.view(),
            .batch = &c.ragged.batch,
            .cache = c.pages.cache,
            .chosen = c.chosen.data(),
            .y = y.view()},
           threads);
    y.rows = c.ragged.real_tokens();
    EXPECT_LT(relative_error(y.dense(), expected), 1e-6);
  }
}

TEST(BlockAttention, BlocksThatAreNotChosenAreNotSeenAndEachKvHeadHasItsOwn) {
  ThreadPool threads(2);
  const BlockAttention::Problem& problem = kProblems[3];
  const std::vector<Piece> pieces = {{300, 1}};
  for (const int64_t decodes : {0, 1}) {
    each_and_reference<BlockAttention>(problem, threads, [&](const Prepared<BlockAttention>& op) {
      AttentionCase plain(problem, pieces, decodes);
      const std::vector<float> expected = plain.run(op, threads);
      const auto of_head = [&](const std::vector<float>& y, int64_t g) {
        return std::vector<float>(y.begin() + g * 32, y.begin() + (g + 1) * 32);
      };
      for (int64_t g = 0; g < 3; ++g) {
        const int32_t* list = plain.chosen.data() + g * problem.num_chosen;
        for (int64_t b = 0; b <= 300 / 8; ++b) {
          AttentionCase other(problem, pieces, decodes);
          other.pages.set(0, std::min<int64_t>(b * 8 + 7, 300), g, 3, 30.0f);
          const std::vector<float> found = other.run(op, threads);
          const bool is_chosen = std::find(list, list + 4, b) != list + 4;
          EXPECT_EQ(of_head(found, g) != of_head(expected, g), is_chosen) << g << " " << b;
          EXPECT_EQ(of_head(found, (g + 1) % 3), of_head(expected, (g + 1) % 3));
        }
      }
    });
  }
}

// Where the token's own block is among them, the last one is not whole.
TEST(BlockAttention, TheTokensOwnBlockEndsWithIt) {
  ThreadPool threads(1);
  const BlockAttention::Problem problem{
      .num_heads = 2, .num_kv_heads = 1, .head_dim = 16, .block_size = 24, .num_chosen = 2};
  for (const int64_t decodes : {0, 1}) {
    each_and_reference<BlockAttention>(problem, threads, [&](const Prepared<BlockAttention>& op) {
      for (const int32_t last : {3, 4}) {
        // Its block is 4: keys 96 to 100. Keys of zeros have a score of 0: weights that F16 holds.
        const auto run_with = [&](int64_t key, float value) {
          AttentionCase c(problem, {{100, 1}}, decodes);
          c.chosen[0] = 1, c.chosen[1] = last;
          for (int64_t j = 0; j <= 100; ++j) {
            for (int64_t d = 0; d < 16; ++d) c.pages.set(0, j, 0, d, 0.0f);
          }
          c.pages.set(0, key, 1, 3, value);
          return c.run(op, threads);
        };
        for (const int64_t key : {23, 24, 47, 48, 71, 72, 95, 96, 100}) {
          const bool is_seen = key / 24 == 1 || key / 24 == last;
          EXPECT_EQ(run_with(key, 50.0f) != run_with(key, 1.0f), is_seen) << key;
        }
      }
    });
  }
}

TEST(BlockAttention, AllBlocksHaveTheBitsOfAllKeysAndASequenceThoseOfItAlone) {
  ThreadPool threads(4), one(1);
  for (BlockAttention::Problem problem : kProblems) {
    problem.num_chosen = 1024 / problem.block_size;  // less than some sequences have
    if (!is_judged<BlockAttention>(problem)) continue;
    SCOPED_TRACE(problem.block_size);
    for (const Step& step : steps()) {
      each_implementation<BlockAttention>(
          problem,
          [&](const Implementation<BlockAttention>& implementation, const OpOptions& options) {
            const PagedAttention::Problem whole{.num_heads = problem.num_heads,
                                                .num_kv_heads = problem.num_kv_heads,
                                                .head_dim = problem.head_dim,
                                                .scale = problem.scale,
                                                .cache_dtype = problem.cache_dtype,
                                                .k_scale = problem.k_scale,
                                                .v_scale = problem.v_scale};
            const auto op = implementation.prepare(problem, {}, options);
            AttentionCase c(problem, step.pieces, step.num_decodes);
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
            for (size_t s = 0; s < step.pieces.size(); ++s) {
              AttentionCase alone(problem, step.pieces, step.num_decodes);
              const int32_t first = alone.ragged.query_start[s],
                            last = alone.ragged.query_start[s + 1];
              for (int32_t& start : alone.ragged.query_start) {
                start = std::clamp(start, first, last);
              }
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
}

}  // namespace
}  // namespace moe4
