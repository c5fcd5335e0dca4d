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

// On a GPU also with states that are written seldom.
std::vector<DeltaNet::Problem> problems(ThreadPool& threads) {
  std::vector<DeltaNet::Problem> all(std::begin(kProblems), std::end(kProblems));
  const std::vector<OpOptions> options = op_options(threads);
  if (options.empty() || options.front().device.is_cpu()) return all;
  for (DeltaNet::Problem problem : kProblems) {
    problem.ring = DeltaNet::kMaxRing;
    all.push_back(problem);
  }
  all.push_back(kProblems[3]);
  all.back().ring = 2;
  return all;
}

// As the reference keeps its states: written behind every token.
DeltaNet::Problem without_ring(DeltaNet::Problem problem) {
  problem.ring = 1;
  return problem;
}

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
        states(ragged.num_slots * unit() / 4) {
    ragged.batch.num_decodes = num_decodes;
    for (int64_t s = 0; s < num_decodes; ++s) {
      ragged.batch.query_of_decode = std::max(ragged.batch.query_of_decode, pieces[s].tokens);
    }
    // S knows all tokens.
    for (int64_t slot = 0; slot < ragged.num_slots; ++slot) {
      const std::vector<float> state = normals(p.ring_offset(), 45 + slot, 0.3f);
      std::copy(state.begin(), state.end(), states.begin() + slot * unit() / 4);
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
  // S with the tokens that it does not know.
  std::vector<float> memory(int64_t s) const {
    const DeltaNet::Problem& p = problem;
    const float* const state = states.data() + ragged.state[s] * unit() / 4;
    const float* const at = state + p.memory_offset();
    std::vector<float> all(at, at + p.state().floats[1]);
    const float* const keys = state + p.ring_offset();
    const float* const values = keys + p.ring * p.keys();
    const float* const decays = values + p.ring * p.values();
    const int64_t n = ragged.context_len[s] % p.ring;
    if (n == 0) return all;
    for (int64_t h = 0; h < p.num_value_heads; ++h) {
      const int64_t key_head = h * p.num_key_heads / p.num_value_heads;
      const double now = decays[h * p.ring + n - 1];
      for (int64_t i = 0; i < p.key_dim * p.value_dim; ++i) {
        float& x = all[h * p.key_dim * p.value_dim + i];
        double sum = std::exp(now) * x;
        for (int64_t j = 0; j < n; ++j) {
          sum += std::exp(now - decays[h * p.ring + j]) *
                 keys[(key_head * p.ring + j) * p.key_dim + i / p.value_dim] *
                 values[(h * p.ring + j) * p.value_dim + i % p.value_dim];
        }
        x = static_cast<float>(sum);
      }
    }
    return all;
  }

  DeltaNet::Problem problem;
  RaggedBatch ragged;
  OwnedRows qkv, z, a, b, y;
  std::vector<float> states;
};

TEST(DeltaNet, EqualsFloat64OverRaggedBatches) {
  ThreadPool threads(3);
  for (const DeltaNet::Problem& problem : problems(threads)) {
    const Tensors tensors(problem);
    for (const RowFormat format : activation_formats()) {
      DeltaCase expected(without_ring(problem), kPieces, 0, 2, format);
      expected.qkv = expected.qkv.as(RowFormat::kF32);
      expected.z = expected.z.as(RowFormat::kF32);
      expected.y = expected.y.as(RowFormat::kF32);
      expected.run(*reference_of<DeltaNet>().prepare(expected.problem, tensors.weights(), {}),
                   threads);
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
  ThreadPool threads(1);
  expect_same_bits_however_cut(kProblems[0], true, {1, 2, 3, 30, 33, 1});
  for (const DeltaNet::Problem& problem : problems(threads)) {
    // Few, some and many sequences are different kernels on a GPU.
    expect_same_bits_however_cut(problem, true, {1, 2, 3, 1, 1, 9});
    expect_same_bits_however_cut(problem, true, {1, 1, 3, 2, 2, 8}, 6);
    expect_same_bits_however_cut(problem, true, {1, 2, 2, 3, 1, 8}, 40);
  }
  for (const DeltaNet::Problem& problem : problems(threads)) {
    expect_same_bits_however_cut(problem, false, {64, 128, 64, 9});
  }
}

TEST(DeltaNet, AfterAPromptItGeneratesOn) {
  constexpr int64_t kPrompt = 67, kGenerated = 20;
  ThreadPool threads(2);
  for (const DeltaNet::Problem& problem : problems(threads)) {
    const Tensors tensors(problem);
    DeltaCase expected(without_ring(problem), {{0, kPrompt + kGenerated}}, 0, 0);
    expected.run(*reference_of<DeltaNet>().prepare(expected.problem, tensors.weights(), {}),
                 threads);
    each_implementation<DeltaNet>(
        problem,
        [&](const Implementation<DeltaNet>& implementation, const OpOptions& options) {
          const auto op = implementation.prepare(problem, tensors.weights(), options);
          std::vector<float> state;
          for (int64_t done = 0; done < kPrompt + kGenerated;) {
            const int64_t n = done == 0 ? kPrompt : 1;
            DeltaCase step(problem, {{done, n}}, done == 0 ? 0 : 1, 0);
            for (int64_t t = 0; t < n; ++t) {
              const auto copy = [&](OwnedRows& to, OwnedRows& from) {
                std::copy_n(from.view().row(done + t), from.width, to.view().row(t));
              };
              copy(step.qkv, expected.qkv);
              copy(step.z, expected.z);
              copy(step.a, expected.a);
              copy(step.b, expected.b);
            }
            if (done > 0) step.states = state;
            step.run(*op, threads);
            state = step.states;
            done += n;
            ASSERT_LT(relative_error(step.y.row(n - 1), expected.y.row(done - 1)), 2e-3) << done;
            if (done == kPrompt + kGenerated) {
              EXPECT_LT(relative_error(step.memory(0), expected.memory(0)), 1e-3);
            }
          }
        },
        threads);
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
  for (DeltaNet::Problem problem : kProblems) {
    EXPECT_EQ(problem.state_bytes(), cache_unit_bytes(problem.state()));
    problem.ring = 8;
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
