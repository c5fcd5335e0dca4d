// Ssm over ragged batches: sequences that begin, go on, are empty, and are cut anywhere.
#include "ops/ssm/ssm.h"

#include <gtest/gtest.h>

#include "ops/conformance.h"

namespace moe4 {
namespace {

using namespace moe4::testing;

const std::vector<Piece> kPieces = {{5, 1},  {1, 1},  {9, 0}, {0, 1},  {2, 2},
                                    {0, 67}, {64, 7}, {0, 2}, {0, 200}};
// How many of them count as generating: none, those that a model would, all.
const int64_t kDecodes[] = {0, 5, static_cast<int64_t>(kPieces.size())};

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
    {.num_heads = 2, .head_dim = 16, .num_groups = 2, .state_dim = 4, .conv_taps = 1},
    {.num_heads = 16, .head_dim = 64, .num_groups = 2, .state_dim = 128, .conv_taps = 4},
    // A norm over more heads than a cluster of blocks holds.
    {.num_heads = 20, .head_dim = 64, .num_groups = 1, .state_dim = 16, .conv_taps = 3}};

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
  SsmCase(const Ssm::Problem& p, const std::vector<Piece>& pieces, int64_t num_decodes,
          int64_t padding = 2, RowFormat format = RowFormat::kF32)
      : problem(p),
        ragged(pieces, padding, padding),
        projected(tokens(), p.projected(), 41, 1.0f, format),
        y(tokens(), p.inner(), -7.0f, format),
        states(normals(ragged.num_slots * unit() / 4, 45, 0.3f)) {
    ragged.batch.num_decodes = num_decodes;
    for (int64_t s = 0; s < num_decodes; ++s) {
      ragged.batch.query_of_decode = std::max(ragged.batch.query_of_decode, pieces[s].tokens);
    }
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
  // y of the sequences [begin, end).
  std::vector<float> result(int64_t begin, int64_t end) const {
    std::vector<float> all;
    for (int64_t t = ragged.query_start[begin]; t < ragged.query_start[end]; ++t) {
      const std::vector<float> one = y.row(t);
      all.insert(all.end(), one.begin(), one.end());
    }
    return all;
  }
  std::vector<float> result() const { return result(0, ragged.batch.num_seqs); }
  // The state of a sequence without what lies between its arrays.
  std::vector<float> state(int64_t s) const {
    std::vector<float> values = memory(s);
    const auto at = states.begin() + ragged.state[s] * unit() / 4;
    values.insert(values.end(), at, at + problem.state().floats[0]);
    return values;
  }
  std::vector<float> memory(int64_t s) const {
    const auto at = states.begin() + ragged.state[s] * unit() / 4 + problem.memory_offset();
    return {at, at + problem.state().floats[1]};
  }

  Ssm::Problem problem;
  RaggedBatch ragged;
  OwnedRows projected, y;
  std::vector<float> states;
};

TEST(Ssm, EqualsFloat64OverRaggedBatches) {
  ThreadPool threads(3);
  const auto seqs = static_cast<int64_t>(kPieces.size());
  for (const Ssm::Problem& problem : kProblems) {
    const Tensors tensors(problem);
    for (const bool biased : {true, false}) {
      Ssm::Weights weights = tensors.weights();
      if (!biased) weights.conv_bias = {};
      for (const RowFormat format : activation_formats()) {
        SsmCase expected(problem, kPieces, 0, 2, format);
        expected.projected = expected.projected.as(RowFormat::kF32);
        expected.y = expected.y.as(RowFormat::kF32);
        expected.run(*reference_of<Ssm>().prepare(problem, weights, {}), threads);
        for (const int64_t decodes : kDecodes) {
          SCOPED_TRACE("head_dim " + std::to_string(problem.head_dim) + ", state_dim " +
                       std::to_string(problem.state_dim) + ", " + std::to_string(decodes) +
                       " decodes");
          each_implementation<Ssm>(
              problem,
              [&](const Implementation<Ssm>& implementation, const OpOptions& options) {
                // Prompts on a GPU: F16 operands.
                const double bound = options.device.is_cpu() ? 2e-6 : 1e-3;
                SsmCase c(problem, kPieces, decodes, 2, format);
                c.run(*implementation.prepare(problem, weights, options), threads);
                if (decodes > 0) {
                  EXPECT_LT(relative_error(c.result(0, decodes), expected.result(0, decodes)),
                            tolerance(format, 2e-6));
                }
                if (decodes < seqs) {
                  EXPECT_LT(relative_error(c.result(decodes, seqs), expected.result(decodes, seqs)),
                            tolerance(format, bound));
                }
                for (int64_t s = 0; s < seqs; ++s) {
                  if (kPieces[s].tokens == 0 && kPieces[s].context == 0) continue;
                  SCOPED_TRACE("sequence " + std::to_string(s));
                  EXPECT_LT(relative_error(c.memory(s), expected.memory(s)),
                            s < decodes ? 2e-6 : bound);
                  EXPECT_LT(relative_error(c.state(s), expected.state(s)),
                            s < decodes ? 2e-6 : bound);
                }
                for (int64_t t = c.ragged.real_tokens(); t < c.tokens(); ++t) {
                  EXPECT_EQ(c.y.at(t, 0), -7.0f) << "padding was written";
                }
              },
              threads);
        }
      }
    }
  }
}

// In steps of several sizes, with a stranger before it.
void expect_same_bits_however_cut(const Ssm::Problem& problem, bool decodes,
                                  const std::vector<int64_t>& cuts) {
  const int64_t total = std::accumulate(cuts.begin(), cuts.end(), int64_t{0});
  const Tensors tensors(problem);
  ThreadPool one(1), many(4);
  each_implementation<Ssm>(
      problem,
      [&](const Implementation<Ssm>& implementation, const OpOptions& options) {
        const auto op = implementation.prepare(problem, tensors.weights(), options);
        ASSERT_EQ(op->batch_invariant(), BatchInvariance::kFull);
        SsmCase whole(problem, {{0, total}}, decodes ? 1 : 0, 0);
        whole.run(*op, one);
        std::vector<float> state(whole.unit() / 4, NAN);
        int64_t done = 0;
        for (const int64_t n : cuts) {
          SsmCase step(problem, {{3, 5}, {done, n}}, decodes ? 2 : 0, 1);
          for (int64_t t = 0; t < n; ++t) {
            std::copy_n(whole.projected.view().row(done + t), whole.projected.width,
                        step.projected.view().row(5 + t));
          }
          const auto slot = step.states.begin() + step.ragged.state[1] * step.unit() / 4;
          std::copy(state.begin(), state.end(), slot);
          step.run(*op, many);
          std::copy_n(slot, state.size(), state.begin());
          for (int64_t t = 0; t < n; ++t) {
            ASSERT_TRUE(same_bits(step.y.row(5 + t), whole.y.row(done + t)))
                << "token " << done + t;
          }
          done += n;
        }
        EXPECT_TRUE(same_bits(state, whole.states));
      },
      many);
}

TEST(Ssm, ASequenceHasTheSameBitsHoweverItIsCutAndWhoeverIsBesideIt) {
  expect_same_bits_however_cut(kProblems[0], true, {64, 1, 2, 3, 30, 33, 1});
  for (const Ssm::Problem& problem : kProblems) {
    expect_same_bits_however_cut(problem, true, {1, 2, 3, 1});
    expect_same_bits_however_cut(problem, false, {64, 128, 64, 9});
  }
}

TEST(Ssm, AWrongWeightIsSeen) {
  const Ssm::Problem& problem = kProblems[0];
  ThreadPool threads(1);
  const Tensors tensors(problem);
  for (const int64_t decodes : kDecodes) {
    each_implementation<Ssm>(
        problem,
        [&](const Implementation<Ssm>& implementation, const OpOptions& options) {
          SsmCase right(problem, kPieces, decodes);
          right.run(*implementation.prepare(problem, tensors.weights(), options), threads);
          for (int which = 0; which < 6; ++which) {
            Tensors broken(problem);
            std::vector<float>* const all[] = {&broken.conv, &broken.conv_bias, &broken.a_log,
                                               &broken.d,    &broken.dt_bias,   &broken.norm};
            all[which]->at(1) += 1.0f;
            SsmCase c(problem, kPieces, decodes);
            c.run(*implementation.prepare(problem, broken.weights(), options), threads);
            EXPECT_GT(relative_error(c.result(), right.result()), 3e-3) << which;
          }
        },
        threads);
  }
}

TEST(Ssm, ANanStepIsNotClampedAway) {
  const Ssm::Problem& problem = kProblems[1];
  ThreadPool threads(1);
  const Tensors tensors(problem);
  for (const int64_t decodes : {0, 1}) {
    each_implementation<Ssm>(
        problem,
        [&](const Implementation<Ssm>& implementation, const OpOptions& options) {
          SsmCase c(problem, {{0, 3}}, decodes, 0);
          c.projected.set(1, problem.inner() + problem.channels(), NAN);  // dt of head 0
          c.run(*implementation.prepare(problem, tensors.weights(), options), threads);
          // A GPU computes chunks of a prompt together.
          EXPECT_TRUE(!options.device.is_cpu() || !std::isnan(c.y.at(0, 0)));
          EXPECT_TRUE(std::isnan(c.y.at(1, 0)));
          EXPECT_TRUE(std::isnan(c.y.at(2, 0)));
        },
        threads);
  }
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
    EXPECT_THROW(select<Ssm>(problem, Device::cuda_sm(90)), Error);
  };
  refuses([](Ssm::Problem& p) { p.conv_taps = 100; });
  refuses([](Ssm::Problem& p) { p.conv_taps = 0; });
  refuses([](Ssm::Problem& p) { p.head_dim = 20; });
  refuses([](Ssm::Problem& p) { p.state_dim = 41; });
  refuses([](Ssm::Problem& p) { p.num_groups = 4; });
}

}  // namespace
}  // namespace moe4
