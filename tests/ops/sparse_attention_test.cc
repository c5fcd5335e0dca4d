// IndexToCache and ChooseKeys over ragged batches: the indexer of sparse attention.
#include <gtest/gtest.h>

#include "numerics/f16.h"
#include "ops/choose_keys/choose_keys.h"
#include "ops/conformance.h"
#include "ops/index_to_cache/index_to_cache.h"

namespace moe4 {
namespace {

using namespace moe4::testing;

// Decodes first, one of them far past a segment of 1024 keys; an empty sequence; prompts that end
// inside a page and on its edge.
const std::vector<Piece> kPieces = {{5, 1},  {2100, 1}, {63, 1},  {64, 1},  {70, 0},
                                    {0, 65}, {64, 64},  {128, 3}, {1020, 9}};

struct IndexCase {
  explicit IndexCase(const IndexToCache::Problem& p, RowFormat rows = RowFormat::kF32)
      : problem(p),
        ragged(kPieces, 1, 2),
        k(ragged.batch.num_tokens, p.dim, 61, 2.0f, rows),
        angles(ragged.batch.num_tokens, p.rotary_dim, 62, 0.5f),
        norm(normals(p.dim, 63, 0.3f, 1.0f)),
        bias(normals(p.dim, 64, 0.5f)),
        pages(ragged.num_pages * cache_unit_bytes(p.cache())) {}

  IndexToCache::Weights weights() const { return {tensor_of(norm), tensor_of(bias)}; }
  std::vector<float> run(const Prepared<IndexToCache>& op, ThreadPool& threads) {
    OwnedRows rows = k.as(is_judging ? k.format : RowFormat::kF32);
    run_op(op,
           {.k = rows.view(),
            .angles = angles.view(),
            .slots = ragged.table.slots,
            .cache = {pages.data(), cache_unit_bytes(problem.cache()), 0}},
           threads);
    std::vector<float> values;
    for (size_t i = 0; i < pages.size(); i += size_of(problem.cache_dtype)) {
      values.push_back(problem.cache_dtype == DType::kF16
                           ? to_float(*reinterpret_cast<const F16*>(pages.data() + i))
                           : *reinterpret_cast<const float*>(pages.data() + i));
    }
    return values;
  }

  IndexToCache::Problem problem;
  RaggedBatch ragged;
  OwnedRows k, angles;
  std::vector<float> norm, bias;
  std::vector<std::byte> pages;
};

const IndexToCache::Problem kIndexProblems[] = {
    {.dim = 128, .rotary_dim = 64},
    {.dim = 32, .rotary_dim = 16, .rotates_pairs = true, .cache_dtype = DType::kF32},
    {.dim = 48, .rotary_dim = 48, .eps = 0.5f, .cache_dtype = DType::kF32},
    {.dim = 16, .rotary_dim = 4, .rotates_pairs = true},
    {.dim = 128, .rotary_dim = 64, .rotates_pairs = true},
    {.dim = 48, .rotary_dim = 48, .eps = 0.5f}};

TEST(IndexToCache, EqualsFloat64AndWritesNothingElse) {
  ThreadPool threads(3);
  for (const IndexToCache::Problem& problem : kIndexProblems) {
    SCOPED_TRACE(&problem - kIndexProblems);
    if (!is_judged<IndexToCache>(problem)) continue;
    for (const RowFormat rows : activation_formats()) {
      IndexCase expected(problem, rows);
      const std::vector<float> cached = expected.run(
          *reference_of<IndexToCache>().prepare(problem, expected.weights(), {}), threads);
      each_implementation<IndexToCache>(
          problem,
          [&](const Implementation<IndexToCache>& implementation, const OpOptions& options) {
            IndexCase c(problem, rows);
            const std::vector<float> found =
                c.run(*implementation.prepare(problem, c.weights(), options), threads);
            EXPECT_LT(relative_error(found, cached),
                      problem.cache_dtype == DType::kF32 ? 1e-6 : 1e-4);
            for (size_t i = 0; i < cached.size(); ++i) {
              ASSERT_EQ(found[i] == 0.0f, cached[i] == 0.0f) << i;
            }
          },
          threads);
    }
  }
}

TEST(IndexToCache, TheMeanIsTakenOffAndHalvesAreNotPairs) {
  ThreadPool threads(1);
  for (const DType cache : {DType::kF32, DType::kF16}) {
    IndexToCache::Problem problem = kIndexProblems[1];
    problem.cache_dtype = cache;
    if (!is_judged<IndexToCache>(problem)) continue;
    each_implementation<IndexToCache>(
        problem,
        [&](const Implementation<IndexToCache>& implementation, const OpOptions& options) {
          IndexCase plain(problem), shifted(problem);
          for (int64_t t = 0; t < shifted.k.rows; ++t) {
            for (int64_t d = 0; d < 32; ++d) shifted.k.set(t, d, shifted.k.at(t, d) + 5.0f);
          }
          const auto op = implementation.prepare(problem, plain.weights(), options);
          const std::vector<float> expected = plain.run(*op, threads);
          EXPECT_LT(relative_error(shifted.run(*op, threads), expected),
                    cache == DType::kF32 ? 1e-5 : 2e-4);
          IndexToCache::Problem halves = problem;
          halves.rotates_pairs = false;
          IndexCase other(halves);
          EXPECT_GT(
              relative_error(
                  other.run(*implementation.prepare(halves, other.weights(), options), threads),
                  expected),
              1e-2);
        },
        threads);
  }
}

TEST(IndexToCache, AnInfiniteElementMakesTheKeyNoNumber) {
  ThreadPool threads(1);
  const IndexToCache::Problem& problem = kIndexProblems[0];
  const auto check = [&](const Prepared<IndexToCache>& op) {
    IndexCase c(problem);
    // Finite, and infinite once turned.
    c.k.set(2, 0, 50.0f);
    c.angles.set(2, 0, 3e38f);
    const std::vector<float> cached = c.run(op, threads);
    const auto nans =
        std::count_if(cached.begin(), cached.end(), [](float x) { return std::isnan(x); });
    EXPECT_EQ(nans, problem.dim);
  };
  IndexCase any(problem);
  check(*reference_of<IndexToCache>().prepare(problem, any.weights(), {}));
  each_implementation<IndexToCache>(
      problem,
      [&](const Implementation<IndexToCache>& implementation, const OpOptions& options) {
        check(*implementation.prepare(problem, any.weights(), options));
      },
      threads);
}

struct ChooseCase {
  explicit ChooseCase(const ChooseKeys::Problem& p, const std::vector<Piece>& pieces = kPieces,
                      RowFormat rows = RowFormat::kF32)
      : problem(p),
        ragged(pieces, 1, 2),
        q(ragged.batch.num_tokens, p.num_heads * p.dim, 71, 1.0f, rows),
        weights(ragged.batch.num_tokens, p.num_heads, 72, 1.0f, rows),
        angles(ragged.batch.num_tokens, p.rotary_dim, 73, 0.5f),
        chosen(ragged.batch.num_tokens * p.most, -7) {
    cache.unit_bytes = cache_unit_bytes(p.cache());
    // Places that no token has filled hold NaN, which would be chosen first.
    pages.assign(ragged.num_pages * cache.unit_bytes / 4 + 16, NAN);
    cache.data = reinterpret_cast<std::byte*>(pages.data());
    for (size_t s = 0; s < pieces.size(); ++s) {
      for (int64_t j = 0; j < pieces[s].context + pieces[s].tokens; ++j) {
        Random random(s * 7919 + j * 31 + 5);
        for (int64_t d = 0; d < p.dim; ++d) set(static_cast<int64_t>(s), j, d, random.normal());
      }
    }
  }

  void set(int64_t s, int64_t position, int64_t d, float x) {
    const int64_t block = ragged.table.blocks[s * ragged.table.max_blocks + position / kPageTokens];
    std::byte* page = cache.data + block * cache.unit_bytes;
    const int64_t i = position % kPageTokens * problem.dim + d;
    if (problem.cache_dtype == DType::kF16) {
      reinterpret_cast<F16*>(page)[i] = to_f16(x);
    } else {
      reinterpret_cast<float*>(page)[i] = x;
    }
  }

  std::vector<int32_t> run(const Prepared<ChooseKeys>& op, ThreadPool& threads) {
    OwnedRows queries = q.as(is_judging ? q.format : RowFormat::kF32);
    OwnedRows of_heads = weights.as(is_judging ? weights.format : RowFormat::kF32);
    run_op(op,
           {.q = queries.view(),
            .weights = of_heads.view(),
            .angles = angles.view(),
            .batch = &ragged.batch,
            .cache = cache,
            .chosen = chosen.data()},
           threads);
    return chosen;
  }
  std::vector<int32_t> of_token(int64_t t) const {
    const auto first = chosen.begin() + t * problem.most;
    return {first, first + problem.most};
  }

  ChooseKeys::Problem problem;
  RaggedBatch ragged;
  OwnedRows q, weights, angles;
  std::vector<int32_t> chosen;
  std::vector<float> pages;
  LayerCache cache;
};

const ChooseKeys::Problem kChooseProblems[] = {
    {.num_heads = 64, .dim = 128, .rotary_dim = 64, .most = 40},
    {.num_heads = 5,
     .dim = 32,
     .rotary_dim = 16,
     .rotates_pairs = true,
     .most = 1,
     .cache_dtype = DType::kF32},
    {.num_heads = 12, .dim = 16, .rotary_dim = 8, .most = 1500, .cache_dtype = DType::kF32},
    {.num_heads = 32, .dim = 128, .rotary_dim = 64, .rotates_pairs = true, .most = 2048},
    {.num_heads = 5, .dim = 48, .rotary_dim = 16, .rotates_pairs = true, .most = 1},
    {.num_heads = 77, .dim = 16, .rotary_dim = 16, .most = 129},
    {.num_heads = 17, .dim = 112, .rotary_dim = 96, .most = 1029}};

// Calls check(op) with the reference and with all that are judged.
void each_and_reference(const ChooseKeys::Problem& problem, ThreadPool& threads,
                        const std::function<void(const Prepared<ChooseKeys>&)>& check) {
  {
    SCOPED_TRACE("reference");
    check(*reference_of<ChooseKeys>().prepare(problem, {}, {}));
  }
  each_implementation<ChooseKeys>(
      problem,
      [&](const Implementation<ChooseKeys>& implementation, const OpOptions& options) {
        check(*implementation.prepare(problem, {}, options));
      },
      threads);
}

TEST(ChooseKeys, ChoosesWhatFloat64Chooses) {
  for (const ChooseKeys::Problem& problem : kChooseProblems) {
    SCOPED_TRACE(problem.most);
    if (!is_judged<ChooseKeys>(problem)) continue;
    for (const RowFormat rows : activation_formats()) {
      ThreadPool one(1), many(5);
      ChooseCase reference(problem, kPieces, rows);
      const std::vector<int32_t> expected =
          reference.run(*reference_of<ChooseKeys>().prepare(problem, {}, {}), one);
      for (ThreadPool* threads : {&one, &many}) {
        each_implementation<ChooseKeys>(
            problem,
            [&](const Implementation<ChooseKeys>& implementation, const OpOptions& options) {
              ChooseCase c(problem, kPieces, rows);
              EXPECT_EQ(c.run(*implementation.prepare(problem, {}, options), *threads), expected);
            },
            *threads);
      }
    }
  }
}

TEST(ChooseKeys, ListsRiseAndEndWithTheTokenAndPaddingIsLeftAlone) {
  ThreadPool threads(2);
  for (const ChooseKeys::Problem& problem : kChooseProblems) {
    if (!is_judged<ChooseKeys>(problem)) continue;
    each_and_reference(problem, threads, [&](const Prepared<ChooseKeys>& op) {
      ChooseCase c(problem);
      c.run(op, threads);
      for (int64_t t = 0; t < c.ragged.batch.num_tokens; ++t) {
        const std::vector<int32_t> list = c.of_token(t);
        if (t >= c.ragged.real_tokens()) {
          EXPECT_EQ(list[0], -7);
          continue;
        }
        const int64_t keys = c.ragged.positions[t] + 1, count = std::min(keys, problem.most);
        for (int64_t i = 0; i < problem.most; ++i) {
          if (i >= count) {
            ASSERT_EQ(list[i], -1);
          } else {
            ASSERT_GT(list[i], i > 0 ? list[i - 1] : -1);
            ASSERT_LT(list[i], keys);
            if (count == keys) {
              ASSERT_EQ(list[i], i);
            }
          }
        }
      }
    });
  }
}

TEST(ChooseKeys, EqualScoresGoToTheLowerPositionAndNegativeWeightsCount) {
  ThreadPool threads(1);
  const ChooseKeys::Problem problem{.num_heads = 2, .dim = 32, .rotary_dim = 16, .most = 3};
  each_and_reference(problem, threads, [&](const Prepared<ChooseKeys>& op) {
    ChooseCase c(problem, {{19, 1}});
    std::fill(c.q.values.begin(), c.q.values.end(), 0.0f);
    c.q.set(0, 31, 1.0f);       // of head 0
    c.q.set(0, 32 + 30, 1.0f);  // of head 1
    c.weights.set(0, 0, 2.0f);
    c.weights.set(0, 1, -1.0f);
    for (int64_t j = 0; j < 20; ++j) {
      c.set(0, j, 30, 0.0f);
      c.set(0, j, 31, j == 17 ? 4.0f : j == 6 ? 5.0f : -3.0f);  // below zero is zero
    }
    c.set(0, 6, 30, 9.0f);  // 10 less 9
    c.run(op, threads);
    EXPECT_EQ(c.of_token(0), (std::vector<int32_t>{0, 6, 17}));
    c.set(0, 6, 30, 11.0f);  // below the zeros of all others
    c.run(op, threads);
    EXPECT_EQ(c.of_token(0), (std::vector<int32_t>{0, 1, 17}));
    c.set(0, 12, 31, NAN);
    c.run(op, threads);
    EXPECT_EQ(c.of_token(0), (std::vector<int32_t>{0, 12, 17}));
  });
}

// Queries, keys and weights are small whole numbers, so that scores are exact and many are equal.
void make_whole(ChooseCase& c) {
  Random random(74);
  for (OwnedRows* rows : {&c.q, &c.weights}) {
    for (int64_t t = 0; t < rows->rows; ++t) {
      for (int64_t i = 0; i < rows->width; ++i) {
        rows->set(t, i, static_cast<float>(random.below(5)) - 2.0f);
      }
    }
  }
  for (int64_t t = 0; t < c.angles.rows; ++t) {
    for (int64_t i = 0; i < c.angles.width; ++i) {
      c.angles.set(t, i, i < c.angles.width / 2 ? 1.0f : 0.0f);
    }
  }
  for (size_t s = 0; s + 1 < c.ragged.query_start.size(); ++s) {
    for (int64_t j = 0; j < c.ragged.context_len[s]; ++j) {
      for (int64_t d = 0; d < c.problem.dim; ++d) {
        c.set(static_cast<int64_t>(s), j, d, static_cast<float>(random.below(3)) - 1.0f);
      }
    }
  }
}

// The step with all tokens but one elsewhere.
void leave_alone(ChooseCase& c, int64_t token) {
  for (int32_t& start : c.ragged.query_start) {
    start = static_cast<int32_t>(std::clamp<int64_t>(start, token, token + 1));
  }
}

TEST(ChooseKeys, ManyEqualScoresOfLongContextsGoToTheLowestPositions) {
  ThreadPool threads(2);
  for (const int64_t most : {1, 2048, 20000}) {
    const ChooseKeys::Problem problem{.num_heads = 3, .dim = 16, .rotary_dim = 16, .most = most};
    // 20001 keys are one more than all; 4097 end a thread's last load of several.
    const std::vector<Piece> pieces = {{20000, 2}, {4095, 3}, {12345, 1}};
    ChooseCase reference(problem, pieces);
    make_whole(reference);
    const std::vector<int32_t> expected =
        reference.run(*reference_of<ChooseKeys>().prepare(problem, {}, {}), threads);
    each_implementation<ChooseKeys>(
        problem,
        [&](const Implementation<ChooseKeys>& implementation, const OpOptions& options) {
          ChooseCase c(problem, pieces);
          make_whole(c);
          EXPECT_EQ(c.run(*implementation.prepare(problem, {}, options), threads), expected);
        },
        threads);
  }
}

// On a GPU: of more tokens than have their scores side by side.
TEST(ChooseKeys, ALongPromptHasTheChoicesOfItsTokensAlone) {
  ThreadPool threads(2);
  const ChooseKeys::Problem problem{.num_heads = 1, .dim = 16, .rotary_dim = 16, .most = 64};
  const std::vector<Piece> pieces = {{17000, 1}, {16000, 2200}};
  each_implementation<ChooseKeys>(
      problem,
      [&](const Implementation<ChooseKeys>& implementation, const OpOptions& options) {
        const auto op = implementation.prepare(problem, {}, options);
        ChooseCase whole(problem, pieces);
        make_whole(whole);
        whole.run(*op, threads);
        for (int64_t t = 0; t < whole.ragged.real_tokens(); t += t == 0 ? 1 : 157) {
          ChooseCase alone(problem, pieces);
          make_whole(alone);
          leave_alone(alone, t);
          is_judging = false;
          alone.run(*reference_of<ChooseKeys>().prepare(problem, {}, {}), threads);
          is_judging = true;
          EXPECT_EQ(whole.of_token(t), alone.of_token(t)) << t;
        }
      },
      threads);
}

TEST(ChooseKeys, ATokenHasTheSameChoiceAlone) {
  ThreadPool threads(2);
  const ChooseKeys::Problem problem = kChooseProblems[0];
  each_implementation<ChooseKeys>(
      problem,
      [&](const Implementation<ChooseKeys>& implementation, const OpOptions& options) {
        const auto op = implementation.prepare(problem, {}, options);
        ASSERT_EQ(op->batch_invariant(), BatchInvariance::kFull);
        ChooseCase whole(problem);
        whole.run(*op, threads);
        for (int64_t t = 0; t < whole.ragged.real_tokens(); t += t < 4 ? 1 : 13) {
          ChooseCase alone(problem);
          leave_alone(alone, t);
          alone.run(*op, threads);
          EXPECT_EQ(alone.of_token(t), whole.of_token(t)) << t;
        }
      },
      threads);
}

}  // namespace
}  // namespace moe4
