// LatentToCache and LatentAttention over ragged batches.
#include "ops/latent_attention/latent_attention.h"

#include <gtest/gtest.h>

#include "numerics/f16.h"
#include "ops/conformance.h"
#include "ops/latent_to_cache/latent_to_cache.h"

namespace moe4 {
namespace {

using namespace moe4::testing;

// Decodes first, one of them past a segment of 1024 keys; an empty sequence; prompts that end
// inside a page, on its edge, in one step of their own, and in the middle of the tokens that go
// through an implementation together.
const std::vector<Piece> kPieces = {{5, 1},  {1100, 1}, {63, 1},   {64, 1},  {70, 0},
                                    {0, 65}, {64, 64},  {128, 90}, {1020, 9}};
constexpr int64_t kDecodes = 4;

struct Format {
  const char* name;
  QuantScheme scheme;
  DType float_dtype = DType::kBF16;
};
const Format kFormats[] = {
    {"bf16", kUnquantized, DType::kBF16},
    {"f32", kUnquantized, DType::kF32},
    {"fp8_block", {{QuantFormat::kFp8Block128, false}, QuantKey{QuantFormat::kFp8Block128, true}}},
    {"nvfp4", kW4A16},
};

// 20 heads share no tile of queries evenly; 24 is no multiple of 16.
const LatentAttention::Problem kProblems[] = {{.num_heads = 20,
                                               .nope_dim = 24,
                                               .rope_dim = 16,
                                               .latent_dim = 64,
                                               .value_dim = 20,
                                               .scale = 0.21f},
                                              {.num_heads = 3,
                                               .nope_dim = 16,
                                               .rope_dim = 32,
                                               .latent_dim = 48,
                                               .value_dim = 48,
                                               .scale = 0.15f,
                                               .cache_dtype = DType::kF32},
                                              {.num_heads = 4,
                                               .nope_dim = 16,
                                               .rope_dim = 16,
                                               .latent_dim = 32,
                                               .value_dim = 16,
                                               .scale = 0.2f,
                                               .temperature = {.beta = 0.5, .span = 64}},
                                              // chosen keys, fewer and more than a page
                                              {.num_heads = 20,
                                               .nope_dim = 24,
                                               .rope_dim = 16,
                                               .latent_dim = 64,
                                               .value_dim = 20,
                                               .scale = 0.21f,
                                               .num_chosen = 24},
                                              {.num_heads = 3,
                                               .nope_dim = 16,
                                               .rope_dim = 32,
                                               .latent_dim = 48,
                                               .value_dim = 48,
                                               .scale = 0.15f,
                                               .num_chosen = 90,
                                               .cache_dtype = DType::kF32},
                                              {.num_heads = 3,
                                               .nope_dim = 16,
                                               .rope_dim = 32,
                                               .latent_dim = 112,
                                               .value_dim = 48,
                                               .scale = 0.1f,
                                               .num_chosen = 1},
                                              // as wide as those of models, and several spans
                                              {.num_heads = 20,
                                               .nope_dim = 24,
                                               .rope_dim = 32,
                                               .latent_dim = 288,
                                               .value_dim = 20,
                                               .scale = 0.05f,
                                               .num_chosen = 700}};

struct AttentionCase {
  explicit AttentionCase(const LatentAttention::Problem& p, const Format& format = kFormats[0],
                         const std::vector<Piece>& pieces = kPieces, int64_t num_decodes = 0,
                         RowFormat rows = RowFormat::kF32)
      : problem(p),
        ragged(pieces, /*padding_seqs=*/2, /*padding_tokens=*/3, num_decodes),
        q(ragged.batch.num_tokens, p.q_width(), 31, 1.0f, rows),
        angles(ragged.batch.num_tokens, p.rope_dim, 32, 0.8f),
        chosen(ragged.batch.num_tokens * p.num_chosen, -1) {
    for (int64_t t = 0; p.num_chosen > 0 && t < ragged.real_tokens(); ++t) choose(t);
    Random random(33);
    RandomMoeOptions options{.scheme = format.scheme};
    options.float_dtype = format.float_dtype;
    weights.kv_b = moe4::testing::internal::random_linear(memory, options, random, "kv_b_proj",
                                                          p.num_heads * (p.nope_dim + p.value_dim),
                                                          p.latent_dim, 1.0f);
    cache.unit_bytes = (p.latent_dim + p.rope_dim) * kPageTokens * size_of(p.cache_dtype);
    // Places that no token has filled hold NaN: nothing may read them.
    pages.assign(ragged.num_pages * cache.unit_bytes / 4 + 16, NAN);
    cache.data = reinterpret_cast<std::byte*>(pages.data());
    for (size_t s = 0; s < pieces.size(); ++s) {
      for (int64_t j = 0; j < pieces[s].context + pieces[s].tokens; ++j) {
        Random values(s * 7919 + j * 31 + 1);
        for (int64_t d = 0; d < p.latent_dim + p.rope_dim; ++d) {
          set(static_cast<int64_t>(s), j, d, values.normal());
        }
      }
    }
  }

  // All keys, or as many as may be, evenly apart.
  void choose(int64_t t) {
    const int64_t keys = ragged.positions[t] + 1, most = problem.num_chosen;
    int32_t* list = chosen.data() + t * most;
    for (int64_t i = 0; i < std::min(keys, most); ++i) {
      list[i] = static_cast<int32_t>(keys <= most ? i : i * keys / most);
    }
  }

  void set(int64_t s, int64_t position, int64_t d, float x) {
    const int64_t block = ragged.table.blocks[s * ragged.table.max_blocks + position / kPageTokens];
    std::byte* page = cache.data + block * cache.unit_bytes;
    const int64_t i = position % kPageTokens * (problem.latent_dim + problem.rope_dim) + d;
    if (problem.cache_dtype == DType::kF16) {
      reinterpret_cast<F16*>(page)[i] = to_f16(x);
    } else {
      reinterpret_cast<float*>(page)[i] = x;
    }
  }

  // Calls check(op) with all that are judged.
  void each_op(ThreadPool& threads,
               const std::function<void(const Prepared<LatentAttention>&)>& check) const {
    each_implementation<LatentAttention>(
        problem,
        [&](const Implementation<LatentAttention>& implementation, const OpOptions& options) {
          check(*implementation.prepare(problem, weights, options));
        },
        threads);
  }
  OwnedRows run_all(const Prepared<LatentAttention>& op, ThreadPool& threads) {
    const RowFormat format = is_judging ? q.format : RowFormat::kF32;
    OwnedRows queries = q.as(format);
    OwnedRows y(ragged.batch.num_tokens, problem.y_width(), -7.0f, format);
    run_op(op,
           {.q = queries.view(),
            .angles = angles.view(),
            .batch = &ragged.batch,
            .cache = cache,
            .chosen = chosen.data(),
            .y = y.view()},
           threads);
    return y;
  }
  // Without rows of padding.
  std::vector<float> run(const Prepared<LatentAttention>& op, ThreadPool& threads) {
    OwnedRows y = run_all(op, threads);
    y.rows = ragged.real_tokens();
    return y.dense();
  }

  LatentAttention::Problem problem;
  RandomMoe memory;
  LatentAttention::Weights weights;
  RaggedBatch ragged;
  OwnedRows q, angles;
  std::vector<int32_t> chosen;
  std::vector<float> pages;
  LayerCache cache;
};

void expect_float64(const LatentAttention::Problem& problem, const Format& format,
                    const std::vector<Piece>& pieces, int64_t num_decodes, ThreadPool& threads) {
  for (const RowFormat rows : activation_formats()) {
    AttentionCase c(problem, format, pieces, num_decodes, rows);
    const auto reference = reference_of<LatentAttention>().prepare(problem, c.weights, {});
    const std::vector<float> expected = c.run(*reference, threads);
    each_implementation<LatentAttention>(
        problem,
        [&](const Implementation<LatentAttention>& implementation, const OpOptions& options) {
          const auto op = implementation.prepare(problem, c.weights, options);
          // On a GPU queries and weights of keys are F16.
          EXPECT_LT(relative_error(c.run(*op, threads), expected),
                    tolerance(rows, options.device.is_cpu() ? 3e-6 : 5e-4));
        },
        threads);
  }
}

TEST(LatentAttention, AbsorbedEqualsExpandedFloat64OverRaggedBatches) {
  for (const LatentAttention::Problem& problem : kProblems) {
    if (!is_judged<LatentAttention>(problem)) continue;
    for (const Format& format : kFormats) {
      SCOPED_TRACE(format.name);
      ThreadPool threads(format.float_dtype == DType::kF32 ? 1 : 5);
      expect_float64(problem, format, kPieces, format.name == kFormats[0].name ? 0 : kDecodes,
                     threads);
    }
  }
}

TEST(LatentAttention, EqualsFloat64WithTheSizesOfModels) {
  const LatentAttention::Problem problem{.num_heads = 32,
                                         .nope_dim = 128,
                                         .rope_dim = 64,
                                         .latent_dim = 512,
                                         .value_dim = 128,
                                         .scale = 0.07f};
  ThreadPool threads(4);
  expect_float64(problem, kFormats[0], {{90, 1}, {300, 1}, {0, 40}}, 2, threads);
}

TEST(LatentAttention, ChosenKeysWithTheSizesOfModels) {
  const LatentAttention::Problem problem{.num_heads = 17,
                                         .nope_dim = 64,
                                         .rope_dim = 64,
                                         .latent_dim = 512,
                                         .value_dim = 32,
                                         .scale = 0.07f,
                                         .num_chosen = 320};
  ThreadPool threads(4);
  // Two of the generated tokens of a sequence are being checked.
  expect_float64(problem, kFormats[0], {{90, 1}, {600, 2}, {318, 2}, {0, 20}, {310, 20}}, 3,
                 threads);
}

TEST(QueryTemperature, StepsAtMultiplesOfItsSpan) {
  const QueryTemperature mistral{.beta = 0.1, .span = 64};
  EXPECT_EQ(mistral.at(63), 1.0);
  EXPECT_DOUBLE_EQ(mistral.at(64), 1 + 0.1 * std::log(2.0));
  EXPECT_EQ(mistral.at(127), mistral.at(64));
  EXPECT_DOUBLE_EQ(mistral.at(128), 1 + 0.1 * std::log(3.0));
  const QueryTemperature llama{.beta = 0.1, .span = 64, .offset = 1};
  EXPECT_EQ(llama.at(62), 1.0);
  EXPECT_EQ(llama.at(63), mistral.at(64));
}

TEST(LatentAttention, ABatchWithoutTokensIsFine) {
  ThreadPool threads(2);
  AttentionCase c(kProblems[0], kFormats[0], {{64, 0}});
  c.each_op(threads,
            [&](const Prepared<LatentAttention>& op) { EXPECT_TRUE(c.run(op, threads).empty()); });
}

class LatentAttentionBits : public ::testing::TestWithParam<size_t> {};

TEST_P(LatentAttentionBits, ASequenceHasTheSameAloneOnAnyNumberOfThreads) {
  const LatentAttention::Problem& problem = kProblems[GetParam()];
  if (!is_judged<LatentAttention>(problem)) GTEST_SKIP() << "not on this device";
  ThreadPool many(4), one(1);
  AttentionCase all(problem, kFormats[0], kPieces, kDecodes);
  all.each_op(many, [&](const Prepared<LatentAttention>& op) {
    ASSERT_EQ(op.batch_invariant(), BatchInvariance::kFull);
    const std::vector<float> together = all.run(op, many);
    EXPECT_TRUE(same_bits(all.run(op, one), together));
    for (int64_t s = 0; s < static_cast<int64_t>(kPieces.size()); ++s) {
      // The same step with all other sequences empty.
      AttentionCase alone(problem, kFormats[0], kPieces, kDecodes);
      const int64_t first = all.ragged.query_start[s], last = all.ragged.query_start[s + 1];
      for (int32_t& start : alone.ragged.query_start) {
        start = static_cast<int32_t>(std::clamp<int64_t>(start, first, last));
      }
      OwnedRows y = alone.run_all(op, many);
      for (int64_t t = first; t < last; ++t) {
        EXPECT_TRUE(same_bits(
            y.row(t), std::span(together).subspan(t * problem.y_width(), problem.y_width())))
            << "sequence " << s << " token " << t;
      }
    }
  });
}

// On a GPU prompts of narrower latents take kernels of their own where all keys are seen.
TEST(LatentAttention, AllKeysChosenHaveTheBitsOfAllKeys) {
  ThreadPool threads(2);
  for (const int64_t num_decodes : {int64_t{0}, kDecodes}) {
    LatentAttention::Problem problem = kProblems[6];
    problem.num_chosen = 0;
    std::vector<std::vector<float>> expected;  // of each implementation
    AttentionCase all(problem, kFormats[0], kPieces, num_decodes);
    all.each_op(threads, [&](const Prepared<LatentAttention>& op) {
      expected.push_back(all.run(op, threads));
    });
    problem.num_chosen = 1024;  // which the last token before it shares a step with those behind
    AttentionCase chosen(problem, kFormats[0], kPieces, num_decodes);
    size_t next = 0;
    chosen.each_op(threads, [&](const Prepared<LatentAttention>& op) {
      const std::vector<float> found = chosen.run(op, threads), &whole = expected.at(next++);
      int64_t behind = 0;
      for (int64_t t = 0; t < chosen.ragged.real_tokens(); ++t) {
        const auto row = [&](const std::vector<float>& y) {
          return std::span(y).subspan(t * problem.y_width(), problem.y_width());
        };
        const bool sees_all = chosen.ragged.positions[t] < 1024;
        EXPECT_EQ(same_bits(row(found), row(whole)), sees_all) << t;
        behind += sees_all ? 0 : 1;
      }
      EXPECT_GT(behind, 0);
    });
  }
}

TEST(LatentAttention, KeysThatAreNotChosenAreNotSeen) {
  ThreadPool threads(2);
  LatentAttention::Problem problem = kProblems[0];
  problem.num_chosen = 100;
  const std::vector<Piece> pieces = {{300, 1}};
  const auto run_with = [&](int64_t position) {
    std::vector<float> y;
    AttentionCase c(problem, kFormats[0], pieces);
    c.set(0, position, 3, 30.0f);
    c.each_op(threads, [&](const Prepared<LatentAttention>& op) { y = c.run(op, threads); });
    return y;
  };
  AttentionCase plain(problem, kFormats[0], pieces);
  std::vector<float> expected;
  plain.each_op(threads,
                [&](const Prepared<LatentAttention>& op) { expected = plain.run(op, threads); });
  // 301 keys in steps of 3, from 0 on.
  EXPECT_EQ(run_with(4), expected);
  EXPECT_EQ(run_with(299), expected);
  EXPECT_NE(run_with(6), expected);
  EXPECT_NE(run_with(297), expected);
}

TEST_P(LatentAttentionBits, APromptHasTheSameInOnePieceAndInTokens) {
  const LatentAttention::Problem& problem = kProblems[GetParam()];
  if (!is_judged<LatentAttention>(problem)) GTEST_SKIP() << "not on this device";
  ThreadPool threads(3);
  AttentionCase whole(problem, kFormats[0], {{0, 150}});
  whole.each_op(threads, [&](const Prepared<LatentAttention>& op) {
    const std::vector<float> together = whole.run(op, threads);
    for (int64_t t = 0; t < 150; t += 7) {
      AttentionCase single(problem, kFormats[0], {{0, 150}});
      single.ragged.query_start[0] = static_cast<int32_t>(t);
      for (size_t i = 1; i < single.ragged.query_start.size(); ++i) {
        single.ragged.query_start[i] = static_cast<int32_t>(t + 1);
      }
      single.ragged.context_len[0] = static_cast<int32_t>(t + 1);
      OwnedRows y = single.run_all(op, threads);
      EXPECT_TRUE(same_bits(y.row(t),
                            std::span(together).subspan(t * problem.y_width(), problem.y_width())))
          << t;
    }
  });
}

INSTANTIATE_TEST_SUITE_P(Problems, LatentAttentionBits, ::testing::Values(0, 3, 4, 5, 6));

TEST(LatentAttention, OneWrongLatentOrRotatedKeyIsSeen) {
  const LatentAttention::Problem& problem = kProblems[0];
  ThreadPool threads(2);
  AttentionCase c(problem);
  c.each_op(threads, [&](const Prepared<LatentAttention>& op) {
    const std::vector<float> right = c.run(op, threads);
    for (const int64_t d : {int64_t{0}, problem.latent_dim + problem.rope_dim - 1}) {
      AttentionCase wrong(problem);
      wrong.set(/*s=*/5, /*position=*/40, d, 9.0f);
      EXPECT_GT(relative_error(wrong.run(op, threads), right), 1e-4) << d;
    }
  });
}

TEST(LatentAttention, TheRotatedPartOfAQueryTurnsByPairs) {
  // One key, one query, a score each way: turning (2i, 2i + 1) is not turning (i, i + dim / 2).
  const LatentAttention::Problem problem{.num_heads = 1,
                                         .nope_dim = 16,
                                         .rope_dim = 16,
                                         .latent_dim = 16,
                                         .value_dim = 16,
                                         .scale = 1.0f};
  ThreadPool threads(1);
  AttentionCase any(problem, kFormats[1], {{1, 1}});
  any.each_op(threads, [&](const Prepared<LatentAttention>& op) {
    AttentionCase c(problem, kFormats[1], {{1, 1}});
    std::fill(c.q.values.begin(), c.q.values.end(), 0.0f);
    std::fill(c.angles.values.begin(), c.angles.values.end(), 0.0f);
    c.q.set(0, 16 + 2, 1.0f);      // element 2 turns with 3, by the angle of pair 1
    c.angles.set(0, 8 + 1, 1.0f);  // a quarter turn: 2 becomes 3
    for (const int64_t position : {0, 1}) {
      for (int64_t d = 0; d < 32; ++d) {
        c.set(0, position, d, d < 16 ? 1.0f - 2.0f * position : 0.0f);
      }
    }
    c.set(0, 0, 16 + 3, 50.0f);  // only the first position is seen
    OwnedRows y = c.run_all(op, threads);
    for (int64_t d = 0; d < 16; ++d) c.set(0, 1, d, 1.0f);  // as if the second were the first
    OwnedRows first = c.run_all(op, threads);
    EXPECT_LT(relative_error(y.row(0), first.row(0)), 1e-6);
  });
}

TEST(LatentAttention, UnusableUpProjectionsAreRefusedByName) {
  ThreadPool threads(1);
  AttentionCase c(kProblems[0], kFormats[1]);
  const auto expect_refused = [&](const LinearWeights& kv_b, const char* what) {
    each_implementation<LatentAttention>(
        c.problem,
        [&](const Implementation<LatentAttention>& implementation, const OpOptions& options) {
          try {
            implementation.prepare(c.problem, {.kv_b = kv_b}, options);
            ADD_FAILURE() << what;
          } catch (const Error& error) {
            EXPECT_EQ(error.code(), ErrorCode::kBadInput);
            EXPECT_NE(std::string(error.what()).find("kv_b_proj"), std::string::npos)
                << error.what();
            EXPECT_NE(std::string(error.what()).find(what), std::string::npos) << error.what();
          }
        },
        threads);
  };
  LinearWeights biased = c.weights.kv_b, narrow = c.weights.kv_b, broken = c.weights.kv_b;
  const std::vector<float> bias(biased.out_features);
  biased.bias = {.data = bias.data(), .dtype = DType::kF32, .shape = {biased.out_features}};
  expect_refused(biased, "bias");
  narrow.out_features -= 1;
  expect_refused(narrow, "wrong shape");
  std::vector<float> values(broken.out_features * broken.in_features, 1.0f);
  values[77] = NAN;
  broken.weight.data = values.data();
  expect_refused(broken, "no number");
}

struct CacheCase {
  explicit CacheCase(const LatentToCache::Problem& p, RowFormat rows = RowFormat::kF32)
      : problem(p),
        ragged(kPieces, 1, 2),
        q(tokens(), std::max<int64_t>(p.q_latent_dim, 1), 41, 1.0f, rows),
        kv(tokens(), p.latent_dim + p.rope_dim, 42, 1.0f, rows),
        angles(tokens(), p.rope_dim, 43, 0.5f),
        q_norm(normals(p.q_latent_dim, 44, 0.3f, 1.0f)),
        kv_norm(normals(p.latent_dim, 45, 0.3f, 1.0f)),
        pages(ragged.num_pages * cache_unit_bytes(p.cache())) {}

  int64_t tokens() const { return ragged.batch.num_tokens; }
  LatentToCache::Weights weights() const {
    return {.q_norm = tensor_of(q_norm), .kv_norm = tensor_of(kv_norm)};
  }
  void run(const Prepared<LatentToCache>& op, ThreadPool& threads) {
    if (!is_judging) {  // the reference reads float32
      for (OwnedRows* rows : {&q, &kv}) *rows = rows->as(RowFormat::kF32);
    }
    run_op(op,
           {.q_latent = problem.q_latent_dim > 0 ? q.view() : Rows{},
            .kv = kv.view(),
            .angles = angles.view(),
            .slots = ragged.table.slots,
            .cache = {pages.data(), cache_unit_bytes(problem.cache()), 0}},
           threads);
  }
  // What the pages hold, as floats.
  std::vector<float> cached() const {
    std::vector<float> values;
    for (size_t i = 0; i < pages.size(); i += size_of(problem.cache_dtype)) {
      if (problem.cache_dtype == DType::kF16) {
        values.push_back(to_float(*reinterpret_cast<const F16*>(pages.data() + i)));
      } else {
        values.push_back(*reinterpret_cast<const float*>(pages.data() + i));
      }
    }
    return values;
  }

  LatentToCache::Problem problem;
  RaggedBatch ragged;
  OwnedRows q, kv, angles;
  std::vector<float> q_norm, kv_norm;
  std::vector<std::byte> pages;
};

const LatentToCache::Problem kCacheProblems[] = {
    {.q_latent_dim = 48, .latent_dim = 64, .rope_dim = 16, .norm = {.eps = 1e-3f}},
    {.latent_dim = 32, .rope_dim = 32, .norm = {.eps = 1e-5f}, .cache_dtype = DType::kF32}};

TEST(LatentToCache, EqualsFloat64AndWritesNothingElse) {
  ThreadPool threads(3);
  for (const LatentToCache::Problem& problem : kCacheProblems) {
    if (!is_judged<LatentToCache>(problem)) continue;
    for (const RowFormat rows : activation_formats()) {
      CacheCase expected(problem, rows);
      expected.run(*reference_of<LatentToCache>().prepare(problem, expected.weights(), {}),
                   threads);
      const std::vector<float> cached = expected.cached();
      each_implementation<LatentToCache>(
          problem,
          [&](const Implementation<LatentToCache>& implementation, const OpOptions& options) {
            CacheCase c(problem, rows);
            c.run(*implementation.prepare(problem, c.weights(), options), threads);
            EXPECT_LT(relative_error(c.q.dense(), expected.q.dense()), tolerance(rows, 1e-6));
            // F16 rounds to 2^-11; the same places are zero.
            const std::vector<float> found = c.cached();
            EXPECT_LT(relative_error(found, cached),
                      problem.cache_dtype == DType::kF16 ? 1e-4 : 1e-6);
            for (size_t i = 0; i < cached.size(); ++i) {
              ASSERT_EQ(found[i] == 0.0f, cached[i] == 0.0f) << i;
            }
          },
          threads);
    }
  }
}

// Calls check(op) with the reference and with all that are judged.
void each_and_reference(const CacheCase& c, ThreadPool& threads,
                        const std::function<void(const Prepared<LatentToCache>&)>& check) {
  {
    SCOPED_TRACE("reference");
    check(*reference_of<LatentToCache>().prepare(c.problem, c.weights(), {}));
  }
  each_implementation<LatentToCache>(
      c.problem,
      [&](const Implementation<LatentToCache>& implementation, const OpOptions& options) {
        check(*implementation.prepare(c.problem, c.weights(), options));
      },
      threads);
}

TEST(LatentToCache, ARowIsTheNormalisedLatentThenTheKeyTurnedByPairs) {
  ThreadPool threads(1);
  const LatentToCache::Problem problem{.latent_dim = 16, .rope_dim = 16, .norm = {.eps = 3.0f}};
  CacheCase any(problem);
  each_and_reference(any, threads, [&](const Prepared<LatentToCache>& op) {
    CacheCase c(problem);
    for (int64_t d = 0; d < 32; ++d) c.kv.set(0, d, d < 16 ? 1.0f : 0.0f);
    c.kv.set(0, 16 + 2, 1.0f);
    for (int64_t i = 0; i < 16; ++i) c.angles.set(0, i, 0.0f);
    c.angles.set(0, 8 + 1, 1.0f);  // pair 1 makes a quarter turn
    c.run(op, threads);
    const std::vector<float> cached = c.cached();
    const float* row = cached.data() + c.ragged.slots[0] * 32;
    // 1 / sqrt(1 + 3) * weight: eps counts, and the key is not part of the mean.
    for (int64_t d = 0; d < 16; ++d) EXPECT_NEAR(row[d], 0.5f * c.kv_norm[d], 1e-3) << d;
    for (int64_t d = 0; d < 16; ++d) EXPECT_EQ(row[16 + d], d == 3 ? 1.0f : 0.0f) << d;
  });
}

TEST(LatentToCache, AnInfiniteElementMakesTheRowNoNumber) {
  ThreadPool threads(1);
  CacheCase any(kCacheProblems[0]);
  each_and_reference(any, threads, [&](const Prepared<LatentToCache>& op) {
    CacheCase c(kCacheProblems[0]);
    // Finite, and infinite once turned.
    for (const int64_t d : {64, 65}) c.kv.set(2, d, 3e38f);
    c.angles.set(2, 0, 3.0f);
    c.angles.set(2, 8, 0.0f);
    c.run(op, threads);
    const std::vector<float> cached = c.cached();
    const auto nans =
        std::count_if(cached.begin(), cached.end(), [](float x) { return std::isnan(x); });
    EXPECT_EQ(nans, c.problem.latent_dim + c.problem.rope_dim);
  });
}

}  // namespace
}  // namespace moe4
