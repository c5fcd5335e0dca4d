// DeltaNet over ragged batches: sequences that begin, go on, are empty, and are cut anywhere.
#include "ops/delta_net/delta_net.h"

#include <gtest/gtest.h>

#include "ops/conformance.h"

namespace moe4 {
namespace {

using namespace moe4::testing;

const std::vector<Piece> kPieces = {{5, 1},  {1, 1},  {9, 0}, {0, 1},  {2, 2},
                                    {0, 67}, {64, 7}, {0, 2}, {0, 200}};
// How many of them count as generating: none, those that a model would, all.
const int64_t kDecodes[] = {0, 5, static_cast<int64_t>(kPieces.size())};

const DeltaNet::Problem kProblems[] = {
    {.num_key_heads = 2, .num_value_heads = 4, .key_dim = 32, .value_dim = 80, .conv_taps = 4},
    {.num_key_heads = 3,
     .num_value_heads = 3,
     .key_dim = 16,
     .value_dim = 16,
     .conv_taps = 1,
     .norm = {.eps = 1e-3f}},
    {.num_key_heads = 1, .num_value_heads = 4, .key_dim = 64, .value_dim = 128, .conv_taps = 2},
    {.num_key_heads = 2, .num_value_heads = 4, .key_dim = 128, .value_dim = 128, .conv_taps = 4}};

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
  DeltaCase(const DeltaNet::Problem& p, const std::vector<Piece>& pieces, int64_t num_decodes,
            int64_t padding = 2, RowFormat format = RowFormat::kF32)
      : problem(p),
        ragged(pieces, padding, padding),
        qkv(tokens(), p.channels(), 41, 1.0f, format),
        z(tokens(), p.values(), 42, 1.0f, format),
        a(tokens(), p.num_value_heads, 43, 1.0f),
        b(tokens(), p.num_value_heads, 44, 1.0f),
        y(tokens(), p.values(), -7.0f, format),
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

  DeltaNet::Problem problem;
  RaggedBatch ragged;
  OwnedRows qkv, z, a, b, y;
  std::vector<float> states;
};

TEST(DeltaNet, EqualsFloat64OverRaggedBatches) {
  ThreadPool threads(3);
  for (const DeltaNet::Problem& problem : kProblems) {
    const Tensors tensors(problem);
    for (const RowFormat format : activation_formats()) {
      DeltaCase expected(problem, kPieces, 0, 2, format);
      expected.qkv = expected.qkv.as(RowFormat::kF32);
      expected.z = expected.z.as(RowFormat::kF32);
      expected.y = expected.y.as(RowFormat::kF32);
      expected.run(*reference_of<DeltaNet>().prepare(problem, tensors.weights(), {}), threads);
      for (const int64_t decodes : kDecodes) {
        SCOPED_TRACE("key_dim " + std::to_string(problem.key_dim) + ", " + std::to_string(decodes) +
                     " decodes");
        each_implementation<DeltaNet>(
            problem,
            [&](const Implementation<DeltaNet>& implementation, const OpOptions& options) {
              // Prompts on a GPU: F16 operands.
              const double bound = options.device.is_cpu() ? 2e-6 : 1e-3;
              DeltaCase c(problem, kPieces, decodes, 2, format);
              c.run(*implementation.prepare(problem, tensors.weights(), options), threads);
              const auto seqs = static_cast<int64_t>(kPieces.size());
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

// In steps of several sizes, with strangers before it.
void expect_same_bits_however_cut(const DeltaNet::Problem& problem, bool decodes,
                                  const std::vector<int64_t>& cuts, int64_t strangers = 1) {
  const int64_t total = std::accumulate(cuts.begin(), cuts.end(), int64_t{0});
  const Tensors tensors(problem);
  ThreadPool one(1), many(4);
  each_implementation<DeltaNet>(
      problem,
      [&](const Implementation<DeltaNet>& implementation, const OpOptions& options) {
        const auto op = implementation.prepare(problem, tensors.weights(), options);
        ASSERT_EQ(op->batch_invariant(), BatchInvariance::kFull);
        DeltaCase whole(problem, {{0, total}}, decodes ? 1 : 0, 0);
        whole.run(*op, one);
        std::vector<float> state(whole.unit() / 4, NAN);
        int64_t done = 0;
        for (const int64_t n : cuts) {
          std::vector<Piece> pieces(strangers, {3, 5});
          pieces.push_back({done, n});
          DeltaCase step(problem, pieces, decodes ? strangers + 1 : 0, 1);
          const int64_t first = step.ragged.query_start[strangers];
          for (int64_t t = 0; t < n; ++t) {
            const auto copy = [&](OwnedRows& to, OwnedRows& from) {
              std::copy_n(from.view().row(done + t), from.width, to.view().row(first + t));
            };
            copy(step.qkv, whole.qkv);
            copy(step.z, whole.z);
            copy(step.a, whole.a);
            copy(step.b, whole.b);
          }
          const auto slot = step.states.begin() + step.ragged.state[strangers] * step.unit() / 4;
          std::copy(state.begin(), state.end(), slot);
          step.run(*op, many);
          std::copy_n(slot, state.size(), state.begin());
          for (int64_t t = 0; t < n; ++t) {
            ASSERT_TRUE(same_bits(step.y.row(first + t), whole.y.row(done + t)))
                << "token " << done + t;
          }
          done += n;
        }
        EXPECT_TRUE(same_bits(state, whole.states));
      },
      many);
}

TEST(DeltaNet, ASequenceHasTheSameBitsHoweverItIsCutAndWhoeverIsBesideIt) {
  expect_same_bits_however_cut(kProblems[0], true, {1, 2, 3, 30, 33, 1});
  for (const DeltaNet::Problem& problem : kProblems) {
    // Few and many sequences are different kernels on a GPU.
    expect_same_bits_however_cut(problem, true, {1, 2, 3, 1});
    expect_same_bits_however_cut(problem, true, {1, 1, 3, 2}, 6);
  }
  for (const DeltaNet::Problem& problem : kProblems) {
    expect_same_bits_however_cut(problem, false, {64, 128, 64, 9});
  }
}

TEST(DeltaNet, AWrongWeightIsSeen) {
  const DeltaNet::Problem& problem = kProblems[0];
  ThreadPool threads(1);
  const Tensors tensors(problem);
  for (const int64_t decodes : kDecodes) {
    each_implementation<DeltaNet>(
        problem,
        [&](const Implementation<DeltaNet>& implementation, const OpOptions& options) {
          DeltaCase right(problem, kPieces, decodes);
          right.run(*implementation.prepare(problem, tensors.weights(), options), threads);
          for (int which = 0; which < 4; ++which) {
            Tensors broken(problem);
            std::vector<float>* const all[] = {&broken.conv, &broken.a_log, &broken.dt_bias,
                                               &broken.norm};
            all[which]->at(1) += 1.0f;
            DeltaCase c(problem, kPieces, decodes);
            c.run(*implementation.prepare(problem, broken.weights(), options), threads);
            EXPECT_GT(relative_error(c.result(), right.result()), 3e-3) << which;
          }
        },
        threads);
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
  EXPECT_THROW(select<DeltaNet>(problem, Device::cuda_sm(90)), Error);
  problem = kProblems[0];
  problem.value_dim = 144;
  EXPECT_THROW(select<DeltaNet>(problem, Device::cuda_sm(90)), Error);
  problem = kProblems[0];
  problem.conv_taps = 5;
  EXPECT_THROW(select<DeltaNet>(problem, Device::cuda_sm(90)), Error);
  EXPECT_EQ(select<DeltaNet>(kProblems[0], Device::cuda_sm(80)).implementation->name(), "cuda");
}

}  // namespace
}  // namespace moe4
