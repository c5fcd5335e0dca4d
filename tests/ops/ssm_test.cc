// Ssm over ragged batches: sequences that begin, go on, are empty, and are cut anywhere.
#include "ops/ssm/ssm.h"

#include <gtest/gtest.h>

#include "ops/conformance.h"

namespace moe4 {
namespace {

using namespace moe4::testing;

const std::vector<Piece> kPieces = {{5, 1}, {1, 1}, {9, 0}, {0, 1}, {2, 2}, {0, 67}, {64, 7}};

const Ssm::Problem kProblems[] = {
    {.num_heads = 6, .head_dim = 48, .num_groups = 3, .state_dim = 40, .conv_taps = 4},
    // More channels than one piece of the convolution's work; steps that meet their limits.
    {.num_heads = 8,
     .head_dim = 80,
     .num_groups = 1,
     .state_dim = 8,
     .conv_taps = 2,
     .time_step_min = 0.4f,
     .time_step_max = 0.9f,
     .norm_eps = 1e-2f},
    {.num_heads = 2, .head_dim = 16, .num_groups = 2, .state_dim = 4, .conv_taps = 1}};

struct Tensors {
  explicit Tensors(const Ssm::Problem& p)
      : conv(normals(p.channels() * p.conv_taps, 31, 0.5f)),
        conv_bias(normals(p.channels(), 32, 0.3f)),
        a_log(normals(p.num_heads, 33, 0.5f)),
        d(normals(p.num_heads, 34)),
        dt_bias(normals(p.num_heads, 35)),
        norm(normals(p.inner(), 36, 0.3f, 1.0f)) {}
  Ssm::Weights weights() const {
    return {tensor_of(conv), tensor_of(conv_bias), tensor_of(a_log),
            tensor_of(d),    tensor_of(dt_bias),   tensor_of(norm)};
  }
  std::vector<float> conv, conv_bias, a_log, d, dt_bias, norm;
};

// z, u and dt as one projection yields them: columns of the same rows.
struct SsmCase {
  SsmCase(const Ssm::Problem& p, const std::vector<Piece>& pieces, int64_t padding = 2)
      : problem(p),
        ragged(pieces, padding, padding),
        projected(tokens(), p.inner() + p.channels() + p.num_heads, 41, 1.0f),
        y(tokens(), p.inner(), -7.0f),
        states(normals(ragged.num_slots * unit() / 4, 45, 0.3f)) {
    // What a former owner left in the slot of a sequence that begins must not matter.
    for (size_t s = 0; s < pieces.size(); ++s) {
      if (pieces[s].context > 0) continue;
      std::fill_n(states.begin() + ragged.state[s] * unit() / 4, unit() / 4, NAN);
    }
  }
  int64_t tokens() const { return ragged.batch.num_tokens; }
  int64_t unit() const { return cache_unit_bytes(problem.state()); }
  void run(const Prepared<Ssm>& op, ThreadPool& threads) {
    const Rows all = projected.view();
    run_op(op,
           {.z = all.columns(0, problem.inner()),
            .u = all.columns(problem.inner(), problem.channels()),
            .dt = all.columns(problem.inner() + problem.channels(), problem.num_heads),
            .batch = &ragged.batch,
            .cache = {reinterpret_cast<std::byte*>(states.data()), unit(), 0},
            .y = y.view()},
           threads);
  }
  std::vector<float> result() {
    y.rows = ragged.real_tokens();
    return y.dense();
  }
  // The state of a sequence without what lies between its arrays.
  std::vector<float> state(int64_t s) const {
    const RecurrentSpec spec = problem.state();
    const auto at = states.begin() + ragged.state[s] * unit() / 4;
    std::vector<float> values(at, at + spec.floats[0]);
    values.insert(values.end(), at + problem.memory_offset(),
                  at + problem.memory_offset() + spec.floats[1]);
    return values;
  }

  Ssm::Problem problem;
  RaggedBatch ragged;
  OwnedRows projected, y;
  std::vector<float> states;
};

TEST(Ssm, EqualsFloat64OverRaggedBatches) {
  ThreadPool threads(3);
  for (const Ssm::Problem& problem : kProblems) {
    const Tensors tensors(problem);
    for (const bool biased : {true, false}) {
      Ssm::Weights weights = tensors.weights();
      if (!biased) weights.conv_bias = {};
      SsmCase expected(problem, kPieces);
      expected.run(*reference_of<Ssm>().prepare(problem, weights, {}), threads);
      each_implementation<Ssm>(
          problem,
          [&](const Implementation<Ssm>& implementation, const OpOptions& options) {
            SsmCase c(problem, kPieces);
            c.run(*implementation.prepare(problem, weights, options), threads);
            EXPECT_LT(relative_error(c.result(), expected.result()), 2e-6);
            for (size_t s = 0; s < kPieces.size(); ++s) {
              if (kPieces[s].tokens == 0 && kPieces[s].context == 0) continue;
              const auto i = static_cast<int64_t>(s);
              EXPECT_LT(relative_error(c.state(i), expected.state(i)), 2e-6) << "sequence " << s;
            }
            for (int64_t t = c.ragged.real_tokens(); t < c.tokens(); ++t) {
              EXPECT_EQ(c.y.view().row(t)[0], -7.0f) << "padding was written";
            }
          },
          threads);
    }
  }
}

TEST(Ssm, ASequenceHasTheSameBitsHoweverItIsCutAndWhoeverIsBesideIt) {
  const Ssm::Problem& problem = kProblems[0];
  const Tensors tensors(problem);
  ThreadPool one(1), many(4);
  const auto op = prepare<Ssm>(problem, tensors.weights(), {.threads = &many});
  ASSERT_EQ(op->batch_invariant(), BatchInvariance::kFull);
  SsmCase whole(problem, {{0, 134}}, 0);
  whole.run(*op, one);
  // In steps of several sizes, with a stranger before it.
  std::vector<float> state(whole.unit() / 4, NAN);
  int64_t done = 0;
  for (const int64_t n : {64, 1, 2, 3, 30, 33, 1}) {
    SsmCase step(problem, {{3, 5}, {done, n}}, 1);
    for (int64_t t = 0; t < n; ++t) {
      std::copy_n(whole.projected.view().row(done + t), whole.projected.width,
                  step.projected.view().row(5 + t));
    }
    const auto slot = step.states.begin() + step.ragged.state[1] * step.unit() / 4;
    std::copy(state.begin(), state.end(), slot);
    step.run(*op, many);
    std::copy_n(slot, state.size(), state.begin());
    for (int64_t t = 0; t < n; ++t) {
      EXPECT_TRUE(same_bits(step.y.row(5 + t), whole.y.row(done + t))) << "token " << done + t;
    }
    done += n;
  }
  ASSERT_EQ(done, 134);
  EXPECT_TRUE(same_bits(state, whole.states));
}

TEST(Ssm, AWrongWeightIsSeen) {
  const Ssm::Problem& problem = kProblems[0];
  ThreadPool threads(1);
  SsmCase right(problem, kPieces);
  const Tensors tensors(problem);
  right.run(*prepare<Ssm>(problem, tensors.weights(), {.threads = &threads}), threads);
  for (int which = 0; which < 6; ++which) {
    Tensors broken(problem);
    std::vector<float>* const all[] = {&broken.conv, &broken.conv_bias, &broken.a_log,
                                       &broken.d,    &broken.dt_bias,   &broken.norm};
    all[which]->at(1) += 1.0f;
    SsmCase c(problem, kPieces);
    c.run(*prepare<Ssm>(problem, broken.weights(), {.threads = &threads}), threads);
    EXPECT_GT(relative_error(c.result(), right.result()), 1e-3) << which;
  }
}

TEST(Ssm, ANanStepIsNotClampedAway) {
  const Ssm::Problem& problem = kProblems[1];
  ThreadPool threads(1);
  const Tensors tensors(problem);
  SsmCase c(problem, {{0, 3}}, 0);
  c.projected.view().row(1)[problem.inner() + problem.channels()] = NAN;  // dt of head 0
  c.run(*prepare<Ssm>(problem, tensors.weights(), {.threads = &threads}), threads);
  EXPECT_FALSE(std::isnan(c.y.view().row(0)[0]));
  EXPECT_TRUE(std::isnan(c.y.view().row(1)[0]));
  EXPECT_TRUE(std::isnan(c.y.view().row(2)[0]));
}

TEST(Ssm, KnowsTheSizeOfItsState) {
  for (const Ssm::Problem& problem : kProblems) {
    EXPECT_EQ(problem.state_bytes(), cache_unit_bytes(problem.state()));
  }
}

TEST(Ssm, ShapesThatNobodyTakesAreRefused) {
  const auto refuses = [](auto change) {
    Ssm::Problem problem = kProblems[0];
    change(problem);
    EXPECT_THROW(select<Ssm>(problem, Device::cpu()), Error);
  };
  refuses([](Ssm::Problem& p) { p.conv_taps = 100; });
  refuses([](Ssm::Problem& p) { p.conv_taps = 0; });
  refuses([](Ssm::Problem& p) { p.head_dim = 20; });
  refuses([](Ssm::Problem& p) { p.state_dim = 41; });
  refuses([](Ssm::Problem& p) { p.num_groups = 4; });
}

}  // namespace
}  // namespace moe4
