// Logits far into a sequence against a float64 forward pass from outside
// (scripts/make_long_context_goldens.py), however the sequence is cut.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "engine/generator.h"
#include "models/model.h"
#include "ops/experts/registry.h"
#include "support/golden.h"
#include "support/sequence.h"

namespace moe4 {
namespace {

using testing::LogitsFor;
using testing::Sequence;

namespace fs = std::filesystem;

class LongContext : public ::testing::Test {
 protected:
  static void SetUpTestSuite() { register_builtin_backends(); }

  std::unique_ptr<Model> load(ThreadPool& threads, DType dtype) const {
    return Model::load(*checkpoint_, {.compute_dtype = dtype, .threads = &threads});
  }

  const fs::path folder_ = fs::path(MOE4_TEST_DATA) / "long_context";
  const testing::Golden golden_{folder_ / "golden.safetensors"};
  const std::unique_ptr<Checkpoint> checkpoint_ = Checkpoint::open(folder_);
  const std::vector<int32_t> ids_ = golden_.ints("input_ids");
  const std::vector<int32_t> positions_ = golden_.ints("positions");
  const std::vector<float> logits_ = golden_.floats("logits");

  // All logits, in calls of `chunk` tokens.
  std::vector<float> run(const Model& model, size_t chunk) const {
    Sequence sequence(model, static_cast<int64_t>(ids_.size()));
    std::vector<float> all, part;
    for (size_t begin = 0; begin < ids_.size(); begin += chunk) {
      sequence.forward(std::span(ids_).subspan(begin, std::min(chunk, ids_.size() - begin)),
                       LogitsFor::kAllTokens, part);
      all.insert(all.end(), part.begin(), part.end());
    }
    return all;
  }

  void expect_golden(const std::vector<float>& all, double tolerance) const {
    const size_t vocab = all.size() / ids_.size();
    for (size_t i = 0; i < positions_.size(); ++i) {
      const auto found = std::span(all).subspan(positions_[i] * vocab, vocab);
      const auto expected = std::span(logits_).subspan(i * vocab, vocab);
      EXPECT_LT(testing::relative_error(found, expected), tolerance) << positions_[i];
    }
  }
};

TEST_F(LongContext, LogitsAreThoseOfTheGoldenHoweverTheSequenceIsCut) {
  ASSERT_GE(ids_.size(), 1500u);
  for (const int threads : {1, 3}) {
    ThreadPool pool(threads);
    const auto exact = load(pool, DType::kF32);
    const auto fast = load(pool, DType::kBF16);
    // 300 and 700 put a border of segments inside a tile of queries; 1600 is one call.
    for (const size_t chunk : {300u, 700u, 1600u}) {
      SCOPED_TRACE(::testing::Message() << threads << " threads, chunks of " << chunk);
      expect_golden(run(*exact, chunk), 5e-6);
      expect_golden(run(*fast, chunk), 3e-3);
    }
  }
}

TEST_F(LongContext, DecodingPastASegmentGivesTheGoldensLogits) {
  for (const int threads : {1, 4}) {  // with four, segments are spread over threads
    ThreadPool pool(threads);
    const auto model = load(pool, DType::kF32);
    const auto vocab = static_cast<size_t>(model->config().vocab_size);
    Sequence sequence(*model, static_cast<int64_t>(ids_.size()));
    std::vector<float> logits;
    int compared = 0;
    sequence.forward(std::span(ids_).first(1020), LogitsFor::kNone, logits);
    for (size_t t = 1020; t < 1032; ++t) {
      sequence.forward(std::span(ids_).subspan(t, 1), LogitsFor::kLastToken, logits);
      const auto at = std::find(positions_.begin(), positions_.end(), static_cast<int32_t>(t));
      if (at == positions_.end()) continue;
      const auto expected = std::span(logits_).subspan((at - positions_.begin()) * vocab, vocab);
      EXPECT_LT(testing::relative_error(logits, expected), 5e-6) << t;
      ++compared;
    }
    EXPECT_GE(compared, 8);
  }
}

TEST_F(LongContext, EveryTokensLikelihoodIsTheGoldens) {
  ThreadPool pool(2);
  const auto model = load(pool, DType::kF32);
  const std::vector<float> expected = golden_.floats("next_log_probability");
  const std::vector<float> all = run(*model, ids_.size());
  const auto vocab = static_cast<size_t>(model->config().vocab_size);
  double sum = 0;
  for (size_t t = 0; t + 1 < ids_.size(); ++t) {
    const float* row = all.data() + t * vocab;
    double total = 0;
    for (size_t i = 0; i < vocab; ++i) total += std::exp(static_cast<double>(row[i]));
    EXPECT_NEAR(row[ids_[t + 1]] - std::log(total), expected[t], 1e-4) << t;
    sum += expected[t];
  }
  const PerplexityResult result = perplexity(*model, {ids_}, 700);
  EXPECT_NEAR(result.mean_log_likelihood, sum / static_cast<double>(expected.size()), 1e-5);
}

}  // namespace
}  // namespace moe4
