// Sample against the float64 reference: every setting alone and together, and tokens at the borders
// of the distribution, where one unit of weight decides.
#include "ops/sample/sample.h"

#include <gtest/gtest.h>

#include "ops/conformance.h"
#include "ops/sample/cpu/sample_row.h"
#include "ops/sample/sample_arithmetic.h"

namespace moe4 {
namespace {

using namespace moe4::testing;

constexpr float kInfinity = std::numeric_limits<float>::infinity();

struct Results {
  std::vector<int32_t> ids;
  std::vector<SampleStatus> status;
  std::vector<float> logprobs;
  std::vector<int32_t> top_ids;
  std::vector<float> top_logprobs;
  std::vector<int32_t> counts;
};

// Rows of logits and how each is sampled.
class RowsToSample {
 public:
  RowsToSample(int64_t num_rows, int64_t vocab)
      : logits(num_rows, vocab), rows(num_rows), vocab_(vocab) {}

  int64_t words() const { return ceil_div(vocab_, 64); }

  Results run(const Prepared<Sample>& op, ThreadPool& threads, bool with_logprobs = true,
              int64_t num_top = 3) {
    const int64_t n = logits.rows;
    num_top = with_logprobs ? std::min(num_top, vocab_) : 0;
    int32_t edited = 0;
    bool any_sampled = false, any_truncated = false;
    for (SampleRow& row : rows) {
      const bool has_edits =
          row.mask >= 0 || row.counts >= 0 || row.num_forbidden > 0 || row.num_biases > 0;
      row.edited = has_edits ? edited++ : -1;
      any_sampled |= row.scale != 0;
      any_truncated |= row.top_k > 0 || row.top_p < 1;
    }
    Results results{.ids = std::vector<int32_t>(n, 99),
                    .status = std::vector<SampleStatus>(n, SampleStatus::kChosen),
                    .logprobs = std::vector<float>(n, 99.0f),
                    .top_ids = std::vector<int32_t>(n * num_top, 99),
                    .top_logprobs = std::vector<float>(n * num_top, 99.0f),
                    .counts = counts};
    run_op(op,
           {.logits = logits.view(),
            .rows = rows.data(),
            .masks = masks.data(),
            .forbidden = forbidden.data(),
            .biases = biases.data(),
            .counts = results.counts.data(),
            .ids = results.ids.data(),
            .status = results.status.data(),
            .logprobs = with_logprobs ? results.logprobs.data() : nullptr,
            .num_top = num_top,
            .top_ids = results.top_ids.data(),
            .top_logprobs = results.top_logprobs.data(),
            .num_edited = edited,
            .any_sampled = any_sampled,
            .any_truncated = any_truncated},
           threads);
    return results;
  }

  // Every implementation does what the reference does.
  void compare(ThreadPool& threads) {
    const Sample::Problem problem{.vocab_size = vocab_};
    const Results expected = run(*reference_of<Sample>().prepare(problem, {}, {}), threads);
    each_implementation<Sample>(
        problem,
        [&](const Implementation<Sample>& implementation, const OpOptions& options) {
          const auto op = implementation.prepare(problem, {}, options);
          const Results found = run(*op, threads);
          expect_equal(found, expected);
          const Results plain = run(*op, threads, false);
          EXPECT_EQ(plain.ids, expected.ids);
          EXPECT_EQ(plain.counts, expected.counts);
        },
        threads);
  }

  OwnedRows logits;
  std::vector<SampleRow> rows;
  std::vector<uint64_t> masks;
  std::vector<int32_t> forbidden;
  std::vector<LogitBias> biases;
  std::vector<int32_t> counts;

 private:
  void expect_equal(const Results& found, const Results& expected) const {
    EXPECT_EQ(found.counts, expected.counts);
    const auto num_top = static_cast<int64_t>(expected.top_ids.size()) / logits.rows;
    for (int64_t r = 0; r < logits.rows; ++r) {
      SCOPED_TRACE("row " + std::to_string(r) + ", scale " + std::to_string(rows[r].scale) +
                   ", top_k " + std::to_string(rows[r].top_k) + ", top_p " +
                   std::to_string(rows[r].top_p));
      EXPECT_EQ(found.ids[r], expected.ids[r]);
      EXPECT_EQ(found.status[r], expected.status[r]);
      if (expected.ids[r] < 0 || found.ids[r] != expected.ids[r]) continue;
      expect_near(found.logprobs[r], expected.logprobs[r]);
      for (int64_t i = r * num_top; i < (r + 1) * num_top; ++i) {
        EXPECT_EQ(found.top_ids[i], expected.top_ids[i]);
        expect_near(found.top_logprobs[i], expected.top_logprobs[i]);
      }
    }
  }
  static void expect_near(float found, float expected) {
    if (found == expected) return;  // infinities too
    EXPECT_NEAR(found, expected, 2e-6 * std::max(1.0f, std::abs(expected)));
  }

  int64_t vocab_;
};

// Row r has the settings of the bits of r, so that 64 rows have all combinations.
RowsToSample random_batch(int64_t num_rows, int64_t vocab, uint64_t seed) {
  Random random(seed);
  RowsToSample batch(num_rows, vocab);
  const auto uniform = [&] { return static_cast<float>(random.uniform()); };
  for (int64_t r = 0; r < num_rows; ++r) {
    for (int64_t i = 0; i < vocab; ++i) batch.logits.set(r, i, 3.0f * random.normal());
    if (vocab > 8 && r % 3 == 0) {  // ties of large ones
      for (const int64_t id : {int64_t{7}, vocab / 2, vocab - 1}) batch.logits.set(r, id, 9.0f);
    }
    if (r % 5 == 0) batch.logits.set(r, vocab / 3, -kInfinity);
    SampleRow& row = batch.rows[r];
    row.random = random.next();
    if (r % 7 != 0) row.scale = sample_scale(0.3f + 1.5f * uniform());
    if (r & 1) row.top_k = static_cast<int32_t>(1 + random.below(vocab + 5));
    if ((r & 1) != 0 && (r & 8) != 0) row.top_k = 1 + static_cast<int32_t>(random.below(40));
    if (r & 2) row.top_p = uniform();
    if (r & 4) row.least = sample_least(uniform() / 4);
    if (r & 8) {
      row.counts = static_cast<int32_t>(static_cast<int64_t>(batch.counts.size()) / vocab);
      for (int64_t i = 0; i < vocab; ++i) {
        const int64_t uses = random.below(12);
        batch.counts.push_back(uses < 4 ? static_cast<int32_t>(uses) : 0);
      }
      row.repetition_penalty = 0.5f + uniform();
      row.presence_penalty = 4 * uniform() - 2;
      row.frequency_penalty = 2 * uniform() - 1;
    }
    if (r & 16) {
      row.first_forbidden = static_cast<int32_t>(batch.forbidden.size());
      row.num_forbidden = 3;
      for (const int64_t id : {random.below(vocab), int64_t{-1}, vocab}) {
        batch.forbidden.push_back(static_cast<int32_t>(id));
      }
      row.first_bias = static_cast<int32_t>(batch.biases.size());
      row.num_biases = static_cast<int32_t>(std::min<int64_t>(vocab, 300));
      for (int32_t i = 0; i < row.num_biases; ++i) {
        const auto id = static_cast<int32_t>(i * (vocab / row.num_biases));
        batch.biases.push_back({id, 6.0f * random.normal()});
      }
    }
    if (r & 32) {
      row.mask = static_cast<int32_t>(static_cast<int64_t>(batch.masks.size()) / batch.words());
      for (int64_t i = 0; i < batch.words(); ++i) batch.masks.push_back(random.next());
    }
  }
  return batch;
}

TEST(Sample, ChoosesAsTheReferenceForEverySettingAndTheirCombinations) {
  ThreadPool threads(3);
  uint64_t seed = 1;
  for (const int64_t vocab : {int64_t{40}, int64_t{4096}, int64_t{9001}}) {
    for (int round = 0; round < (vocab == 40 ? 6 : 2); ++round) {
      SCOPED_TRACE("vocabulary " + std::to_string(vocab) + ", seed " + std::to_string(seed));
      random_batch(64, vocab, seed++).compare(threads);
    }
  }
  random_batch(16, 1, seed++).compare(threads);
  random_batch(8, 151936, seed++).compare(threads);
}

TEST(Sample, GreedyRowsTakeTheLargestAndOfEqualsTheLowestId) {
  ThreadPool threads(3);
  RowsToSample batch(5, 9000);
  for (int64_t r = 0; r < 5; ++r) {
    for (int64_t i = 0; i < 9000; ++i) batch.logits.set(r, i, -1.0f);
  }
  for (const int64_t id : {8999, 4096, 4095}) batch.logits.set(1, id, -0.5f);
  batch.logits.set(2, 17, -0.0f);
  batch.logits.set(2, 4100, 0.0f);
  batch.logits.set(3, 8999, std::numeric_limits<float>::max());
  for (int64_t i = 0; i < 8999; ++i) batch.logits.set(4, i, -kInfinity);
  batch.compare(threads);
  const Results found =
      batch.run(*reference_of<Sample>().prepare({.vocab_size = 9000}, {}, {}), threads);
  EXPECT_EQ(found.ids, (std::vector<int32_t>{0, 4095, 17, 8999, 8999}));
}

TEST(Sample, RowsThatCannotBeSampledSaySoAndDisturbNobody) {
  ThreadPool threads(3);
  RowsToSample batch = random_batch(24, 9001, 5);
  for (SampleRow& row : batch.rows) row.counts = -1;
  batch.logits.set(1, 9000, NAN);
  batch.logits.set(2, 0, kInfinity);
  batch.logits.set(7, 5000, NAN);
  for (int64_t i = 0; i < 9001; ++i) batch.logits.set(3, i, -kInfinity);
  batch.rows[9].mask =
      static_cast<int32_t>(static_cast<int64_t>(batch.masks.size()) / batch.words());
  batch.masks.resize(batch.masks.size() + batch.words());
  batch.compare(threads);
  const Results found =
      batch.run(*reference_of<Sample>().prepare({.vocab_size = 9001}, {}, {}), threads);
  EXPECT_EQ(found.status[1], SampleStatus::kBadLogits);
  EXPECT_EQ(found.status[3], SampleStatus::kNothingLeft);
  EXPECT_EQ(found.status[9], SampleStatus::kNothingLeft);
  EXPECT_EQ(found.ids[9], -1);
}

// More entries in one bin than anybody lists; ties by the thousand.
TEST(Sample, FlatLogitsAreCutByIds) {
  ThreadPool threads(3);
  constexpr int64_t kVocab = 20000;
  RowsToSample batch(12, kVocab);
  Random random(3);
  for (int64_t r = 0; r < 12; ++r) {
    for (int64_t i = 0; i < kVocab; ++i) {
      batch.logits.set(r, i, r < 6 ? 1.0f : 1.0f + 1e-4f * random.normal());
    }
    batch.rows[r] = {.scale = sample_scale(1.0f),
                     .random = random.next(),
                     .top_k = r % 3 == 1 ? 7000 : 0,
                     .top_p = r % 3 == 2 ? 1.0f : 0.01f + 0.15f * static_cast<float>(r % 6)};
  }
  batch.compare(threads);
}

// Few stay but for equals of the last of them, which come in later chunks.
TEST(Sample, AllThatEqualTheLastOfTopKStay) {
  ThreadPool threads(3);
  constexpr int64_t kVocab = 4 * 4096 + 100;
  RowsToSample batch(16, kVocab);
  Random random(8);
  for (int64_t r = 0; r < 16; ++r) {
    for (int64_t i = 0; i < kVocab; ++i) batch.logits.set(r, i, random.normal());
    for (const int64_t id : {100, 5000, 5001, 9000, 13000, 13001, 13002, 16400}) {
      batch.logits.set(r, id, 6.0f);
    }
    batch.logits.set(r, 7, 6.5f);
    batch.rows[r] = {.scale = sample_scale(1.0f),
                     .random = random.next(),
                     .top_k = static_cast<int32_t>(1 + r % 5),
                     .top_p = r < 8 ? 1.0f : 0.8f};
    if (r % 4 == 3) batch.rows[r].least = sample_least(0.9f);
  }
  batch.compare(threads);
}

// Of each candidate the first and the last point that are its own, with weights as integers.
TEST(Sample, OneUnitOfWeightDecidesAtTheBordersOfTheDistribution) {
  ThreadPool threads(3);
  constexpr int64_t kVocab = 6000;
  std::vector<float> logits(kVocab);
  Random random(11);
  for (float& l : logits) l = 2.5f * random.normal();
  SampleRow settings{.scale = sample_scale(0.7f), .top_k = 40, .top_p = 0.97f};
  std::vector<SampleCandidate> room(kVocab);
  const auto left = sample_candidates(logits, settings, room);
  ASSERT_GT(left.size(), 10u);
  uint64_t total = 0;
  for (const SampleCandidate& c : left) total += c.weight;
  // The smallest number that draws `point`.
  const auto first_random = [&](uint64_t point) {
    uint64_t low = 0, high = ~uint64_t{0};
    while (low < high) {
      const uint64_t middle = low + (high - low) / 2;
      if (drawn_point(middle, total) >= point) {
        high = middle;
      } else {
        low = middle + 1;
      }
    }
    return low;
  };
  RowsToSample batch(static_cast<int64_t>(2 * left.size()), kVocab);
  std::vector<int32_t> expected;
  uint64_t before = 0;
  for (const SampleCandidate& c : left) {
    settings.random = first_random(before);
    batch.rows[expected.size()] = settings;
    expected.push_back(c.id);
    before += c.weight;
    settings.random = before == total ? ~uint64_t{0} : first_random(before) - 1;
    batch.rows[expected.size()] = settings;
    expected.push_back(c.id);
  }
  for (int64_t r = 0; r < batch.logits.rows; ++r) {
    for (int64_t i = 0; i < kVocab; ++i) batch.logits.set(r, i, logits[i]);
  }
  each_implementation<Sample>(
      {.vocab_size = kVocab},
      [&](const Implementation<Sample>& implementation, const OpOptions& options) {
        const auto op = implementation.prepare({.vocab_size = kVocab}, {}, options);
        EXPECT_EQ(batch.run(*op, threads).ids, expected);
      },
      threads);
}

TEST(Sample, WeightsAreTheExponentialToOnePartInTwoToThe41) {
  for (int i = 0; i <= 44000; ++i) {
    const double e = -i / 1000.0;
    const double expected = std::exp2(e + kWeightBits);
    EXPECT_NEAR(static_cast<double>(sample_weight(e)), expected, 0.5 + 0x1p-41 * expected) << e;
  }
  EXPECT_EQ(sample_weight(0.0), uint64_t{1} << kWeightBits);
  EXPECT_EQ(sample_weight(-44.0), 1u);
}

TEST(Sample, PointsAreTheHighHalfOfTheProduct) {
  EXPECT_EQ(drawn_point(~uint64_t{0}, 1), 0u);
  EXPECT_EQ(drawn_point(~uint64_t{0}, uint64_t{1} << 62), (uint64_t{1} << 62) - 1);
  EXPECT_EQ(drawn_point(uint64_t{1} << 63, 7), 3u);
  EXPECT_EQ(drawn_point(0x123456789abcdef0u, 0xfedcba987654321u), 0x121fa00ad77d742u);
  EXPECT_EQ(top_p_mass(10, 0.0f), 1u);
  EXPECT_EQ(top_p_mass(10, 0.25f), 3u);
  EXPECT_EQ(top_p_mass(10, 0.5f), 5u);
}

}  // namespace
}  // namespace moe4
