// Embed from a table of its own and from lm_head's rows.
#include "ops/embed/embed.h"

#include <gtest/gtest.h>

#include "ops/linear_formats.h"

namespace moe4 {
namespace {

using namespace moe4::testing;

constexpr int64_t kVocab = 130, kWidth = 288;

LinearWeights make_table(RandomMoe& memory, const LinearFormat& format) {
  Random random(51);
  const RandomMoeOptions options{.scheme = format.scheme, .float_dtype = format.float_dtype};
  return testing::internal::random_linear(memory, options, random, "table", kVocab, kWidth, 1.0f);
}

OwnedRows look_up(const Prepared<Embed>& op, const std::vector<int32_t>& ids, ThreadPool& threads,
                  RowFormat format = RowFormat::kF32) {
  OwnedRows y(static_cast<int64_t>(ids.size()), kWidth, NAN, format);
  run_op(op, {.ids = ids.data(), .y = y.view()}, threads);
  return y;
}

TEST(Embed, LooksRowsUpExactlyFromATableOfItsOwnOrFromLmHead) {
  ThreadPool threads(2);
  const std::vector<int32_t> ids = {0, 129, 64, -1, 130, 0};
  for (const LinearFormat& format : kLinearFormats) {
    SCOPED_TRACE(format.name);
    RandomMoe memory;
    const Embed::Weights exact{.table = make_table(memory, format)};
    OwnedRows expected =
        look_up(*reference_of<Embed>().prepare({.vocab_size = kVocab, .width = kWidth}, exact, {}),
                ids, threads);
    EXPECT_EQ(expected.at(3, 0), 0.0f) << "padding";
    for (const bool tied : {false, true}) {
      const Embed::Problem problem{.vocab_size = kVocab, .width = kWidth, .tied = tied};
      each_implementation<Embed>(
          problem,
          [&](const Implementation<Embed>& implementation, const OpOptions& options) {
            RandomMoe own;
            Embed::Weights weights{.table = make_table(own, format)};
            std::unique_ptr<Prepared<LinearGroup>> lm_head;
            if (tied) {
              const LinearCase head = one_linear(weights.table, {});
              lm_head = prepare<LinearGroup>(head.problem(), head.weights, options);
              weights.lm_head = lm_head.get();
            }
            const auto op = implementation.prepare(problem, weights, options);
            own.storage.clear();  // nothing of the checkpoint is kept
            for (const RowFormat rows : activation_formats()) {
              EXPECT_TRUE(
                  same_bits(look_up(*op, ids, threads, rows).dense(), expected.as(rows).dense()))
                  << (tied ? "tied" : "own") << ", " << element_bytes(rows) << " bytes";
            }
          },
          threads);
    }
  }
}

TEST(Embed, TheScaleMultipliesRowsWhereverTheyComeFrom) {
  ThreadPool threads(2);
  RandomMoe memory;
  const Embed::Weights weights{.table = make_table(memory, kLinearFormats[0])};
  const std::vector<int32_t> ids = {3, -1};
  Embed::Problem problem{.vocab_size = kVocab, .width = kWidth};
  std::vector<float> expected =
      look_up(*reference_of<Embed>().prepare(problem, weights, {}), ids, threads).row(0);
  for (float& v : expected) v *= 53.0f;
  problem.scale = 53.0f;
  EXPECT_EQ(look_up(*reference_of<Embed>().prepare(problem, weights, {}), ids, threads).row(0),
            expected);
  each_implementation<Embed>(
      problem,
      [&](const Implementation<Embed>& implementation, const OpOptions& options) {
        const OwnedRows y =
            look_up(*implementation.prepare(problem, weights, options), ids, threads);
        EXPECT_EQ(y.row(0), expected);
        EXPECT_EQ(y.row(1), std::vector<float>(kWidth, 0.0f));
      },
      threads);
}

TEST(Embed, NanInFp8WeightsIsAnErrorThatNamesTheTensor) {
  ThreadPool threads(1);
  RandomMoe memory;
  const Embed::Weights weights{.table = make_table(memory, kLinearFormats[5])};
  static_cast<uint8_t*>(const_cast<void*>(weights.table.weight.data))[5] = 0x7f;
  const Embed::Problem problem{.vocab_size = kVocab, .width = kWidth};
  each_implementation<Embed>(
      problem,
      [&](const Implementation<Embed>& implementation, const OpOptions& options) {
        try {
          implementation.prepare(problem, weights, options);
          FAIL() << "a NaN was taken";
        } catch (const Error& error) {
          EXPECT_EQ(error.code(), ErrorCode::kBadInput);
          EXPECT_NE(std::string(error.what()).find("table.weight"), std::string::npos);
        }
      },
      threads);
}

}  // namespace
}  // namespace moe4
