// FillStreams, MixStreams and AddToStreams: several residual streams.
#include "ops/streams/streams.h"

#include <gtest/gtest.h>

#include "ops/conformance.h"

namespace moe4 {
namespace {

using namespace moe4::testing;

constexpr int64_t kTokens = 37;
const StreamShape kShapes[] = {{.width = 64, .num_streams = 4},
                               {.width = 1040, .num_streams = 4},
                               {.width = 144, .num_streams = 2},
                               {.width = 16, .num_streams = 8},
                               {.width = 32, .num_streams = 1}};

struct MixCase {
  explicit MixCase(const MixStreams::Problem& p, int64_t rows = kTokens)
      : problem(p),
        streams(kTokens, p.shape.all(), 11, 3.0f),
        x(rows, p.shape.width),
        coefficients(rows, p.shape.num_coefficients()),
        fn(normals(p.num_mixes() * p.shape.all(), 12,
                   2.0f / std::sqrt(static_cast<float>(p.shape.all())))),
        base(normals(p.num_mixes(), 13, 0.5f)),
        scale(normals(p.is_head ? 1 : 3, 14, 0.3f, 1.0f)) {}

  MixStreams::Weights weights() const { return {tensor_of(fn), tensor_of(base), tensor_of(scale)}; }
  // x, then the coefficients.
  std::vector<float> run(const Prepared<MixStreams>& op, ThreadPool& threads,
                         const int32_t* rows = nullptr) {
    run_op(op,
           {.streams = streams.view(),
            .rows = rows,
            .x = x.view(),
            .coefficients = problem.is_head ? Rows{} : coefficients.view()},
           threads);
    std::vector<float> all = x.dense();
    if (problem.is_head) return all;
    const std::vector<float> more = coefficients.dense();
    all.insert(all.end(), more.begin(), more.end());
    return all;
  }

  MixStreams::Problem problem;
  OwnedRows streams, x, coefficients;
  std::vector<float> fn, base, scale;
};

std::vector<MixStreams::Problem> mix_problems() {
  std::vector<MixStreams::Problem> all;
  for (const StreamShape& shape : kShapes) {
    all.push_back({.shape = shape, .iterations = 5, .eps = 1e-2f, .norm_eps = 0.5f});
    all.push_back({.shape = shape, .iterations = 20});
    all.push_back({.shape = shape, .eps = 1e-2f, .is_head = true});
  }
  return all;
}

TEST(MixStreams, EqualsFloat64OfAllRowsAndOfSome) {
  ThreadPool threads(3);
  const std::vector<int32_t> some = {36, 0, 17};
  for (const MixStreams::Problem& problem : mix_problems()) {
    for (const bool all : {true, false}) {
      const int64_t rows = all ? kTokens : 3;
      MixCase reference(problem, rows);
      const std::vector<float> expected =
          reference.run(*reference_of<MixStreams>().prepare(problem, reference.weights(), {}),
                        threads, all ? nullptr : some.data());
      each_implementation<MixStreams>(
          problem,
          [&](const Implementation<MixStreams>& implementation, const OpOptions& options) {
            MixCase c(problem, rows);
            const auto op = implementation.prepare(problem, c.weights(), options);
            const std::vector<float> found = c.run(*op, threads, all ? nullptr : some.data());
            EXPECT_LT(relative_error(found, expected), 3e-6);
            ThreadPool one(1);
            EXPECT_TRUE(same_bits(c.run(*op, one, all ? nullptr : some.data()), found));
          },
          threads);
    }
  }
}

// On a GPU what a block does depends on how many rows there are.
TEST(MixStreams, ARowHasTheSameBitsAmongAnyNumberOfOthers) {
  ThreadPool threads(2);
  for (const MixStreams::Problem& problem : mix_problems()) {
    each_implementation<MixStreams>(
        problem,
        [&](const Implementation<MixStreams>& implementation, const OpOptions& options) {
          std::vector<int32_t> many(2000);
          for (size_t i = 0; i < many.size(); ++i) {
            many[i] = static_cast<int32_t>(i * 7 % static_cast<size_t>(kTokens));
          }
          MixCase all(problem), few(problem, 1), repeated(problem, 2000);
          const auto op = implementation.prepare(problem, all.weights(), options);
          ASSERT_EQ(op->batch_invariant(), BatchInvariance::kFull);
          all.run(*op, threads);
          few.run(*op, threads, many.data() + 5);
          repeated.run(*op, threads, many.data());
          const auto expect_same = [&](const MixCase& c, int64_t row, int32_t token) {
            EXPECT_TRUE(same_bits(c.x.row(row), all.x.row(token)));
            if (problem.is_head) return;
            EXPECT_TRUE(same_bits(c.coefficients.row(row), all.coefficients.row(token)));
          };
          expect_same(few, 0, many[5]);
          for (int64_t row = 0; row < 2000; row += 97) expect_same(repeated, row, many[row]);
        },
        threads);
  }
}

TEST(MixStreams, FewerRowsThanTheStreamsHaveAreTheFirst) {
  ThreadPool threads(2);
  const MixStreams::Problem problem{.shape = kShapes[0], .is_head = true};
  each_implementation<MixStreams>(
      problem,
      [&](const Implementation<MixStreams>& implementation, const OpOptions& options) {
        MixCase all(problem), few(problem, 5);
        const auto op = implementation.prepare(problem, all.weights(), options);
        all.run(*op, threads);
        few.run(*op, threads);
        for (int64_t row = 0; row < 5; ++row) {
          EXPECT_TRUE(same_bits(few.x.row(row), all.x.row(row)));
        }
      },
      threads);
}

TEST(MixStreams, RowsAndColumnsOfTheMatrixAddUpToOne) {
  ThreadPool threads(1);
  const MixStreams::Problem problem{.shape = kShapes[0], .iterations = 40};
  each_implementation<MixStreams>(
      problem,
      [&](const Implementation<MixStreams>& implementation, const OpOptions& options) {
        MixCase c(problem);
        c.run(*implementation.prepare(problem, c.weights(), options), threads);
        double skew = 0;
        for (int64_t t = 0; t < kTokens; ++t) {
          for (int64_t i = 0; i < 4; ++i) {
            double row = 0, column = 0;
            for (int64_t j = 0; j < 4; ++j) {
              row += c.coefficients.at(t, 4 + i * 4 + j);
              column += c.coefficients.at(t, 4 + j * 4 + i);
              skew =
                  std::max(skew, std::abs(static_cast<double>(c.coefficients.at(t, 4 + i * 4 + j)) -
                                          c.coefficients.at(t, 4 + j * 4 + i)));
            }
            EXPECT_NEAR(row, 1.0, 1e-3);
            EXPECT_NEAR(column, 1.0, 1e-5);
          }
        }
        EXPECT_GT(skew, 0.1);  // so that the next op's transposition counts
      },
      threads);
}

TEST(AddToStreams, EqualsFloat64WithTheMatrixTransposed) {
  ThreadPool threads(3);
  for (const StreamShape& shape : kShapes) {
    OwnedRows y(kTokens, shape.width, 21, 1.0f, activation_formats().back());
    OwnedRows coefficients(kTokens, shape.num_coefficients(), 22, 1.0f);
    const auto run = [&](const Prepared<AddToStreams>& op) {
      OwnedRows streams(kTokens, shape.all(), 23, 1.0f);
      OwnedRows stored = y.as(is_judging ? y.format : RowFormat::kF32);
      run_op(op,
             {.y = stored.view(), .coefficients = coefficients.view(), .streams = streams.view()},
             threads);
      return streams.dense();
    };
    const std::vector<float> expected = run(*reference_of<AddToStreams>().prepare(shape, {}, {}));
    // The second stream of the first token, by hand.
    if (shape.num_streams > 1) {
      const OwnedRows streams(kTokens, shape.all(), 23, 1.0f);
      double sum = static_cast<double>(coefficients.at(0, 1)) * y.at(0, 5);
      for (int64_t j = 0; j < shape.num_streams; ++j) {
        sum +=
            static_cast<double>(coefficients.at(0, shape.num_streams + j * shape.num_streams + 1)) *
            streams.at(0, j * shape.width + 5);
      }
      EXPECT_NEAR(expected[shape.width + 5], sum, 1e-5);
    }
    each_implementation<AddToStreams>(
        shape,
        [&](const Implementation<AddToStreams>& implementation, const OpOptions& options) {
          EXPECT_LT(relative_error(run(*implementation.prepare(shape, {}, options)), expected),
                    1e-6);
        },
        threads);
  }
}

TEST(FillStreams, EveryStreamBeginsAsTheSame) {
  ThreadPool threads(3);
  for (const StreamShape& shape : kShapes) {
    OwnedRows x(kTokens, shape.width, 31, 1.0f);
    each_implementation<FillStreams>(
        shape,
        [&](const Implementation<FillStreams>& implementation, const OpOptions& options) {
          OwnedRows streams(kTokens, shape.all());
          run_op(*implementation.prepare(shape, {}, options),
                 {.x = x.view(), .streams = streams.view()}, threads);
          for (int64_t t = 0; t < kTokens; ++t) {
            for (int64_t i = 0; i < shape.all(); ++i) {
              ASSERT_EQ(streams.at(t, i), x.at(t, i % shape.width));
            }
          }
        },
        threads);
  }
}

}  // namespace
}  // namespace moe4
