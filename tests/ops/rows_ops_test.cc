// The ops that work on rows alone: AddNorm, GatedRows, AddScaled, SoftCap, RotaryAngles, Route.
#include <gtest/gtest.h>

#include "ops/conformance.h"
#include "ops/gated_rows/gated_rows.h"
#include "ops/norm/add_norm.h"
#include "ops/rotary/rotary_angles.h"
#include "ops/route/route.h"

namespace moe4 {
namespace {

using namespace moe4::testing;

constexpr int64_t kTokens = 67;  // more than one piece of work for every op at some width

// Whether somebody takes the problem on the device of this test program.
template <class Op>
bool is_judged(const typename Op::Problem& problem) {
  ThreadPool threads(1);
  const std::vector<OpOptions> all = op_options(threads);
  return all.empty() || ask<Op>(problem, all.front().device).implementation != nullptr;
}

TEST(AddNorm, EqualsFloat64WithAndWithoutDeltaAndRows) {
  ThreadPool threads(3);
  const std::vector<int32_t> some = {0, 7, 8, 66};
  for (const AddNorm::Problem& problem :
       {AddNorm::Problem{.width = 2048, .norm = {.eps = 0.5f, .one_plus = true}},
        AddNorm::Problem{.width = 48}, AddNorm::Problem{.width = 48, .norm = {.has_weight = false}},
        AddNorm::Problem{.width = 17 * 1024},
        AddNorm::Problem{.width = 48, .norm = {.factor = 0.125f}}}) {
    const std::vector<float> weight = normals(problem.width, 1);
    for (const RowFormat format : activation_formats()) {
      for (const bool with_delta : {false, true}) {
        for (const bool with_rows : {false, true}) {
          const auto run = [&](const Prepared<AddNorm>& op, RowFormat rows_format) {
            OwnedRows residual(kTokens, problem.width, 2, 3.0f);
            OwnedRows delta = OwnedRows(kTokens, problem.width, 3, 1.0f, format).as(rows_format);
            OwnedRows y(with_rows ? 4 : kTokens, problem.width, NAN, rows_format);
            run_op(op,
                   {.residual = residual.view(),
                    .delta = with_delta ? delta.view() : Rows{},
                    .scale = with_delta == with_rows ? 1.0f : 0.7f,
                    .rows = with_rows ? some.data() : nullptr,
                    .y = y.view()},
                   threads);
            return std::pair(residual.dense(), y.dense());
          };
          const AddNorm::Weights weights{tensor_of(weight)};
          const auto expected =
              run(*reference_of<AddNorm>().prepare(problem, weights, {}), RowFormat::kF32);
          each_implementation<AddNorm>(
              problem,
              [&](const Implementation<AddNorm>& implementation, const OpOptions& options) {
                const auto found = run(*implementation.prepare(problem, weights, options), format);
                EXPECT_TRUE(same_bits(found.first, expected.first));
                EXPECT_LT(relative_error(found.second, expected.second), tolerance(format, 3e-7));
              },
              threads);
        }
      }
    }
  }
}

TEST(AddNorm, TakesActivationsAsTheResidualWhereNothingIsAdded) {
  ThreadPool threads(3);
  for (const int64_t width : {48, 2048, 17 * 1024}) {
    const std::vector<float> weight = normals(width, 1);
    const AddNorm::Weights weights{tensor_of(weight)};
    for (const RowFormat format : activation_formats()) {
      const OwnedRows values(kTokens, width, 2, 3.0f, format);
      const auto run = [&](const Prepared<AddNorm>& op, RowFormat rows_format) {
        OwnedRows residual = OwnedRows(values).as(rows_format);
        OwnedRows y(kTokens, width, NAN, rows_format);
        run_op(op, {.residual = residual.view(), .y = y.view()}, threads);
        EXPECT_EQ(residual.dense(), values.dense());
        return y.dense();
      };
      const auto expected =
          run(*reference_of<AddNorm>().prepare({.width = width}, weights, {}), RowFormat::kF32);
      each_implementation<AddNorm>(
          {.width = width},
          [&](const Implementation<AddNorm>& implementation, const OpOptions& options) {
            const auto op = implementation.prepare({.width = width}, weights, options);
            EXPECT_LT(relative_error(run(*op, format), expected), tolerance(format, 3e-7));
          },
          threads);
    }
  }
}

TEST(AddNorm, AWeightOfAnotherShapeIsAnErrorThatNamesIt) {
  const std::vector<float> weight(32);
  try {
    prepare<AddNorm>({.width = 48}, {tensor_of(weight, "model.norm.weight")}, {});
    FAIL() << "32 weights were taken for 48";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kBadInput);
    EXPECT_NE(std::string(error.what()).find("model.norm.weight"), std::string::npos);
  }
}

// The same rows `shift` elements further on: where no vector begins.
struct ShiftedRows {
  ShiftedRows(OwnedRows& rows, int64_t shift)
      : memory(rows.rows, rows.width + shift, NAN, rows.format), shift(shift) {
    for (int64_t r = 0; r < rows.rows; ++r) {
      for (int64_t c = 0; c < rows.width; ++c) memory.set(r, c + shift, rows.at(r, c));
    }
  }
  Rows view() { return memory.view().columns(shift, memory.width - shift); }
  std::vector<float> dense() const {
    std::vector<float> all;
    for (int64_t r = 0; r < memory.rows; ++r) {
      const std::vector<float> row = memory.row(r);
      all.insert(all.end(), row.begin() + shift, row.end());
    }
    return all;
  }

  OwnedRows memory;
  int64_t shift;
};

TEST(AddNorm, ARowsBitsDoNotDependOnWhereItLiesNorOnItsNeighbours) {
  ThreadPool threads(3);
  for (const int64_t width : {int64_t{48}, int64_t{2064}, int64_t{9216}}) {
    const AddNorm::Problem problem{.width = width};
    const std::vector<float> weight = normals(width, 1);
    for (const RowFormat format : activation_formats()) {
      each_implementation<AddNorm>(
          problem,
          [&](const Implementation<AddNorm>& implementation, const OpOptions& options) {
            const auto op = implementation.prepare(problem, {tensor_of(weight)}, options);
            const auto run = [&](int64_t tokens, int64_t shift) {
              OwnedRows residual(tokens, width, 2, 3.0f), delta(tokens, width, 3, 1.0f, format);
              OwnedRows y(tokens, width, 0.0f, format);
              ShiftedRows residuals(residual, shift), deltas(delta, shift), ys(y, shift);
              run_op(*op, {.residual = residuals.view(), .delta = deltas.view(), .y = ys.view()},
                     threads);
              std::vector<float> both = residuals.dense(), normed = ys.dense();
              both.resize(width);
              both.insert(both.end(), normed.begin(), normed.begin() + width);
              return both;
            };
            const std::vector<float> expected = run(5, 0);
            EXPECT_TRUE(same_bits(run(5, 3), expected)) << width;
            EXPECT_TRUE(same_bits(run(1, 0), expected)) << width;
          },
          threads);
    }
  }
}

TEST(GatedRows, EqualsFloat64AlsoInPlace) {
  ThreadPool threads(3);
  const ActivationParams activations[] = {
      {},
      {.limit = 0.8f},
      {.kind = ActivationKind::kRelu2},
      {.kind = ActivationKind::kGeluTanh},
      {.kind = ActivationKind::kSwigluOai, .limit = 1.5f},
      {.kind = ActivationKind::kSiluLateClamp, .limit = 0.8f},
  };
  for (const ActivationParams& activation : activations) {
    for (const int64_t width : {int64_t{512}, int64_t{40}, int64_t{37}}) {
      const GatedRows::Problem problem{.width = width, .activation = activation};
      const bool gated = activation.is_gated();
      SCOPED_TRACE(to_string(activation) + ", " + std::to_string(width));
      for (const RowFormat format : activation_formats()) {
        enum Place { kApart, kGate, kUp };
        const auto run = [&](const Prepared<GatedRows>& op, RowFormat in, RowFormat out,
                             Place place) {
          OwnedRows gate = OwnedRows(kTokens, width, 4, 3.0f, format).as(in);
          OwnedRows up = OwnedRows(kTokens, width, 5, 1.0f, format).as(in);
          OwnedRows apart(kTokens, width, NAN, out);
          OwnedRows& y = place == kApart ? apart : place == kGate ? gate : up;
          run_op(op, {.gate = gated ? gate.view() : Rows{}, .up = up.view(), .y = y.view()},
                 threads);
          return y.dense();
        };
        const auto expected = run(*reference_of<GatedRows>().prepare(problem, {}, {}),
                                  RowFormat::kF32, RowFormat::kF32, kApart);
        each_implementation<GatedRows>(
            problem,
            [&](const Implementation<GatedRows>& implementation, const OpOptions& options) {
              const auto op = implementation.prepare(problem, {}, options);
              const std::vector<float> found = run(*op, format, format, kApart);
              EXPECT_LT(relative_error(found, expected), tolerance(format, 3e-7));
              EXPECT_TRUE(same_bits(run(*op, format, format, kUp), found));
              EXPECT_TRUE(!gated || same_bits(run(*op, format, format, kGate), found));
              EXPECT_LT(relative_error(run(*op, format, RowFormat::kF32, kApart), expected), 3e-7);
            },
            threads);
      }
    }
  }
}

TEST(GatedRows, TakesHalvesOfRowsWhereverTheyBegin) {
  ThreadPool threads(3);
  const GatedRows::Problem problem{.width = 48};
  for (const RowFormat format : activation_formats()) {
    each_implementation<GatedRows>(
        problem,
        [&](const Implementation<GatedRows>& implementation, const OpOptions& options) {
          const auto op = implementation.prepare(problem, {}, options);
          const auto run = [&](int64_t shift) {
            OwnedRows both(kTokens, 96, 4, 2.0f, format), y(kTokens, 48, NAN, format);
            ShiftedRows in(both, shift), out(y, shift);
            run_op(*op,
                   {.gate = in.view().columns(0, 48),
                    .up = in.view().columns(48, 48),
                    .y = out.view()},
                   threads);
            return out.dense();
          };
          EXPECT_TRUE(same_bits(run(5), run(0)));
        },
        threads);
  }
}

TEST(AddScaled, EqualsFloat64WithAndWithoutAGate) {
  ThreadPool threads(3);
  for (const bool gated : {false, true}) {
    for (const int64_t width : {int64_t{1024}, int64_t{16}}) {
      const AddScaled::Problem problem{.width = width, .gated = gated};
      for (const RowFormat format : activation_formats()) {
        const auto run = [&](const Prepared<AddScaled>& op, RowFormat in, RowFormat out) {
          OwnedRows x = OwnedRows(kTokens, width, 6, 1.0f, format).as(in);
          OwnedRows gate = OwnedRows(kTokens, 1, 7, 2.0f, format).as(in);
          OwnedRows y = OwnedRows(kTokens, width, 8, 1.0f, format).as(out);
          run_op(op, {.x = x.view(), .gate = gated ? gate.view() : Rows{}, .y = y.view()}, threads);
          return y.dense();
        };
        const auto expected = run(*reference_of<AddScaled>().prepare(problem, {}, {}),
                                  RowFormat::kF32, RowFormat::kF32);
        each_implementation<AddScaled>(
            problem,
            [&](const Implementation<AddScaled>& implementation, const OpOptions& options) {
              const auto op = implementation.prepare(problem, {}, options);
              EXPECT_LT(relative_error(run(*op, format, format), expected),
                        tolerance(format, 1e-7));
              EXPECT_LT(relative_error(run(*op, format, RowFormat::kF32), expected), 1e-7);
            },
            threads);
      }
    }
  }
}

TEST(SoftCap, EqualsFloat64AndBoundsEverything) {
  ThreadPool threads(3);
  for (const int64_t width : {int64_t{9001}, int64_t{9008}}) {
    const SoftCap::Problem problem{.width = width, .cap = 1.5f};
    for (const RowFormat format : activation_formats()) {
      const auto run = [&](const Prepared<SoftCap>& op, RowFormat rows_format) {
        OwnedRows y = OwnedRows(3, width, 9, 2.0f, format).as(rows_format);
        y.set(1, 8, 1e30f);
        y.set(2, 9000, -INFINITY);
        run_op(op, {.y = y.view()}, threads);
        return y.dense();
      };
      const auto expected = run(*reference_of<SoftCap>().prepare(problem, {}, {}), RowFormat::kF32);
      EXPECT_EQ(expected[width + 8], 1.5f);
      EXPECT_EQ(expected[2 * width + 9000], -1.5f);
      each_implementation<SoftCap>(
          problem,
          [&](const Implementation<SoftCap>& implementation, const OpOptions& options) {
            const auto found = run(*implementation.prepare(problem, {}, options), format);
            EXPECT_LT(relative_error(found, expected), tolerance(format, 3e-7));
          },
          threads);
    }
  }
}

TEST(RotaryAngles, AProportionalOneTurnsAPartByTheExponentsOfTheWhole) {
  const RotarySpec whole{.dim = 32, .theta = 1e6};
  RotarySpec part = whole;
  part.scaling = RotaryScaling::kProportional;
  part.num_rotated = 8;
  const std::vector<float> all = inverse_frequencies(whole), some = inverse_frequencies(part);
  ASSERT_EQ(some.size(), 16u);
  for (size_t i = 0; i < 16; ++i) EXPECT_EQ(some[i], i < 4 ? all[i] : 0.0f) << i;
  part.factor = 4;
  EXPECT_EQ(inverse_frequencies(part)[1], all[1] / 4);
}

TEST(RotaryAngles, AreThoseOfTheReferenceToTheBit) {
  ThreadPool threads(2);
  const RotarySpec problem{.dim = 64, .theta = 1e7};
  const std::vector<int32_t> positions = {0, 1, 2, 1000, 262143, -1};
  const auto run = [&](const Prepared<RotaryAngles>& op) {
    OwnedRows y(static_cast<int64_t>(positions.size()), problem.dim);
    run_op(op, {.positions = positions.data(), .y = y.view()}, threads);
    return y.dense();
  };
  const auto expected = run(*reference_of<RotaryAngles>().prepare(problem, {}, {}));
  EXPECT_EQ(expected[0], 1.0f);
  EXPECT_EQ(expected[32], 0.0f);
  EXPECT_FLOAT_EQ(expected[64 + 32], std::sin(1.0f));  // position 1 turns by 1 at frequency 0
  each_implementation<RotaryAngles>(
      problem,
      [&](const Implementation<RotaryAngles>& implementation, const OpOptions& options) {
        EXPECT_TRUE(same_bits(run(*implementation.prepare(problem, {}, options)), expected));
      },
      threads);
}

// Of keys that four tokens share the position is the first token's.
TEST(RotaryAngles, PositionsMayCountInSteps) {
  ThreadPool threads(2);
  const RotarySpec whole{.dim = 16, .theta = 1e4};
  RotarySpec steps = whole;
  steps.step = 4;
  if (!is_judged<RotaryAngles>(steps)) GTEST_SKIP() << "not on this device";
  const std::vector<int32_t> positions = {0, 3, 4, 7, 8, 1003, -1},
                             first = {0, 0, 4, 4, 8, 1000, 0};
  const auto run = [&](const Prepared<RotaryAngles>& op, const std::vector<int32_t>& at) {
    OwnedRows y(static_cast<int64_t>(at.size()), 16);
    run_op(op, {.positions = at.data(), .y = y.view()}, threads);
    return y.dense();
  };
  const auto expected = run(*reference_of<RotaryAngles>().prepare(whole, {}, {}), first);
  EXPECT_TRUE(
      same_bits(run(*reference_of<RotaryAngles>().prepare(steps, {}, {}), positions), expected));
  each_implementation<RotaryAngles>(
      steps,
      [&](const Implementation<RotaryAngles>& implementation, const OpOptions& options) {
        EXPECT_TRUE(
            same_bits(run(*implementation.prepare(steps, {}, options), positions), expected));
      },
      threads);
}

// A token's experts in the order of its list, weighed by their own scores.
TEST(Route, ExpertsMayBeGivenByTheTokensId) {
  ThreadPool threads(3);
  constexpr int64_t kVocabulary = 50, kExperts = 24, kTopK = 5;
  const RouterConfig problem{.scoring = ScoringFunction::kSqrtSoftplus,
                             .num_experts = kExperts,
                             .top_k = kTopK,
                             .scaling_factor = 1.5f,
                             .by_token = true};
  if (!is_judged<Route>(problem)) GTEST_SKIP() << "not on this device";
  Route::Weights weights;
  for (int64_t i = 0; i < kVocabulary * kTopK; ++i) {  // no list has an expert twice
    const int64_t token = i / kTopK, place = i % kTopK;
    weights.experts_of_token.push_back(static_cast<int32_t>((token * 7 + place * 5) % kExperts));
  }
  std::vector<int32_t> tokens;
  for (int64_t t = 0; t < kTokens; ++t) {
    tokens.push_back(static_cast<int32_t>(t * 13 % kVocabulary));
  }
  const auto run = [&](const Prepared<Route>& op) {
    OwnedRows logits(kTokens, kExperts, 12, 3.0f);
    std::vector<int32_t> ids(kTokens * kTopK, 99);
    std::vector<float> chosen(ids.size(), 99.0f);
    run_op(op,
           {.logits = logits.view(),
            .topk_ids = ids.data(),
            .topk_weights = chosen.data(),
            .token_ids = tokens.data()},
           threads);
    return std::pair(ids, chosen);
  };
  const auto expected = run(*reference_of<Route>().prepare(problem, weights, {}));
  for (int64_t i = 0; i < kTokens * kTopK; ++i) {
    EXPECT_EQ(expected.first[i], weights.experts_of_token[tokens[i / kTopK] * kTopK + i % kTopK]);
  }
  each_implementation<Route>(
      problem,
      [&](const Implementation<Route>& implementation, const OpOptions& options) {
        const auto found = run(*implementation.prepare(problem, weights, options));
        EXPECT_EQ(found.first, expected.first);
        EXPECT_LT(relative_error(found.second, expected.second), 5e-7);
      },
      threads);
}

struct Router {
  RouterConfig config;
  bool biased = false, scaled = false;
};

TEST(Route, ChoosesAndWeighsAsTheReference) {
  ThreadPool threads(3);
  const Router routers[] = {
      {{.num_experts = 60, .top_k = 4}, false, true},
      {{.num_experts = 60, .top_k = 8, .renormalize = false, .scaling_factor = 2.5f}},
      {{.scoring = ScoringFunction::kSigmoid,
        .num_experts = 60,
        .top_k = 6,
        .scaling_factor = 1.5f,
        .num_groups = 6,
        .topk_groups = 2},
       true},
      {{.scoring = ScoringFunction::kSoftmaxOverSelected, .num_experts = 60, .top_k = 4}},
      {{.scoring = ScoringFunction::kSoftmaxOverSelected, .num_experts = 32, .top_k = 4}, true},
      {{.scoring = ScoringFunction::kSigmoid, .num_experts = 128, .top_k = 8}, false, true},
      {{.num_experts = 128, .top_k = 8}, true},
      {{.num_experts = 256, .top_k = 8}},
      {{.scoring = ScoringFunction::kSigmoid,
        .num_experts = 256,
        .top_k = 8,
        .scaling_factor = 2.5f,
        .num_groups = 8,
        .topk_groups = 4},
       true},
      {{.scoring = ScoringFunction::kSigmoid,
        .num_experts = 512,
        .top_k = 22,
        .renormalize = false},
       true},
      {{.num_experts = 512, .top_k = 10}},
      // With experts that every token takes.
      {{.num_experts = 256, .top_k = 8, .shared_experts = 1, .shared_gate = true}, false, true},
      {{.scoring = ScoringFunction::kSigmoid,
        .num_experts = 60,
        .top_k = 30,
        .scaling_factor = 2.5f,
        .num_groups = 6,
        .topk_groups = 5,
        .shared_experts = 2},
       true},
      // Narrow groups leave fewer candidates than top_k.
      {{.scoring = ScoringFunction::kSigmoid,
        .num_experts = 36,
        .top_k = 5,
        .num_groups = 36,
        .topk_groups = 3},
       true},
      {{.num_experts = 640, .top_k = 32}},
      // DeepSeek-V4
      {{.scoring = ScoringFunction::kSqrtSoftplus,
        .num_experts = 256,
        .top_k = 6,
        .scaling_factor = 1.5f},
       true},
      {{.scoring = ScoringFunction::kSqrtSoftplus,
        .num_experts = 60,
        .top_k = 6,
        .renormalize = false}},
      {{.num_experts = 3, .top_k = 3}},
      {{.num_experts = 1, .top_k = 1}}};
  for (const Router& router : routers) {
    const RouterConfig& problem = router.config;
    if (!is_judged<Route>(problem)) continue;
    const int64_t experts = problem.num_experts, slots = problem.num_slots();
    SCOPED_TRACE(std::to_string(problem.top_k) + " of " + std::to_string(experts));
    const Route::Weights weights{
        router.biased ? normals(experts, 11, 0.5f) : std::vector<float>{},
        router.scaled ? normals(experts, 13, 0.3f, 1.0f) : std::vector<float>{}};
    for (const RowFormat format : activation_formats()) {
      const auto run = [&](const Prepared<Route>& op, RowFormat rows_format) {
        OwnedRows logits = OwnedRows(kTokens, problem.num_logits(), 12, 2.0f, RowFormat::kF32);
        // BF16 logits that differ, so that ties are the test's own.
        if (format == RowFormat::kBf16) {
          for (int64_t t = 0; t < kTokens; ++t) {
            for (int64_t e = 0; e < experts; ++e) {
              const int64_t rank = (e * 37 + t * 11) % 641;
              logits.set(t, e, to_float(Bf16{static_cast<uint16_t>(0x3e00 + rank)}));
            }
            if (problem.shared_gate) logits.set(t, experts, static_cast<float>(t % 7) - 3);
          }
        }
        logits.set(5, experts * 3 / 20, NAN);
        if (experts > 3) {
          logits.set(6, 1, 9.0f);  // a tie
          logits.set(6, 3, 9.0f);
          logits.set(7, 0, -0.0f);  // zeros are equal
          logits.set(7, 2, 0.0f);
        }
        if (problem.shared_gate) logits.set(8, experts, NAN);  // its own slot's affair
        OwnedRows stored = logits.as(rows_format);
        std::vector<int32_t> ids(kTokens * slots, 99);
        std::vector<float> chosen(ids.size(), 99.0f);
        const std::vector<int32_t> num_rows = {kTokens - 2};  // and two of padding
        run_op(op,
               {.logits = stored.view(),
                .topk_ids = ids.data(),
                .topk_weights = chosen.data(),
                .num_rows = num_rows.data()},
               threads);
        chosen.resize((kTokens - 2) * slots);
        EXPECT_TRUE(std::isnan(chosen[5 * slots]));
        chosen[5 * slots] = 0;  // for comparisons
        if (problem.shared_gate) {
          EXPECT_TRUE(std::isnan(chosen[9 * slots - 1]));
          chosen[9 * slots - 1] = 0;
        }
        return std::pair(ids, chosen);
      };
      const auto expected =
          run(*reference_of<Route>().prepare(problem, weights, {}), RowFormat::kF32);
      EXPECT_EQ(expected.first[5 * slots], 0);
      EXPECT_EQ(expected.first[(kTokens - 2) * slots], -1);
      if (problem.shared_experts > 0) {
        EXPECT_EQ(expected.first[slots - 1], experts + problem.shared_experts - 1);
      }
      each_implementation<Route>(
          problem,
          [&](const Implementation<Route>& implementation, const OpOptions& options) {
            const auto found = run(*implementation.prepare(problem, weights, options), format);
            EXPECT_EQ(found.first, expected.first);
            EXPECT_LT(relative_error(found.second, expected.second), 5e-7);
          },
          threads);
    }
  }
}

}  // namespace
}  // namespace moe4
