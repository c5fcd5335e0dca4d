// PagedAttention and QkvToCache over ragged batches.
#include <gtest/gtest.h>

#include <sstream>

#include "numerics/e4m3.h"
#include "numerics/f16.h"
#include "ops/attention/paged_attention.h"
#include "ops/conformance.h"
#include "ops/qkv_to_cache/qkv_to_cache.h"

namespace moe4 {
namespace {

using namespace moe4::testing;

// Decodes first, one of them far past a segment of 1024 keys; an empty sequence; prompts that end
// inside a page, on its edge and in one step of their own.
const std::vector<Piece> kPieces = {{5, 1}, {2100, 1}, {63, 1},  {64, 1},  {70, 0},
                                    {0, 1}, {0, 65},   {64, 64}, {128, 3}, {1020, 9}};
constexpr int64_t kDecodes = 4;
// The same with drafts, more and less of them.
const std::vector<Piece> kDrafts = {{5, 3}, {2100, 3}, {62, 3}, {64, 2},  {0, 0},
                                    {0, 3}, {1020, 3}, {0, 65}, {64, 64}, {960, 9}};
constexpr int64_t kDraftDecodes = 7;

}  // namespace

// Names parameters of tests.
void PrintTo(const PagedAttention::Problem& p, std::ostream* out) {
  *out << p.num_heads << "/" << p.num_kv_heads << " heads of " << p.head_dim << ", window "
       << p.window << ", chunk " << p.chunk << ", values of " << p.value_dim()
       << (p.sinks ? ", sinks" : "") << (p.latent_dim > 0 ? ", latent" : "");
}

namespace {

struct AttentionCase {
  explicit AttentionCase(const PagedAttention::Problem& problem, const std::vector<Piece>& pieces,
                         int64_t num_decodes = 0, RowFormat format = RowFormat::kF32,
                         uint64_t seed = 5)
      : problem(problem),
        format(format),
        ragged(pieces, /*padding_seqs=*/2, /*padding_tokens=*/3, num_decodes),
        queries(ragged.batch.num_tokens, problem.num_heads * problem.head_dim, seed, 1.0f),
        gates(ragged.batch.num_tokens, problem.gate_width(), seed + 1, 2.0f, format),
        sinks(normals(problem.num_heads, seed + 2, 1.0f, 1.0f)) {
    cache.unit_bytes = cache_unit_bytes(problem.cache());
    // Places that no token has filled hold NaN: nothing may read them.
    pages.assign(ragged.num_pages * cache.unit_bytes / 4 + 16, NAN);
    cache.data = reinterpret_cast<std::byte*>(pages.data());
    for (size_t s = 0; s < pieces.size(); ++s) {
      for (int64_t j = 0; j < pieces[s].context + pieces[s].tokens; ++j) {
        const int64_t arrays = problem.num_kv_heads * (problem.latent_dim > 0 ? 1 : 2);
        for (int64_t array = 0; array < arrays; ++array) {
          Random random(seed * 1000003 + s * 7919 + j * 31 + array);
          for (int64_t d = 0; d < width_of(array); ++d) {
            set(static_cast<int64_t>(s), j, array, d, random.normal());
          }
        }
      }
    }
  }

  PagedAttention::Weights weights() const { return {.sinks = tensor_of(sinks, "sinks")}; }

  bool is_value(int64_t array) const { return array >= problem.num_kv_heads; }
  int64_t width_of(int64_t array) const {
    return is_value(array) ? problem.value_dim() : problem.head_dim;
  }

  // Element d of a position in `array`: keys of all heads, then values.
  void set(int64_t s, int64_t position, int64_t array, int64_t d, float x) {
    const int64_t block = ragged.table.blocks[s * ragged.table.max_blocks + position / kPageTokens];
    std::byte* page = cache.data + block * cache.unit_bytes;
    const int64_t keys = std::min(array, problem.num_kv_heads);
    const int64_t i =
        (keys * problem.head_dim + (array - keys) * problem.value_dim()) * kPageTokens +
        position % kPageTokens * width_of(array) + d;
    if (problem.cache_dtype == DType::kF8E4M3) {
      const float scale = !is_value(array) ? problem.k_scale : problem.v_scale;
      reinterpret_cast<uint8_t*>(page)[i] = e4m3_from_float(x / scale);
    } else if (problem.cache_dtype == DType::kF16) {
      reinterpret_cast<F16*>(page)[i] = to_f16(x);
    } else {
      reinterpret_cast<float*>(page)[i] = x;
    }
  }

  // Rows of all tokens; gates and y are in `rows_format`.
  OwnedRows run_all(const Prepared<PagedAttention>& op, ThreadPool& threads,
                    RowFormat rows_format) {
    OwnedRows y(ragged.batch.num_tokens, problem.num_heads * problem.value_dim(), -7.0f,
                rows_format);
    OwnedRows gate_rows = gates.as(rows_format);
    run_op(op,
           {.queries = queries.view(),
            .gates = problem.output_gate != OutputGate::kNone ? gate_rows.view() : Rows{},
            .batch = &ragged.batch,
            .cache = cache,
            .y = y.view()},
           threads);
    return y;
  }
  // The reference's are float32.
  std::vector<float> run(const Prepared<PagedAttention>& op, ThreadPool& threads) {
    OwnedRows y = run_all(op, threads, is_judging ? format : RowFormat::kF32);
    for (int64_t t = ragged.real_tokens(); t < ragged.batch.num_tokens; ++t) {
      EXPECT_EQ(y.row(t)[0], -7.0f) << "a row of padding was written";
    }
    y.rows = ragged.real_tokens();
    return y.dense();
  }

  PagedAttention::Problem problem;
  RowFormat format;
  RaggedBatch ragged;
  OwnedRows queries, gates;
  std::vector<float> sinks;
  std::vector<float> pages;
  LayerCache cache;
};

const PagedAttention::Problem kProblems[] = {
    {.num_heads = 8, .num_kv_heads = 2, .head_dim = 32, .scale = 0.17f},
    {.num_heads = 16,
     .num_kv_heads = 1,
     .head_dim = 48,
     .scale = 0.2f,
     .output_gate = OutputGate::kSigmoidBesideQuery,
     .cache_dtype = DType::kF32},
    {.num_heads = 3,
     .num_kv_heads = 3,
     .head_dim = 16,
     .scale = 0.25f,
     .output_gate = OutputGate::kSigmoidBesideQuery},
    {.num_heads = 20, .num_kv_heads = 1, .head_dim = 80, .latent_dim = 48, .scale = 0.1f},
    // Windows inside a page, of whole pages and a few keys more, and across segments of 1024 keys.
    {.num_heads = 8, .num_kv_heads = 2, .head_dim = 32, .scale = 0.17f, .window = 8, .sinks = true},
    {.num_heads = 4, .num_kv_heads = 2, .head_dim = 16, .scale = 0.3f, .window = 64},
    {.num_heads = 5,
     .num_kv_heads = 1,
     .head_dim = 16,
     .scale = 0.25f,
     .window = 100,
     .sinks = true,
     .output_gate = OutputGate::kSigmoidBesideQuery,
     .cache_dtype = DType::kF32},
    {.num_heads = 4, .num_kv_heads = 4, .head_dim = 16, .scale = 0.4f, .window = 1500},
    {.num_heads = 4, .num_kv_heads = 2, .head_dim = 16, .scale = 0.4f, .window = 1, .sinks = true},
    {.num_heads = 16, .num_kv_heads = 2, .head_dim = 64, .scale = 0.125f, .sinks = true},
    // Laguna and Step: gates of their own
    {.num_heads = 6,
     .num_kv_heads = 2,
     .head_dim = 32,
     .scale = 0.17f,
     .window = 9,
     .output_gate = OutputGate::kSoftplusPerHead},
    {.num_heads = 4,
     .num_kv_heads = 1,
     .head_dim = 16,
     .scale = 0.25f,
     .output_gate = OutputGate::kSoftplusPerElement},
    {.num_heads = 4,
     .num_kv_heads = 2,
     .head_dim = 16,
     .scale = 0.25f,
     .sinks = true,
     .output_gate = OutputGate::kSigmoidPerHead,
     .cache_dtype = DType::kF32},
    {.num_heads = 8,
     .num_kv_heads = 2,
     .head_dim = 48,
     .scale = 0.17f,
     .window = 70,
     .sinks = true,
     .cache_dtype = DType::kF8E4M3,
     .k_scale = 0.03f,
     .v_scale = 0.05f},
    {.num_heads = 3,
     .num_kv_heads = 1,
     .head_dim = 80,
     .scale = 0.1f,
     .cache_dtype = DType::kF8E4M3},
    // Llama-4: chunks inside a page, of whole pages and a few keys more, across segments
    {.num_heads = 5, .num_kv_heads = 1, .head_dim = 32, .scale = 0.17f, .chunk = 16},
    {.num_heads = 4, .num_kv_heads = 2, .head_dim = 16, .scale = 0.3f, .chunk = 64},
    {.num_heads = 4,
     .num_kv_heads = 2,
     .head_dim = 16,
     .scale = 0.3f,
     .chunk = 100,
     .cache_dtype = DType::kF32},
    {.num_heads = 4, .num_kv_heads = 4, .head_dim = 16, .scale = 0.4f, .chunk = 1100},
    // MiMo: values narrower than keys and scaled
    {.num_heads = 8,
     .num_kv_heads = 2,
     .head_dim = 48,
     .value_width = 32,
     .scale = 0.17f,
     .value_scale = 0.707f,
     .window = 9,
     .sinks = true},
    {.num_heads = 6,
     .num_kv_heads = 3,
     .head_dim = 64,
     .value_width = 16,
     .scale = 0.125f,
     .value_scale = 1.5f,
     .cache_dtype = DType::kF8E4M3,
     .k_scale = 0.03f,
     .v_scale = 0.05f},
    {.num_heads = 4,
     .num_kv_heads = 1,
     .head_dim = 80,
     .value_width = 48,
     .scale = 0.1f,
     .value_scale = 0.5f,
     .output_gate = OutputGate::kSigmoidPerHead,
     .cache_dtype = DType::kF32}};

// Heads of every width that a GPU has a kernel of its own for, as models have them.
const PagedAttention::Problem kModelProblems[] = {
    {.num_heads = 8,
     .num_kv_heads = 1,
     .head_dim = 256,
     .scale = 0.0625f,
     .output_gate = OutputGate::kSigmoidBesideQuery},
    {.num_heads = 32, .num_kv_heads = 4, .head_dim = 128, .scale = 0.09f},
    {.num_heads = 3, .num_kv_heads = 1, .head_dim = 192, .scale = 0.07f},
    {.num_heads = 16, .num_kv_heads = 2, .head_dim = 192, .value_width = 128, .scale = 0.07f},
    {.num_heads = 10, .num_kv_heads = 2, .head_dim = 128, .scale = 0.09f, .chunk = 512},
    {.num_heads = 4, .num_kv_heads = 2, .head_dim = 512, .scale = 0.05f, .window = 200},
    {.num_heads = 16,
     .num_kv_heads = 2,
     .head_dim = 256,
     .scale = 0.0625f,
     .cache_dtype = DType::kF8E4M3,
     .k_scale = 0.02f,
     .v_scale = 0.04f},
    {.num_heads = 18, .num_kv_heads = 1, .head_dim = 576, .latent_dim = 512, .scale = 0.04f}};

// On a GPU queries and weights are F16.
double attention_tolerance(const OpOptions& options, RowFormat format) {
  return tolerance(format, options.device.is_cpu() ? 2e-6 : 5e-4);
}

void expect_float64(const PagedAttention::Problem& problem, const std::vector<Piece>& pieces,
                    int64_t num_decodes, int num_threads) {
  // CPUs have no FP8 caches, GPUs no float32 ones.
  if (!is_judged<PagedAttention>(problem)) return;
  std::ostringstream name;
  PrintTo(problem, &name);
  SCOPED_TRACE(name.str());
  ThreadPool threads(num_threads);
  for (const RowFormat format : activation_formats()) {
    AttentionCase c(problem, pieces, num_decodes, format);
    const auto reference = reference_of<PagedAttention>().prepare(problem, c.weights(), {});
    const std::vector<float> expected = c.run(*reference, threads);
    each_implementation<PagedAttention>(
        problem,
        [&](const Implementation<PagedAttention>& implementation, const OpOptions& options) {
          const auto op = implementation.prepare(problem, c.weights(), options);
          const std::vector<float> found = c.run(*op, threads);
          const double allowed = attention_tolerance(options, format);
          EXPECT_LT(relative_error(found, expected), allowed);
          // Where it is off: token by token.
          const int64_t width = problem.num_heads * problem.value_dim();
          int shown = 0;
          for (int64_t t = 0; t < c.ragged.real_tokens() && shown < 4; ++t) {
            const auto part = [&](const std::vector<float>& y) {
              return std::span(y).subspan(t * width, width);
            };
            const double error = relative_error(part(found), part(expected));
            if (error < 8 * allowed) continue;
            ++shown;
            ADD_FAILURE() << "token " << t << " at position " << c.ragged.positions[t]
                          << " is off by " << error << ": " << part(found)[0] << " for "
                          << part(expected)[0];
          }
        },
        threads);
  }
}

TEST(PagedAttention, EqualsFloat64OverRaggedBatches) {
  for (const PagedAttention::Problem& problem : kProblems) {
    for (const int num_threads : {1, 5}) expect_float64(problem, kPieces, 0, num_threads);
    expect_float64(problem, kPieces, kDecodes, 2);
    expect_float64(problem, kDrafts, kDraftDecodes, 2);
  }
}

TEST(PagedAttention, EqualsFloat64WithTheHeadsOfModels) {
  for (const PagedAttention::Problem& problem : kModelProblems) {
    expect_float64(problem, {{700, 3}, {1100, 2}, {40, 3}, {64, 64}, {0, 70}}, 3, 2);
  }
}

class PagedAttentionBits : public ::testing::TestWithParam<PagedAttention::Problem> {
 protected:
  // Of the problem, on every device: calls check(op).
  void each_op(const AttentionCase& c, ThreadPool& threads,
               const std::function<void(const Prepared<PagedAttention>&)>& check) {
    each_implementation<PagedAttention>(
        c.problem,
        [&](const Implementation<PagedAttention>& implementation, const OpOptions& options) {
          check(*implementation.prepare(c.problem, c.weights(), options));
        },
        threads);
  }
};

TEST_P(PagedAttentionBits, ASequenceHasTheSameAloneOnAnyNumberOfThreads) {
  const PagedAttention::Problem& problem = GetParam();
  if (!is_judged<PagedAttention>(problem)) GTEST_SKIP() << "its caches are not of this device";
  ThreadPool many(4), one(1);
  const int64_t width = problem.num_heads * problem.value_dim();
  for (const bool drafts : {false, true}) {
    const std::vector<Piece>& pieces = drafts ? kDrafts : kPieces;
    const int64_t decodes = drafts ? kDraftDecodes : kDecodes;
    AttentionCase all(problem, pieces, decodes);
    each_op(all, many, [&](const Prepared<PagedAttention>& op) {
      ASSERT_EQ(op.batch_invariant(), BatchInvariance::kFull);
      const std::vector<float> together = all.run(op, many);
      EXPECT_TRUE(same_bits(all.run(op, one), together));
      for (int64_t s = 0; s < static_cast<int64_t>(pieces.size()); ++s) {
        // The same step with all other sequences empty, and promises that hold for all.
        AttentionCase alone(problem, pieces, decodes);
        const int64_t first = all.ragged.query_start[s], last = all.ragged.query_start[s + 1];
        for (int32_t& start : alone.ragged.query_start) {
          start = static_cast<int32_t>(std::clamp<int64_t>(start, first, last));
        }
        OwnedRows y = alone.run_all(op, many, RowFormat::kF32);
        for (int64_t t = first; t < last; ++t) {
          EXPECT_TRUE(same_bits(y.row(t), std::span(together).subspan(t * width, width)))
              << "sequence " << s << " token " << t;
        }
      }
    });
  }
}

// A sequence that generates has the same bits however many share its step and however far they
// are: what a GPU makes of the step's size must not show.
TEST_P(PagedAttentionBits, ADecodeHasTheSameInStepsOfAnySize) {
  const PagedAttention::Problem& problem = GetParam();
  if (!is_judged<PagedAttention>(problem)) GTEST_SKIP() << "its caches are not of this device";
  ThreadPool threads(2);
  const int64_t width = problem.num_heads * problem.value_dim();
  for (const int64_t context : {40, 700, 1500, 4500}) {
    AttentionCase alone(problem, {{context, 1}}, 1);
    each_op(alone, threads, [&](const Prepared<PagedAttention>& op) {
      const std::vector<float> expected = alone.run(op, threads);
      for (const int64_t others : {20, 70, 300}) {
        std::vector<Piece> pieces(others, Piece{9, 1});
        pieces[0].context = context;
        AttentionCase many(problem, pieces, others);
        std::copy_n(alone.queries.view().row(0), problem.num_heads * problem.head_dim,
                    many.queries.view().row(0));
        for (int64_t i = 0; i < problem.gate_width(); ++i)
          many.gates.set(0, i, alone.gates.at(0, i));
        const std::vector<float> found = many.run(op, threads);
        EXPECT_TRUE(same_bits(std::span(found).first(width), expected))
            << context << " tokens among " << others;
      }
      for (const int64_t other : {5000, 17000}) {  // more spans than a block merges
        AttentionCase far(problem, {{context, 1}, {other, 1}}, 2);
        std::copy_n(alone.queries.view().row(0), problem.num_heads * problem.head_dim,
                    far.queries.view().row(0));
        for (int64_t i = 0; i < problem.gate_width(); ++i) {
          far.gates.set(0, i, alone.gates.at(0, i));
        }
        const std::vector<float> found = far.run(op, threads);
        EXPECT_TRUE(same_bits(std::span(found).first(width), expected))
            << context << " beside " << other;
      }
    });
  }
}

TEST_P(PagedAttentionBits, APromptHasTheSameHoweverItIsCutAndGenerated) {
  PagedAttention::Problem problem = GetParam();
  problem.output_gate = OutputGate::kNone;
  if (!is_judged<PagedAttention>(problem)) GTEST_SKIP() << "its caches are not of this device";
  ThreadPool threads(3);
  constexpr int64_t kTokens = 1170;
  AttentionCase whole(problem, {{0, kTokens}});
  const int64_t width = problem.num_heads * problem.value_dim();
  const int64_t query = problem.num_heads * problem.head_dim;
  each_op(whole, threads, [&](const Prepared<PagedAttention>& op) {
    const std::vector<float> expected = whole.run(op, threads);
    for (const Piece piece :
         {Piece{0, 64}, {64, 128}, {192, 832}, {1024, 64}, {1088, 82}, {1025, 1}, {1169, 1}}) {
      AttentionCase part(problem,
                         {piece});  // keys depend on the sequence's number and the position
      for (int64_t t = 0; t < piece.tokens; ++t) {
        std::copy_n(whole.queries.view().row(piece.context + t), query, part.queries.view().row(t));
      }
      EXPECT_TRUE(
          same_bits(part.run(op, threads),
                    std::span(expected).subspan(piece.context * width, piece.tokens * width)))
          << piece.context << " + " << piece.tokens;
    }
  });
}

INSTANTIATE_TEST_SUITE_P(Problems, PagedAttentionBits, ::testing::ValuesIn(kProblems));

// Calls check(op) with the reference and with all that are judged.
void each_and_reference(const PagedAttention::Problem& problem,
                        const PagedAttention::Weights& weights, ThreadPool& threads,
                        const std::function<void(const Prepared<PagedAttention>&)>& check) {
  {
    SCOPED_TRACE("reference");
    check(*reference_of<PagedAttention>().prepare(problem, weights, {}));
  }
  each_implementation<PagedAttention>(
      problem,
      [&](const Implementation<PagedAttention>& implementation, const OpOptions& options) {
        check(*implementation.prepare(problem, weights, options));
      },
      threads);
}

TEST(PagedAttention, AWindowHasSoManyKeysWithTheTokensOwn) {
  ThreadPool threads(2);
  for (const int64_t window : {1, 8, 63, 64, 65, 100}) {
    const PagedAttention::Problem problem{
        .num_heads = 1, .num_kv_heads = 1, .head_dim = 16, .window = window};
    each_and_reference(problem, {}, threads, [&](const Prepared<PagedAttention>& op) {
      for (const Piece piece : {Piece{0, 130}, {300, 1}, {1023, 1}, {1024, 70}, {63, 2}}) {
        for (const int64_t decodes : {0, 1}) {
          if (decodes > 0 && piece.tokens > 2) continue;
          AttentionCase c(problem, {piece}, decodes);
          const auto last_row = [&] {
            const std::vector<float> y = c.run(op, threads);
            return std::vector<float>(y.end() - 16, y.end());
          };
          const std::vector<float> before = last_row();
          // The last token's first key and value, and those before them.
          const int64_t last = piece.context + piece.tokens - 1, first = last - window + 1;
          if (first >= 1) {
            for (const int64_t array : {0, 1}) c.set(0, first - 1, array, 3, 50.0f);
            EXPECT_EQ(last_row(), before) << window << " " << piece.context;
          }
          if (first < 0) continue;
          c.set(0, first, /*array=*/1, 3, 50.0f);
          EXPECT_NE(last_row(), before) << window << " " << piece.context;
        }
      }
    });
  }
}

TEST(PagedAttention, AChunkEndsWhereTheNextBegins) {
  ThreadPool threads(2);
  for (const int64_t chunk : {1, 16, 64, 100}) {
    const PagedAttention::Problem problem{
        .num_heads = 1, .num_kv_heads = 1, .head_dim = 16, .chunk = chunk};
    each_and_reference(problem, {}, threads, [&](const Prepared<PagedAttention>& op) {
      for (const int64_t position : {chunk - 1, chunk, 2 * chunk - 1, 2 * chunk, 21 * chunk - 1}) {
        for (const int64_t decodes : {0, 1}) {
          AttentionCase c(problem, {{position, 1}}, decodes);
          const std::vector<float> before = c.run(op, threads);
          const int64_t first = position / chunk * chunk;
          if (first > 0) {
            for (const int64_t array : {0, 1}) c.set(0, first - 1, array, 3, 50.0f);
            EXPECT_EQ(c.run(op, threads), before) << chunk << " " << position;
          }
          // A key of zeros has a score of 0: a weight that F16 still holds.
          for (int64_t d = 0; d < problem.head_dim; ++d) c.set(0, first, /*array=*/0, d, 0.0f);
          const std::vector<float> zero_key = c.run(op, threads);
          c.set(0, first, /*array=*/1, 3, 50.0f);
          EXPECT_NE(c.run(op, threads), zero_key) << chunk << " " << position;
        }
      }
    });
  }
}

TEST(PagedAttention, PagesBehindAWindowAreNotRead) {
  ThreadPool threads(4);
  for (const int64_t window : {8, 64, 100}) {
    const PagedAttention::Problem problem{
        .num_heads = 4, .num_kv_heads = 2, .head_dim = 16, .window = window};
    const std::vector<Piece> pieces = {{2100, 1}, {1087, 1}, {1024, 3}, {300, 65}};
    for (const int64_t decodes : {0, 3}) {
      each_and_reference(problem, {}, threads, [&](const Prepared<PagedAttention>& op) {
        AttentionCase c(problem, pieces, decodes);
        const std::vector<float> expected = c.run(op, threads);
        for (size_t s = 0; s < pieces.size(); ++s) {
          const int64_t page = (pieces[s].context + 1 - window) / kPageTokens;
          for (int64_t b = 0; b < page; ++b)
            c.ragged.blocks[s * c.ragged.table.max_blocks + b] = -1;
        }
        EXPECT_TRUE(same_bits(c.run(op, threads), expected)) << window;
      });
    }
  }
}

// With keys of 0 every score is 0, and n keys share n / (n + exp(sink)) of the weight.
TEST(PagedAttention, ASinkTakesItsShareOnceUnscaledAndHasNoValue) {
  const PagedAttention::Problem problem{
      .num_heads = 4, .num_kv_heads = 2, .head_dim = 16, .scale = 0.25f, .sinks = true};
  for (const int num_threads : {1, 6}) {
    ThreadPool threads(num_threads);
    for (const int64_t keys : {1, 64, 65, 1024, 1025, 3000}) {
      for (const int64_t decodes : {0, 1}) {
        AttentionCase c(problem, {{keys - 1, 1}}, decodes);
        c.sinks = {-2.0f, 0.5f, 8.0f, 90.0f};
        for (int64_t j = 0; j < keys; ++j) {
          for (int64_t array = 0; array < 4; ++array) {
            for (int64_t d = 0; d < 16; ++d) c.set(0, j, array, d, array < 2 ? 0.0f : 1.0f);
          }
        }
        each_and_reference(problem, c.weights(), threads, [&](const Prepared<PagedAttention>& op) {
          const std::vector<float> y = c.run(op, threads);
          for (size_t h = 0; h < 4; ++h) {
            const double n = static_cast<double>(keys), sink = c.sinks[h];
            const double share = n / (n + std::exp(sink));
            EXPECT_NEAR(y[h * 16 + 7] / share, 1.0, 1e-5) << keys << " keys, sink " << sink;
          }
        });
      }
    }
  }
}

// An infinite key or value is NaN in the cache (QkvToCache): whoever sees it must not give numbers.
TEST(PagedAttention, AKeyOrValueThatIsNoNumberIsSeen) {
  const PagedAttention::Problem problem{.num_heads = 2, .num_kv_heads = 1, .head_dim = 16};
  ThreadPool threads(1);
  for (const int64_t array : {0, 1}) {
    for (const int64_t decodes : {0, 1}) {
      AttentionCase c(problem, {{200, 1}}, decodes);
      for (int64_t d = 0; d < 16; ++d) c.set(0, 130, array, d, NAN);
      each_and_reference(problem, {}, threads, [&](const Prepared<PagedAttention>& op) {
        for (const float y : c.run(op, threads)) EXPECT_TRUE(std::isnan(y)) << array;
      });
    }
  }
}

TEST(PagedAttention, SinksThatAreNoNumbersOrTooFewAreRefusedByName) {
  const PagedAttention::Problem problem{
      .num_heads = 4, .num_kv_heads = 2, .head_dim = 16, .sinks = true};
  ThreadPool threads(1);
  const std::vector<float> few(3), nan = {0, 1, NAN, 0}, infinite = {0, 1, INFINITY, 0};
  for (const std::vector<float>* sinks : {&few, &nan, &infinite}) {
    for (const Implementation<PagedAttention>* implementation : implementations<PagedAttention>()) {
      if (implementation->supports(problem, Device::cpu()) &&
          implementation->name() != "reference") {
        continue;
      }
      try {
        implementation->prepare(problem, {.sinks = tensor_of(*sinks, "self_attn.sinks")},
                                {.threads = &threads});
        ADD_FAILURE() << implementation->name();
      } catch (const Error& error) {
        EXPECT_EQ(error.code(), ErrorCode::kBadInput);
        EXPECT_NE(std::string(error.what()).find("self_attn.sinks"), std::string::npos);
      }
    }
  }
}

TEST(PagedAttention, LayersWithOtherWindowsKeepOtherCaches) {
  PagedAttention::Problem full{.num_heads = 4, .num_kv_heads = 2, .head_dim = 16}, window = full;
  window.window = 128;
  EXPECT_NE(full.cache(), window.cache());
  EXPECT_EQ(cache_unit_bytes(full.cache()), cache_unit_bytes(window.cache()));
}

TEST(PagedAttention, OneWrongKeyOrValueIsSeen) {
  const PagedAttention::Problem& problem = kProblems[0];
  ThreadPool threads(2);
  each_and_reference(problem, {}, threads, [&](const Prepared<PagedAttention>& op) {
    for (const int64_t decodes : {int64_t{0}, kDecodes}) {
      const std::vector<float> right = AttentionCase(problem, kPieces, decodes).run(op, threads);
      for (const auto& [s, position] : {std::pair(6, 40), {1, 1234}}) {
        for (const int64_t array : {0, 3}) {  // a key, a value
          AttentionCase wrong(problem, kPieces, decodes);
          wrong.set(s, position, array, 0, 9.0f);
          EXPECT_FALSE(same_bits(wrong.run(op, threads), right)) << array << " of " << s;
          if (s != 6) continue;  // few keys, so that one moves the result
          EXPECT_GT(relative_error(wrong.run(op, threads), right), 1e-4) << array;
        }
      }
    }
  });
}

struct QkvCase {
  explicit QkvCase(const QkvToCache::Problem& p, RowFormat format = RowFormat::kF32)
      : problem(p),
        ragged(kPieces, 1, 2),
        q(tokens(), p.q_width(), 21, 1.0f, format),
        k(tokens(), p.num_kv_heads * p.head_dim, 22, 1.0f, format),
        v(tokens(), p.num_kv_heads * p.value_dim(), 23, 1.0f, format),
        angles(tokens(), p.rotary_dim, 24, 0.5f),
        queries(tokens(), p.num_heads * p.head_dim),
        q_norm(normals(p.q_norm_width(), 25, 0.3f, 1.0f)),
        k_norm(normals(p.k_norm_width(), 26, 0.3f, 1.0f)),
        pages(ragged.num_pages * cache_unit_bytes(p.cache())) {}

  int64_t tokens() const { return ragged.batch.num_tokens; }
  QkvToCache::Weights weights() const {
    if (!problem.norm) return {};
    return {.q_norm = tensor_of(q_norm), .k_norm = tensor_of(k_norm)};
  }
  void run(const Prepared<QkvToCache>& op, ThreadPool& threads) {
    if (!is_judging) {  // the reference reads float32
      for (OwnedRows* rows : {&q, &k, &v}) *rows = rows->as(RowFormat::kF32);
    }
    run_op(op,
           {.q = q.view(),
            .k = k.view(),
            .v = problem.keys_alone ? Rows{} : v.view(),
            .angles = problem.rotary_dim > 0 ? angles.view() : Rows{},
            .slots = ragged.table.slots,
            .positions = problem.temperature.is_one() ? nullptr : ragged.batch.positions,
            .cache = {pages.data(), cache_unit_bytes(problem.cache()), 0},
            .queries = queries.view()},
           threads);
  }
  // What the pages hold, as floats.
  std::vector<float> cached() const {
    std::vector<float> values;
    for (size_t i = 0; i < pages.size(); i += size_of(problem.cache_dtype)) {
      if (problem.cache_dtype == DType::kF8E4M3) {
        values.push_back(e4m3_to_float(static_cast<uint8_t>(pages[i])));
      } else if (problem.cache_dtype == DType::kF16) {
        values.push_back(to_float(*reinterpret_cast<const F16*>(pages.data() + i)));
      } else {
        values.push_back(*reinterpret_cast<const float*>(pages.data() + i));
      }
    }
    return values;
  }

  QkvToCache::Problem problem;
  RaggedBatch ragged;
  OwnedRows q, k, v, angles, queries;
  std::vector<float> q_norm, k_norm;
  std::vector<std::byte> pages;
};

const QkvToCache::Problem kQkvProblems[] = {
    {.num_heads = 6,
     .num_kv_heads = 2,
     .head_dim = 32,
     .rotary_dim = 8,
     .output_gate = true,
     .norm = NormSpec{.eps = 1e-3f, .one_plus = true}},
    {.num_heads = 2,
     .num_kv_heads = 2,
     .head_dim = 16,
     .rotary_dim = 16,
     .norm = NormSpec{},
     .cache_dtype = DType::kF32},
    // gpt-oss: no norm; Nemotron-H: no rotation either
    {.num_heads = 4, .num_kv_heads = 2, .head_dim = 64, .rotary_dim = 64},
    {.num_heads = 4,
     .num_kv_heads = 1,
     .head_dim = 48,
     .rotary_dim = 0,
     .cache_dtype = DType::kF32},
    // MiniMax-M2: one norm over all heads
    {.num_heads = 6,
     .num_kv_heads = 2,
     .head_dim = 32,
     .rotary_dim = 16,
     .norm = NormSpec{.eps = 1e-3f},
     .norm_over_heads = true},
    {.num_heads = 3,
     .num_kv_heads = 3,
     .head_dim = 16,
     .rotary_dim = 4,
     .output_gate = true,
     .rotates_pairs = true,
     .norm = NormSpec{.one_plus = true},
     .norm_over_heads = true,
     .cache_dtype = DType::kF32},
    // Gemma-4: values have a norm, in some layers they are the keys as these came
    {.num_heads = 4,
     .num_kv_heads = 2,
     .head_dim = 32,
     .rotary_dim = 32,
     .norm = NormSpec{.eps = 1e-3f},
     .value_norm = NormSpec{.eps = 0.5f, .has_weight = false}},
    {.num_heads = 4,
     .num_kv_heads = 2,
     .head_dim = 32,
     .rotary_dim = 32,
     .norm = NormSpec{.eps = 1e-3f},
     .value_norm = NormSpec{.has_weight = false},
     .keys_are_values = true,
     .cache_dtype = DType::kF32},
    // Ernie-4.5: neighbouring elements are turned
    {.num_heads = 4, .num_kv_heads = 2, .head_dim = 32, .rotary_dim = 32, .rotates_pairs = true},
    {.num_heads = 4,
     .num_kv_heads = 2,
     .head_dim = 272,
     .rotary_dim = 64,
     .norm = NormSpec{},
     .cache_dtype = DType::kF8E4M3,
     .k_scale = 0.01f,
     .v_scale = 0.02f},
    // Llama-4: norms without weights where it rotates, a temperature where it does not
    {.num_heads = 4,
     .num_kv_heads = 2,
     .head_dim = 32,
     .rotary_dim = 32,
     .rotates_pairs = true,
     .norm = NormSpec{.eps = 1e-3f, .has_weight = false}},
    {.num_heads = 4,
     .num_kv_heads = 2,
     .head_dim = 32,
     .rotary_dim = 0,
     .temperature = {.beta = 0.1, .span = 8, .offset = 1}},
    {.num_heads = 4,
     .num_kv_heads = 2,
     .head_dim = 32,
     .rotary_dim = 0,
     .temperature = {.beta = 0.3, .span = 100},
     .cache_dtype = DType::kF32},
    // MiMo: values narrower than keys
    {.num_heads = 4, .num_kv_heads = 2, .head_dim = 48, .rotary_dim = 16, .value_width = 32},
    {.num_heads = 4,
     .num_kv_heads = 4,
     .head_dim = 32,
     .rotary_dim = 8,
     .value_width = 16,
     .value_norm = NormSpec{.has_weight = false},
     .cache_dtype = DType::kF32},
    // an indexer's queries and keys (MiniMax-M3); the same with the end of a head turned, and with
    // a norm of queries that has no weights (DeepSeek-V4)
    {.num_heads = 4,
     .num_kv_heads = 1,
     .head_dim = 32,
     .rotary_dim = 16,
     .norm = NormSpec{.eps = 1e-3f, .one_plus = true},
     .keys_alone = true},
    {.num_heads = 4,
     .num_kv_heads = 1,
     .head_dim = 48,
     .rotary_dim = 16,
     .rotates_pairs = true,
     .rotates_end = true,
     .norm = NormSpec{.eps = 1e-3f},
     .plain_queries = true,
     .keys_alone = true,
     .cache_dtype = DType::kF32},
    {.num_heads = 5,
     .num_kv_heads = 1,
     .head_dim = 512,
     .rotary_dim = 64,
     .rotates_pairs = true,
     .rotates_end = true,
     .norm = NormSpec{},
     .plain_queries = true,
     .keys_alone = true},
    {.num_heads = 3,
     .num_kv_heads = 2,
     .head_dim = 48,
     .rotary_dim = 12,
     .rotates_end = true,
     .norm = NormSpec{.eps = 1e-3f},
     .plain_queries = true}};

TEST(QkvToCache, EqualsFloat64AndWritesNothingElse) {
  ThreadPool threads(3);
  for (const QkvToCache::Problem& problem : kQkvProblems) {
    if (!is_judged<QkvToCache>(problem)) continue;
    for (const RowFormat format : activation_formats()) {
      SCOPED_TRACE(&problem - kQkvProblems);
      QkvCase expected(problem, format);
      expected.run(*reference_of<QkvToCache>().prepare(problem, expected.weights(), {}), threads);
      const std::vector<float> cached = expected.cached();
      each_implementation<QkvToCache>(
          problem,
          [&](const Implementation<QkvToCache>& implementation, const OpOptions& options) {
            QkvCase c(problem, format);
            c.run(*implementation.prepare(problem, c.weights(), options), threads);
            EXPECT_LT(relative_error(c.queries.dense(), expected.queries.dense()), 1e-6);
            // F16 rounds to 2^-11, E4M3 to 2^-4, few differently; the same places are zero.
            const std::vector<float> found = c.cached();
            EXPECT_LT(relative_error(found, cached), problem.cache_dtype == DType::kF32   ? 1e-6
                                                     : problem.cache_dtype == DType::kF16 ? 1e-4
                                                                                          : 1e-3);
            for (size_t i = 0; i < cached.size(); ++i) {
              ASSERT_EQ(found[i] == 0.0f, cached[i] == 0.0f) << i;
            }
          },
          threads);
    }
  }
}

// Calls check(op) with the reference and with all that are judged.
void each_and_reference(const QkvCase& c, ThreadPool& threads,
                        const std::function<void(const Prepared<QkvToCache>&)>& check) {
  {
    SCOPED_TRACE("reference");
    check(*reference_of<QkvToCache>().prepare(c.problem, c.weights(), {}));
  }
  each_implementation<QkvToCache>(
      c.problem,
      [&](const Implementation<QkvToCache>& implementation, const OpOptions& options) {
        check(*implementation.prepare(c.problem, c.weights(), options));
      },
      threads);
}

TEST(QkvToCache, WithoutNormAndRotationQueriesAndKeysKeepTheirBits) {
  ThreadPool threads(1);
  QkvToCache::Problem problem = kQkvProblems[3];
  problem.cache_dtype = DType::kF16;
  ASSERT_FALSE(problem.norm.has_value());
  ASSERT_EQ(problem.rotary_dim, 0);
  QkvCase c(problem);
  each_and_reference(c, threads, [&](const Prepared<QkvToCache>& op) {
    EXPECT_EQ(op.weight_bytes(), 0);
    QkvCase one(problem);
    const std::vector<float> key = one.k.row(0);
    one.run(op, threads);
    EXPECT_TRUE(same_bits(one.queries.dense(), one.q.dense()));
    const std::vector<float> cached = one.cached();
    const int32_t slot = one.ragged.slots[0];
    const int64_t unit = cache_unit_bytes(problem.cache()) / 2;
    const auto* found = cached.data() + slot / kPageTokens * unit + slot % kPageTokens * 48;
    for (size_t d = 0; d < 48; ++d) EXPECT_EQ(found[d], to_float(to_f16(key[d]))) << d;
  });
}

TEST(QkvToCache, TheTemperatureStepsWhereTheSpanSaysSo) {
  ThreadPool threads(1);
  QkvToCache::Problem problem{.num_heads = 1, .num_kv_heads = 1, .head_dim = 16};
  QkvCase plain(problem);
  plain.run(*reference_of<QkvToCache>().prepare(problem, {}, {}), threads);
  problem.temperature = {.beta = 0.5, .span = 64, .offset = 1};
  QkvCase any(problem);
  each_and_reference(any, threads, [&](const Prepared<QkvToCache>& op) {
    QkvCase c(problem);
    c.run(op, threads);
    for (int64_t t = 0; t < c.ragged.real_tokens(); ++t) {
      const int64_t position = c.ragged.positions[t];
      const double factor = 1 + 0.5 * std::log(1 + std::floor((position + 1) / 64.0));
      EXPECT_NEAR(c.queries.at(t, 3), plain.queries.at(t, 3) * factor, 1e-5) << position;
      EXPECT_EQ(factor == 1.0, position < 63);
    }
  });
}

TEST(QkvToCache, ValuesBeyondF16SaturateAndInfiniteOnesAreNoNumbers) {
  ThreadPool threads(1);
  const QkvToCache::Problem& problem = kQkvProblems[0];
  QkvCase any(problem);
  each_and_reference(any, threads, [&](const Prepared<QkvToCache>& op) {
    QkvCase c(problem);
    c.v.set(1, 3, -1e6f);
    c.v.set(2, 5, INFINITY);
    c.run(op, threads);
    const std::vector<float> cached = c.cached();
    const auto nans =
        std::count_if(cached.begin(), cached.end(), [](float x) { return std::isnan(x); });
    EXPECT_EQ(nans, problem.head_dim);
    EXPECT_EQ(std::count(cached.begin(), cached.end(), -65504.0f), 1);
  });
}

TEST(QkvToCache, AWrongNormWeightIsSeen) {
  ThreadPool threads(1);
  QkvCase any(kQkvProblems[0]);
  each_implementation<QkvToCache>(
      any.problem,
      [&](const Implementation<QkvToCache>& implementation, const OpOptions& options) {
        QkvCase right(any.problem), wrong(any.problem);
        wrong.k_norm[3] += 0.5f;
        for (QkvCase* c : {&right, &wrong}) {
          c->run(*implementation.prepare(c->problem, c->weights(), options), threads);
        }
        EXPECT_TRUE(same_bits(right.queries.dense(), wrong.queries.dense()));
        EXPECT_GT(relative_error(wrong.cached(), right.cached()), 1e-2);
      },
      threads);
}

}  // namespace
}  // namespace moe4
