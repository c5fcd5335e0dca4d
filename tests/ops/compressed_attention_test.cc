// CompressToCache, ChooseKeys of shared keys and CompressedAttention over ragged batches.
#include "ops/compressed_attention/compressed_attention.h"

#include <gtest/gtest.h>

#include "numerics/f16.h"
#include "ops/choose_keys/choose_keys.h"
#include "ops/compress_to_cache/compress_to_cache.h"
#include "ops/conformance.h"

namespace moe4 {
namespace {

using namespace moe4::testing;

// Decodes first, at all places of an entry and at the border of a page; an empty sequence; prompts
// that begin, end inside an entry, on its edge, and go on behind others.
const std::vector<Piece> kPieces = {{5, 1},  {7, 1}, {300, 1}, {63, 1},    {127, 1}, {70, 0},
                                    {0, 65}, {0, 3}, {64, 64}, {128, 150}, {0, 1}};

// ---- CompressToCache

struct CompressCase {
  explicit CompressCase(const CompressToCache::Problem& p,
                        const std::vector<Piece>& pieces = kPieces,
                        RowFormat rows = RowFormat::kF32)
      : problem(p),
        ragged(pieces, 1, 2),
        kv(ragged.batch.num_tokens, p.width(), 41, 1.0f, rows),
        gate(ragged.batch.num_tokens, p.width(), 42, 2.0f, rows),
        angles(ragged.batch.num_tokens, p.rotary_dim, 43, 0.8f),
        bias(normals(p.ratio * p.width(), 44, 0.5f)),
        norm(normals(p.dim, 45, 0.3f, 1.0f)),
        pages(ragged.num_pages * cache_unit_bytes(p.cache())),
        // What sequences in the middle of something have summed so far: three parts a sequence.
        states(ragged.num_slots * cache_unit_bytes(p.state()) / 4) {
    const int64_t stride = cache_unit_bytes(p.state()) / 4, width = p.width();
    Random random(46);
    for (int64_t slot = 0; slot < ragged.num_slots; ++slot) {
      for (int64_t c = 0; c < width; ++c) {
        states[slot * stride + c] = random.normal();
        states[slot * stride + width + c] = 1.0f + std::abs(random.normal());
        states[slot * stride + 2 * width + c] = random.normal();
      }
    }
  }

  CompressToCache::Weights weights() const { return {tensor_of(bias), tensor_of(norm)}; }
  void run(const Prepared<CompressToCache>& op, ThreadPool& threads) {
    OwnedRows values = kv.as(is_judging ? kv.format : RowFormat::kF32);
    OwnedRows weights = gate.as(is_judging ? gate.format : RowFormat::kF32);
    run_op(op,
           {.kv = values.view(),
            .gate = weights.view(),
            .angles = angles.view(),
            .batch = &ragged.batch,
            .cache = {pages.data(), cache_unit_bytes(problem.cache()), 0},
            .state = {reinterpret_cast<std::byte*>(states.data()),
                      cache_unit_bytes(problem.state()), 0}},
           threads);
  }
  // Tokens [begin, end) of the first sequence, as a step of their own.
  void run_tokens(const Prepared<CompressToCache>& op, ThreadPool& threads, int64_t begin,
                  int64_t end) {
    Batch step = ragged.batch;
    std::vector<int32_t> starts(ragged.query_start.size(), static_cast<int32_t>(end - begin));
    starts[0] = 0;
    step.num_tokens = end - begin;
    step.positions += begin;
    step.query_start = starts.data();
    ragged.context_len[0] = static_cast<int32_t>(end);
    run_op(op,
           {.kv = kv.view().slice(begin, end - begin),
            .gate = gate.view().slice(begin, end - begin),
            .angles = angles.view().slice(begin, end - begin),
            .batch = &step,
            .cache = {pages.data(), cache_unit_bytes(problem.cache()), 0},
            .state = {reinterpret_cast<std::byte*>(states.data()),
                      cache_unit_bytes(problem.state()), 0}},
           threads);
  }
  std::vector<float> cached() const {
    std::vector<float> values;
    for (size_t i = 0; i < pages.size(); i += size_of(problem.cache_dtype)) {
      values.push_back(problem.cache_dtype == DType::kF16
                           ? to_float(*reinterpret_cast<const F16*>(pages.data() + i))
                           : *reinterpret_cast<const float*>(pages.data() + i));
    }
    return values;
  }
  // What the next entry of a sequence would be of what is summed, as numbers that do not depend on
  // which weight was the largest.
  std::vector<float> sums() const {
    const int64_t stride = cache_unit_bytes(problem.state()) / 4, width = problem.width();
    std::vector<float> all;
    for (int64_t slot = 0; slot < ragged.num_slots; ++slot) {
      for (int64_t c = 0; c < width; ++c) {
        const float* at = states.data() + slot * stride + c;
        if (at[width] == 0.0f) continue;
        all.push_back(at[2 * width] / at[width]);
        all.push_back(at[0] + std::log(at[width]));
      }
    }
    return all;
  }

  CompressToCache::Problem problem;
  RaggedBatch ragged;
  OwnedRows kv, gate, angles;
  std::vector<float> bias, norm;
  std::vector<std::byte> pages;
  std::vector<float> states;
};

const CompressToCache::Problem kCompressProblems[] = {
    {.dim = 80, .ratio = 4, .overlaps = true, .rotary_dim = 16, .norm = {.eps = 1e-3f}},
    {.dim = 32, .ratio = 8, .rotary_dim = 32, .norm = {}, .cache_dtype = DType::kF32},
    {.dim = 16, .ratio = 128, .rotary_dim = 4, .norm = {}, .cache_dtype = DType::kF32},
    {.dim = 144, .ratio = 64, .overlaps = true, .rotary_dim = 64, .norm = {}},
    {.dim = 16, .ratio = 1, .rotary_dim = 2, .norm = {}, .cache_dtype = DType::kF32},
    // DeepSeek-V4's, and further ones of F16.
    {.dim = 512, .ratio = 4, .overlaps = true, .rotary_dim = 64, .norm = {}},
    {.dim = 512, .ratio = 128, .rotary_dim = 64, .norm = {}},
    {.dim = 48, .ratio = 8, .rotary_dim = 12, .norm = {.eps = 0.5f}},
    {.dim = 16, .ratio = 1, .overlaps = true, .rotary_dim = 2, .norm = {}}};

TEST(CompressToCache, EqualsFloat64AndWritesNothingElse) {
  for (const CompressToCache::Problem& problem : kCompressProblems) {
    SCOPED_TRACE(problem.ratio);
    if (!is_judged<CompressToCache>(problem)) continue;
    ThreadPool threads(3);
    for (const RowFormat rows : activation_formats()) {
      CompressCase expected(problem, kPieces, rows);
      expected.run(*reference_of<CompressToCache>().prepare(problem, expected.weights(), {}),
                   threads);
      const std::vector<float> cached = expected.cached();
      each_implementation<CompressToCache>(
          problem,
          [&](const Implementation<CompressToCache>& implementation, const OpOptions& options) {
            CompressCase c(problem, kPieces, rows);
            c.run(*implementation.prepare(problem, c.weights(), options), threads);
            const std::vector<float> found = c.cached();
            EXPECT_LT(relative_error(found, cached),
                      problem.cache_dtype == DType::kF32 ? 2e-6 : 1e-3);
            EXPECT_LT(relative_error(c.sums(), expected.sums()), 2e-6);
            int64_t written = 0;
            for (size_t i = 0; i < cached.size(); ++i) {
              ASSERT_EQ(found[i] == 0.0f, cached[i] == 0.0f) << i;
              written += cached[i] != 0.0f ? 1 : 0;
            }
            EXPECT_GT(written, 0);
          },
          threads);
    }
  }
}

TEST(CompressToCache, AnInfiniteElementMakesTheKeyNoNumber) {
  ThreadPool threads(1);
  CompressToCache::Problem problem = kCompressProblems[0];
  const auto check = [&](const Prepared<CompressToCache>& op) {
    CompressCase c(problem, {{0, 9}});
    c.angles.set(3, 0, 3e38f);  // finite, and infinite once turned
    c.kv.set(3, problem.width() - problem.rotary_dim, 1e4f);
    c.kv.set(3, problem.width() - problem.rotary_dim + 1, 1e4f);
    c.run(op, threads);
    const std::vector<float> cached = c.cached();
    const auto nans =
        std::count_if(cached.begin(), cached.end(), [](float x) { return std::isnan(x); });
    EXPECT_EQ(nans, problem.dim);
  };
  CompressCase any(problem);
  each_implementation<CompressToCache>(
      problem,
      [&](const Implementation<CompressToCache>& implementation, const OpOptions& options) {
        check(*implementation.prepare(problem, any.weights(), options));
      },
      threads);
}

// By the definition alone: one sequence from its beginning.
TEST(CompressToCache, AnEntryIsTheSoftmaxOverItsTokensAndThoseBefore) {
  ThreadPool threads(2);
  CompressToCache::Problem problem{.dim = 16,
                                   .ratio = 4,
                                   .overlaps = true,
                                   .rotary_dim = 2,
                                   .norm = {},
                                   .cache_dtype = DType::kF32};
  const auto check = [&](const Prepared<CompressToCache>& op) {
    CompressCase c(problem, {{0, 11}});
    for (int64_t t = 0; t < 11; ++t) {  // no rotation
      c.angles.set(t, 0, 1.0f);
      c.angles.set(t, 1, 0.0f);
    }
    c.run(op, threads);
    const std::vector<float> cached = c.cached();
    const int64_t page =
        c.ragged.blocks[0] * cache_unit_bytes(problem.cache()) / size_of(problem.cache_dtype);
    const double allowed = problem.cache_dtype == DType::kF32 ? 1e-5 : 2e-3;
    for (const int64_t entry : {0, 1}) {
      std::vector<double> values(16);
      double squares = 0;
      for (int64_t d = 0; d < 16; ++d) {
        double sum = 0;
        for (int64_t t = 0; t < 4 * entry + 4; ++t) {
          const bool own = t / 4 == entry;
          const int64_t column = own ? 16 + d : d;
          const double weight = std::exp(static_cast<double>(c.gate.at(t, column)) +
                                         static_cast<double>(c.bias[t % 4 * 32 + column]));
          sum += weight;
          values[d] += weight * static_cast<double>(c.kv.at(t, column));
        }
        values[d] /= sum;
        squares += values[d] * values[d];
      }
      for (int64_t d = 0; d < 16; ++d) {
        const double expected =
            values[d] / std::sqrt(squares / 16 + 1e-6) * static_cast<double>(c.norm[d]);
        EXPECT_NEAR(cached[page + entry * 16 + d], expected, allowed) << entry << " " << d;
      }
    }
    EXPECT_EQ(cached[page + 32], 0.0f);  // three tokens are no entry
  };
  for (const DType cache : {DType::kF32, DType::kF16}) {
    problem.cache_dtype = cache;
    if (!is_judged<CompressToCache>(problem)) continue;
    CompressCase any(problem, {{0, 11}});
    check(*reference_of<CompressToCache>().prepare(problem, any.weights(), {}));
    each_implementation<CompressToCache>(
        problem,
        [&](const Implementation<CompressToCache>& implementation, const OpOptions& options) {
          check(*implementation.prepare(problem, any.weights(), options));
        },
        threads);
  }
}

TEST(CompressToCache, APromptHasTheSameBitsHoweverItIsCut) {
  ThreadPool many(4), one(1);
  for (const CompressToCache::Problem& problem : kCompressProblems) {
    SCOPED_TRACE(problem.ratio);
    if (!is_judged<CompressToCache>(problem)) continue;
    each_implementation<CompressToCache>(
        problem,
        [&](const Implementation<CompressToCache>& implementation, const OpOptions& options) {
          CompressCase whole(problem, {{0, 300}});
          const auto op = implementation.prepare(problem, whole.weights(), options);
          whole.run(*op, many);
          CompressCase cut(problem, {{0, 300}});
          for (int64_t begin = 0; begin < 300;) {
            const int64_t end = std::min<int64_t>(begin + (begin < 130 ? 65 : 1), 300);
            cut.run_tokens(*op, one, begin, end);
            begin = end;
          }
          EXPECT_EQ(cut.pages, whole.pages);
          EXPECT_TRUE(same_bits(cut.states, whole.states));
        },
        many);
  }
}

// ---- pages of keys, their places without one NaN

class Pages {
 public:
  Pages(const PagedSpec& spec, const RaggedBatch& ragged, const std::vector<Piece>& pieces,
        uint64_t seed)
      : spec_(spec), ragged_(ragged) {
    cache.unit_bytes = cache_unit_bytes(spec);
    memory_.assign(ragged.num_pages * cache.unit_bytes / 4 + 16, NAN);
    cache.data = reinterpret_cast<std::byte*>(memory_.data());
    for (size_t s = 0; s < pieces.size(); ++s) {
      const int64_t tokens = pieces[s].context + pieces[s].tokens;
      for (int64_t j = 0; j < tokens / spec.ratio; ++j) {
        Random random(seed + s * 7919 + j * 31);
        for (int64_t d = 0; d < spec.key_dim; ++d) {
          set(static_cast<int64_t>(s), j, d, random.normal());
        }
      }
    }
  }

  void set(int64_t s, int64_t key, int64_t d, float x) {
    const int64_t last = (key + 1) * spec_.ratio - 1;
    const int64_t block = ragged_.table.blocks[s * ragged_.table.max_blocks + last / kPageTokens];
    std::byte* page = cache.data + block * cache.unit_bytes;
    const int64_t i = last % kPageTokens / spec_.ratio * spec_.key_dim + d;
    if (spec_.dtype == DType::kF16) {
      reinterpret_cast<F16*>(page)[i] = to_f16(x);
    } else {
      reinterpret_cast<float*>(page)[i] = x;
    }
  }

  LayerCache cache;

 private:
  PagedSpec spec_;
  const RaggedBatch& ragged_;
  std::vector<float> memory_;
};

// ---- ChooseKeys of shared keys

const ChooseKeys::Problem kChooseProblems[] = {
    {.num_heads = 12,
     .dim = 32,
     .rotary_dim = 16,
     .rotates_pairs = true,
     .rotates_end = true,
     .ratio = 4,
     .most = 9},
    {.num_heads = 3,
     .dim = 16,
     .rotary_dim = 16,
     .ratio = 64,
     .most = 2,
     .cache_dtype = DType::kF32},
    {.num_heads = 3,
     .dim = 48,
     .rotary_dim = 8,
     .rotates_end = true,
     .ratio = 128,
     .most = 1,
     .cache_dtype = DType::kF32},
    {.num_heads = 64,
     .dim = 128,
     .rotary_dim = 64,
     .rotates_pairs = true,
     .rotates_end = true,
     .ratio = 4,
     .most = 300},
    {.num_heads = 5, .dim = 112, .rotary_dim = 48, .rotates_end = true, .ratio = 16, .most = 20},
    {.num_heads = 3, .dim = 48, .rotary_dim = 16, .rotates_end = true, .ratio = 128, .most = 1}};

TEST(ChooseKeys, OfSeveralTokensEachAreWhatFloat64Chooses) {
  for (const ChooseKeys::Problem& problem : kChooseProblems) {
    SCOPED_TRACE(problem.ratio);
    if (!is_judged<ChooseKeys>(problem)) continue;
    ThreadPool threads(3);
    const std::vector<Piece> pieces = {{5, 1}, {2, 1}, {5000, 1}, {0, 70}, {64, 300}};
    const RaggedBatch ragged(pieces, 1, 2);
    Pages pages(problem.cache(), ragged, pieces, 61);
    OwnedRows weights(ragged.batch.num_tokens, problem.num_heads, 62, 1.0f);
    OwnedRows angles(ragged.batch.num_tokens, problem.rotary_dim, 63, 0.7f);
    const auto run = [&](const Prepared<ChooseKeys>& op) {
      OwnedRows q(ragged.batch.num_tokens, problem.num_heads * problem.dim, 64, 1.0f);
      std::vector<int32_t> chosen(ragged.batch.num_tokens * problem.most, -7);
      run_op(op,
             {.q = q.view(),
              .weights = weights.view(),
              .angles = angles.view(),
              .batch = &ragged.batch,
              .cache = pages.cache,
              .chosen = chosen.data()},
             threads);
      return chosen;
    };
    const std::vector<int32_t> expected = run(*reference_of<ChooseKeys>().prepare(problem, {}, {}));
    for (int64_t t = 0; t < ragged.real_tokens(); ++t) {
      const int64_t keys = (ragged.positions[t] + 1) / problem.ratio;
      for (int64_t i = 0; i < problem.most; ++i) {
        const int32_t key = expected[t * problem.most + i];
        EXPECT_EQ(key >= 0, i < keys);
        EXPECT_LT(key, std::max<int64_t>(keys, 1));
      }
    }
    each_implementation<ChooseKeys>(
        problem,
        [&](const Implementation<ChooseKeys>& implementation, const OpOptions& options) {
          EXPECT_EQ(run(*implementation.prepare(problem, {}, options)), expected);
        },
        threads);
  }
}

// ---- CompressedAttention

struct AttentionCase {
  explicit AttentionCase(const CompressedAttention::Problem& p,
                         const std::vector<Piece>& pieces = kPieces,
                         RowFormat format = RowFormat::kF32)
      : problem(p),
        format(format),
        ragged(pieces, 1, 2),
        queries(ragged.batch.num_tokens, p.num_heads * p.head_dim, 51, 1.0f),
        angles(ragged.batch.num_tokens, p.rotary_dim, 52, 0.8f),
        sinks(normals(p.num_heads, 53, 1.0f, 1.0f)),
        chosen(ragged.batch.num_tokens * p.num_chosen, -1),
        window(p.cache(), ragged, pieces, 54),
        entries(p.ratio > 0 ? p.entries() : p.cache(), ragged, pieces, 55) {
    // Every other entry, from the first on; the last ones where those are too few.
    for (int64_t t = 0; t < ragged.real_tokens() && p.num_chosen > 0; ++t) {
      const int64_t seen = (ragged.positions[t] + 1) / p.ratio;
      for (int64_t i = 0; i < std::min(p.num_chosen, seen); ++i) {
        const int64_t last = seen - std::min(p.num_chosen, seen) + i;
        chosen[t * p.num_chosen + i] =
            static_cast<int32_t>(seen >= 2 * p.num_chosen ? 2 * i : last);
      }
    }
  }

  CompressedAttention::Weights weights() const { return {tensor_of(sinks)}; }
  std::vector<float> run(const Prepared<CompressedAttention>& op, ThreadPool& threads) {
    OwnedRows y(ragged.batch.num_tokens, queries.width, NAN, is_judging ? format : RowFormat::kF32);
    run_op(op,
           {.queries = queries.view(),
            .angles = angles.view(),
            .batch = &ragged.batch,
            .cache = window.cache,
            .entries = problem.ratio > 0 ? entries.cache : LayerCache{},
            .chosen = problem.num_chosen > 0 ? chosen.data() : nullptr,
            .y = y.view()},
           threads);
    std::vector<float> values = y.dense();
    values.resize(ragged.real_tokens() * y.width);
    return values;
  }

  CompressedAttention::Problem problem;
  RowFormat format;  // of results
  RaggedBatch ragged;
  OwnedRows queries, angles;
  std::vector<float> sinks;
  std::vector<int32_t> chosen;
  Pages window, entries;
};

const CompressedAttention::Problem kProblems[] = {
    {.num_heads = 6, .head_dim = 48, .rotary_dim = 16, .scale = 0.2f, .window = 20},
    {.num_heads = 16, .head_dim = 32, .rotary_dim = 32, .scale = 0.2f, .window = 8, .ratio = 128},
    {.num_heads = 3,
     .head_dim = 32,
     .rotary_dim = 8,
     .scale = 0.3f,
     .window = 128,
     .ratio = 4,
     .num_chosen = 30,
     .cache_dtype = DType::kF32},
    {.num_heads = 5,
     .head_dim = 16,
     .rotary_dim = 4,
     .scale = 0.3f,
     .window = 1,
     .ratio = 8,
     .cache_dtype = DType::kF32},
    {.num_heads = 19,
     .head_dim = 112,
     .rotary_dim = 12,
     .scale = 0.1f,
     .window = 70,
     .ratio = 4,
     .num_chosen = 9},
    {.num_heads = 3, .head_dim = 192, .rotary_dim = 64, .scale = 0.07f, .window = 1, .ratio = 8}};
// Of DeepSeek-V4, but for the number of heads.
const CompressedAttention::Problem kModelProblems[] = {
    {.num_heads = 20, .head_dim = 512, .rotary_dim = 64, .scale = 0.0442f, .window = 128},
    {.num_heads = 20,
     .head_dim = 512,
     .rotary_dim = 64,
     .scale = 0.0442f,
     .window = 128,
     .ratio = 4,
     .num_chosen = 512},
    {.num_heads = 20,
     .head_dim = 512,
     .rotary_dim = 64,
     .scale = 0.0442f,
     .window = 128,
     .ratio = 128}};

void expect_float64(const CompressedAttention::Problem& problem, const std::vector<Piece>& pieces) {
  SCOPED_TRACE(problem.ratio);
  if (!is_judged<CompressedAttention>(problem)) return;
  ThreadPool threads(3);
  AttentionCase reference(problem, pieces);
  const std::vector<float> expected = reference.run(
      *reference_of<CompressedAttention>().prepare(problem, reference.weights(), {}), threads);
  for (const RowFormat format : activation_formats()) {
    each_implementation<CompressedAttention>(
        problem,
        [&](const Implementation<CompressedAttention>& implementation, const OpOptions& options) {
          AttentionCase c(problem, pieces, format);
          const auto op = implementation.prepare(problem, c.weights(), options);
          // On a GPU queries and weights are F16.
          const double allowed = options.device.is_cpu() ? 1e-5 : 5e-4;
          EXPECT_LT(relative_error(c.run(*op, threads), expected), tolerance(format, allowed));
        },
        threads);
  }
}

TEST(CompressedAttention, EqualsFloat64) {
  for (const CompressedAttention::Problem& problem : kProblems) expect_float64(problem, kPieces);
}

TEST(CompressedAttention, EqualsFloat64WithTheHeadsOfModels) {
  for (const CompressedAttention::Problem& problem : kModelProblems) {
    expect_float64(problem, {{4200, 1}, {2100, 1}, {700, 2}, {40, 1}, {0, 5}, {192, 3}});
  }
}

// On a GPU keys are dealt over blocks where there are few tokens.
TEST(CompressedAttention, ATokenHasTheSameBitsAmongAnyNumberOfOthers) {
  ThreadPool threads(2);
  for (const CompressedAttention::Problem& problem : kModelProblems) {
    each_implementation<CompressedAttention>(
        problem,
        [&](const Implementation<CompressedAttention>& implementation, const OpOptions& options) {
          const Piece longest{3000, 1};
          std::vector<std::vector<Piece>> batches = {{longest}, {longest, {0, 70}}};
          if (!options.device.is_cpu()) batches.push_back({longest, {64, 300}});
          batches.push_back(std::vector<Piece>(3, longest));
          std::vector<float> alone;
          for (const std::vector<Piece>& pieces : batches) {
            AttentionCase c(problem, pieces);
            const auto op = implementation.prepare(problem, c.weights(), options);
            std::vector<float> first = c.run(*op, threads);
            first.resize(c.queries.width);
            if (alone.empty()) alone = first;
            EXPECT_TRUE(same_bits(first, alone)) << pieces.size();
          }
        },
        threads);
  }
}

TEST(CompressedAttention, KeysBehindTheWindowAndEntriesThatAreNotThereAreNotSeen) {
  ThreadPool threads(2);
  CompressedAttention::Problem problem = kProblems[2];
  const std::vector<Piece> pieces = {{302, 1}};  // position 302: entries 0 to 74
  const auto check = [&](const Prepared<CompressedAttention>& op) {
    AttentionCase plain(problem, pieces);
    const std::vector<float> expected = plain.run(op, threads);
    const auto with = [&](bool entry, int64_t key) {
      AttentionCase c(problem, pieces);
      (entry ? c.entries : c.window).set(0, key, 3, 20.0f);
      return c.run(op, threads);
    };
    EXPECT_NE(with(false, 175), expected);  // 128 keys with its own
    EXPECT_EQ(with(false, 174), expected);
    EXPECT_NE(with(false, 302), expected);
    EXPECT_NE(with(true, 0), expected);  // every other one up to 58
    EXPECT_EQ(with(true, 1), expected);
    EXPECT_NE(with(true, 58), expected);
    EXPECT_EQ(with(true, 60), expected);
  };
  for (const DType cache : {DType::kF32, DType::kF16}) {
    problem.cache_dtype = cache;
    if (!is_judged<CompressedAttention>(problem)) continue;
    AttentionCase any(problem, pieces);
    check(*reference_of<CompressedAttention>().prepare(problem, any.weights(), {}));
    each_implementation<CompressedAttention>(
        problem,
        [&](const Implementation<CompressedAttention>& implementation, const OpOptions& options) {
          check(*implementation.prepare(problem, any.weights(), options));
        },
        threads);
  }
}

// Keys turned by the angles of a position and turned back by those of the query depend on the
// distance alone: with one key and no sink to speak of, the result is the key turned by it.
TEST(CompressedAttention, TheResultIsTurnedBack) {
  ThreadPool threads(1);
  CompressedAttention::Problem problem{.num_heads = 1,
                                       .head_dim = 16,
                                       .rotary_dim = 2,
                                       .scale = 1.0f,
                                       .window = 1,
                                       .cache_dtype = DType::kF16};
  AttentionCase c(problem, {{0, 1}});
  c.sinks[0] = -100.0f;
  c.angles.set(0, 0, 0.6f);
  c.angles.set(0, 1, 0.8f);
  for (int64_t d = 0; d < 16; ++d) c.window.set(0, 0, d, d == 14 ? 5.0f : d == 15 ? 10.0f : 1.0f);
  each_implementation<CompressedAttention>(
      problem,
      [&](const Implementation<CompressedAttention>& implementation, const OpOptions& options) {
        const std::vector<float> y =
            c.run(*implementation.prepare(problem, c.weights(), options), threads);
        EXPECT_FLOAT_EQ(y[13], 1.0f);
        EXPECT_FLOAT_EQ(y[14], 5 * 0.6f + 10 * 0.8f);
        EXPECT_FLOAT_EQ(y[15], 10 * 0.6f - 5 * 0.8f);
      },
      threads);
}

TEST(CompressedAttention, ASequenceHasTheSameBitsAloneOnAnyNumberOfThreads) {
  ThreadPool many(4), one(1);
  for (const CompressedAttention::Problem& problem : kProblems) {
    if (!is_judged<CompressedAttention>(problem)) continue;
    each_implementation<CompressedAttention>(
        problem,
        [&](const Implementation<CompressedAttention>& implementation, const OpOptions& options) {
          AttentionCase all(problem);
          const auto op = implementation.prepare(problem, all.weights(), options);
          const std::vector<float> together = all.run(*op, many);
          EXPECT_TRUE(same_bits(all.run(*op, one), together));
          const int64_t width = all.queries.width;
          for (size_t s = 0; s < kPieces.size(); ++s) {
            AttentionCase alone(problem);
            const int32_t first = alone.ragged.query_start[s];
            const int32_t last = alone.ragged.query_start[s + 1];
            for (int32_t& start : alone.ragged.query_start) start = std::clamp(start, first, last);
            OwnedRows y(alone.ragged.batch.num_tokens, width);
            run_op(*op,
                   {.queries = alone.queries.view(),
                    .angles = alone.angles.view(),
                    .batch = &alone.ragged.batch,
                    .cache = alone.window.cache,
                    .entries = problem.ratio > 0 ? alone.entries.cache : LayerCache{},
                    .chosen = problem.num_chosen > 0 ? alone.chosen.data() : nullptr,
                    .y = y.view()},
                   many);
            for (int64_t t = first; t < last; ++t) {
              EXPECT_TRUE(same_bits(y.row(t), std::span(together).subspan(t * width, width)));
            }
          }
        },
        many);
  }
}

}  // namespace
}  // namespace moe4
