// DeltaNet over ragged batches: sequences that begin, go on, are empty, and are cut anywhere.
#include "ops/delta_net/delta_net.h"

#include <gtest/gtest.h>

#include "ops/conformance.h"

namespace moe4 {
namespace {

using namespace moe4::testing;

const std::vector<Piece> kPieces = {{5, 1}, {1, 1}, {9, 0}, {0, 1}, {2, 2}, {0, 67}, {64, 7}};

const DeltaNet::Problem kProblems[] = {
    {.num_key_heads = 2, .num_value_heads = 4, .key_dim = 32, .value_dim = 80, .conv_taps = 4},
    {.num_key_heads = 3,
     .num_value_heads = 3,
     .key_dim = 16,
     .value_dim = 16,
     .conv_taps = 1,
     .norm = {.eps = 1e-3f}}};

struct Tensors {
  explicit Tensors(const DeltaNet::Problem& p)
      : conv(normals(p.channels() * p.conv_taps, 31, 0.5f)),
        a_log(normals(p.num_value_heads, 32, 0.5f)),
        dt_bias(normals(p.num_value_heads, 33)),
        norm(normals(p.value_dim, 34, 0.3f, 1.0f)) {}
  DeltaNet::Weights weights() const {
    return {tensor_of(conv), tensor_of(a_log), tensor_of(dt_bias), tensor_of(norm)};
  }
  std::vector<float> conv, a_log, dt_bias, norm;
};

struct DeltaCase {
  DeltaCase(const DeltaNet::Problem& p, const std::vector<Piece>& pieces, int64_t padding = 2)
      : problem(p),
        ragged(pieces, padding, padding),
        qkv(tokens(), p.channels(), 41, 1.0f),
        z(tokens(), p.values(), 42, 1.0f),
        a(tokens(), p.num_value_heads, 43, 1.0f),
        b(tokens(), p.num_value_heads, 44, 1.0f),
        y(tokens(), p.values(), -7.0f),
        states(normals(ragged.num_slots * unit() / 4, 45, 0.3f)) {
    // What a former owner left in the slot of a sequence that begins must not matter.
    for (size_t s = 0; s < pieces.size(); ++s) {
      if (pieces[s].context > 0) continue;
      std::fill_n(states.begin() + ragged.state[s] * unit() / 4, unit() / 4, NAN);
    }
  }
  int64_t tokens() const { return ragged.batch.num_tokens; }
  int64_t unit() const { return cache_unit_bytes(problem.state()); }
  void run(const Prepared<DeltaNet>& op, ThreadPool& threads) {
    run_op(op,
           {.qkv = qkv.view(),
            .z = z.view(),
            .a = a.view(),
            .b = b.view(),
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

  DeltaNet::Problem problem;
  RaggedBatch ragged;
  OwnedRows qkv, z, a, b, y;
  std::vector<float> states;
};

TEST(DeltaNet, EqualsFloat64OverRaggedBatches) {
  ThreadPool threads(3);
  for (const DeltaNet::Problem& problem : kProblems) {
    const Tensors tensors(problem);
    DeltaCase expected(problem, kPieces);
    expected.run(*reference_of<DeltaNet>().prepare(problem, tensors.weights(), {}), threads);
    each_implementation<DeltaNet>(
        problem,
        [&](const Implementation<DeltaNet>& implementation, const OpOptions& options) {
          DeltaCase c(problem, kPieces);
          c.run(*implementation.prepare(problem, tensors.weights(), options), threads);
          EXPECT_LT(relative_error(c.result(), expected.result()), 2e-6);
          for (size_t s = 0; s < kPieces.size(); ++s) {
            const auto i = static_cast<int64_t>(s);
            if (kPieces[s].tokens == 0 && kPieces[s].context == 0) continue;
            EXPECT_LT(relative_error(c.state(i), expected.state(i)), 2e-6) << "sequence " << s;
          }
        },
        threads);
  }
}

TEST(DeltaNet, ASequenceHasTheSameBitsHoweverItIsCutAndWhoeverIsBesideIt) {
  const DeltaNet::Problem& problem = kProblems[0];
  const Tensors tensors(problem);
  ThreadPool one(1), many(4);
  const auto op = prepare<DeltaNet>(problem, tensors.weights(), {.threads = &many});
  ASSERT_EQ(op->batch_invariant(), BatchInvariance::kFull);
  DeltaCase whole(problem, {{0, 70}}, 0);
  whole.run(*op, one);
  // In steps of several sizes, with a stranger before it.
  std::vector<float> state(whole.unit() / 4, NAN);
  int64_t done = 0;
  for (const int64_t n : {1, 2, 3, 30, 33, 1}) {
    DeltaCase step(problem, {{3, 5}, {done, n}}, 1);
    for (int64_t t = 0; t < n; ++t) {
      const auto copy = [&](OwnedRows& to, OwnedRows& from) {
        std::copy_n(from.view().row(done + t), from.width, to.view().row(5 + t));
      };
      copy(step.qkv, whole.qkv);
      copy(step.z, whole.z);
      copy(step.a, whole.a);
      copy(step.b, whole.b);
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
  ASSERT_EQ(done, 70);
  EXPECT_TRUE(same_bits(state, whole.states));
}

TEST(DeltaNet, AWrongWeightIsSeen) {
  const DeltaNet::Problem& problem = kProblems[0];
  ThreadPool threads(1);
  DeltaCase right(problem, kPieces);
  const Tensors tensors(problem);
  right.run(*prepare<DeltaNet>(problem, tensors.weights(), {.threads = &threads}), threads);
  for (int which = 0; which < 4; ++which) {
    Tensors broken(problem);
    std::vector<float>* const all[] = {&broken.conv, &broken.a_log, &broken.dt_bias, &broken.norm};
    all[which]->at(1) += 1.0f;
    DeltaCase c(problem, kPieces);
    c.run(*prepare<DeltaNet>(problem, broken.weights(), {.threads = &threads}), threads);
    EXPECT_GT(relative_error(c.result(), right.result()), 1e-3) << which;
  }
}

TEST(DeltaNet, KnowsTheSizeOfItsState) {
  for (const DeltaNet::Problem& problem : kProblems) {
    EXPECT_EQ(problem.state_bytes(), cache_unit_bytes(problem.state()));
  }
}

TEST(DeltaNet, ShapesThatNobodyTakesAreRefused) {
  DeltaNet::Problem problem = kProblems[0];
  problem.conv_taps = 100;
  EXPECT_THROW(select<DeltaNet>(problem, Device::cpu()), Error);
  problem = kProblems[0];
  problem.value_dim = 20;
  EXPECT_THROW(select<DeltaNet>(problem, Device::cpu()), Error);
  problem = kProblems[0];
  problem.num_value_heads = 3;
  EXPECT_THROW(select<DeltaNet>(problem, Device::cpu()), Error);
}

}  // namespace
}  // namespace moe4
