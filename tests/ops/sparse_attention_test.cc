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
  explicit IndexCase(const IndexToCache::Problem& p)
      : problem(p),
        ragged(kPieces, 1, 2),
        k(ragged.batch.num_tokens, p.dim, 61, 2.0f),
        angles(ragged.batch.num_tokens, p.rotary_dim, 62, 0.5f),
        norm(normals(p.dim, 63, 0.3f, 1.0f)),
        bias(normals(p.dim, 64, 0.5f)),
        pages(ragged.num_pages * cache_unit_bytes(p.cache())) {}

  IndexToCache::Weights weights() const { return {tensor_of(norm), tensor_of(bias)}; }
  std::vector<float> run(const Prepared<IndexToCache>& op, ThreadPool& threads) {
    run_op(op,
           {.k = k.view(),
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
    {.dim = 16, .rotary_dim = 4, .rotates_pairs = true}};

TEST(IndexToCache, EqualsFloat64AndWritesNothingElse) {
  ThreadPool threads(3);
  for (const IndexToCache::Problem& problem : kIndexProblems) {
    SCOPED_TRACE(&problem - kIndexProblems);
    IndexCase expected(problem);
    const std::vector<float> cached = expected.run(
        *reference_of<IndexToCache>().prepare(problem, expected.weights(), {}), threads);
    each_implementation<IndexToCache>(
        problem,
        [&](const Implementation<IndexToCache>& implementation, const OpOptions& options) {
          IndexCase c(problem);
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

TEST(IndexToCache, TheMeanIsTakenOffAndHalvesAreNotPairs) {
  ThreadPool threads(1);
  each_implementation<IndexToCache>(
      kIndexProblems[1],
      [&](const Implementation<IndexToCache>& implementation, const OpOptions& options) {
        IndexCase plain(kIndexProblems[1]), shifted(kIndexProblems[1]);
        for (int64_t t = 0; t < shifted.k.rows; ++t) {
          for (int64_t d = 0; d < 32; ++d) shifted.k.set(t, d, shifted.k.at(t, d) + 5.0f);
        }
        const auto op = implementation.prepare(plain.problem, plain.weights(), options);
        const std::vector<float> expected = plain.run(*op, threads);
        EXPECT_LT(relative_error(shifted.run(*op, threads), expected), 1e-5);
        IndexToCache::Problem halves = kIndexProblems[1];
        halves.rotates_pairs = false;
        IndexCase other(halves);
        EXPECT_GT(relative_error(
                      other.run(*implementation.prepare(halves, other.weights(), options), threads),
                      expected),
                  1e-2);
      },
      threads);
}

struct ChooseCase {
  explicit ChooseCase(const ChooseKeys::Problem& p, const std::vector<Piece>& pieces = kPieces)
      : problem(p),
        ragged(pieces, 1, 2),
        q(ragged.batch.num_tokens, p.num_heads * p.dim, 71, 1.0f),
        weights(ragged.batch.num_tokens, p.num_heads, 72, 1.0f),
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
    OwnedRows queries = q;
    run_op(op,
           {.q = queries.view(),
            .weights = weights.view(),
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
    {.num_heads = 12, .dim = 16, .rotary_dim = 8, .most = 1500, .cache_dtype = DType::kF32}};

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
    for (const int num_threads : {1, 5}) {
      ThreadPool threads(num_threads);
      ChooseCase reference(problem);
      const std::vector<int32_t> expected =
          reference.run(*reference_of<ChooseKeys>().prepare(problem, {}, {}), threads);
      each_implementation<ChooseKeys>(
          problem,
          [&](const Implementation<ChooseKeys>& implementation, const OpOptions& options) {
            ChooseCase c(problem);
            EXPECT_EQ(c.run(*implementation.prepare(problem, {}, options), threads), expected);
          },
          threads);
    }
  }
}

TEST(ChooseKeys, ListsRiseAndEndWithTheTokenAndPaddingIsLeftAlone) {
  ThreadPool threads(2);
  for (const ChooseKeys::Problem& problem : kChooseProblems) {
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
  const ChooseKeys::Problem problem{
      .num_heads = 2, .dim = 16, .rotary_dim = 2, .most = 3, .cache_dtype = DType::kF32};
  each_and_reference(problem, threads, [&](const Prepared<ChooseKeys>& op) {
    ChooseCase c(problem, {{19, 1}});
    std::fill(c.q.values.begin(), c.q.values.end(), 0.0f);
    c.q.set(0, 15, 1.0f);       // of head 0
    c.q.set(0, 16 + 14, 1.0f);  // of head 1
    c.weights.set(0, 0, 2.0f);
    c.weights.set(0, 1, -1.0f);
    for (int64_t j = 0; j < 20; ++j) {
      c.set(0, j, 14, 0.0f);
      c.set(0, j, 15, j == 17 ? 4.0f : j == 6 ? 5.0f : -3.0f);  // below zero is zero
    }
    c.set(0, 6, 14, 9.0f);  // 10 less 9
    c.run(op, threads);
    EXPECT_EQ(c.of_token(0), (std::vector<int32_t>{0, 6, 17}));
    c.set(0, 6, 14, 11.0f);  // below the zeros of all others
    c.run(op, threads);
    EXPECT_EQ(c.of_token(0), (std::vector<int32_t>{0, 1, 17}));
    c.set(0, 12, 15, NAN);
    c.run(op, threads);
    EXPECT_EQ(c.of_token(0), (std::vector<int32_t>{0, 12, 17}));
  });
}

}  // namespace
}  // namespace moe4
