// LinearGroup on a GPU: what only its kernels do.
#include <gtest/gtest.h>

#include "ops/linear_formats.h"

namespace moe4 {
namespace {

using namespace moe4::testing;

TEST(CudaLinearGroup, Float32RowsAreRoundedToBf16First) {
  ThreadPool threads(1);
  RandomMoe memory;
  const LinearCase group = one_linear(make_linear(memory, kLinearFormats[4], 70, 272), {});
  OwnedRows x(9, 272, 5, 1.0f);
  each_implementation<LinearGroup>(
      group.problem(),
      [&](const Implementation<LinearGroup>& implementation, const OpOptions& options) {
        const auto op = implementation.prepare(group.problem(), group.weights, options);
        for (const int64_t decodes : {-1, 9}) {
          EXPECT_TRUE(same_bits(run_linears(*op, x, threads, decodes)[0],
                                run_linears(*op, x.as(RowFormat::kBf16), threads, decodes)[0]));
        }
      },
      threads);
}

// So many tokens that prompts take large tiles, and decodes many passes.
TEST(CudaLinearGroup, LargeTilesAndManyPassesGiveTheBitsOfSmallOnes) {
  ThreadPool threads(2);
  for (const LinearFormat& format : kLinearFormats) {
    if (format.options.activations != ActivationMode::kAuto) continue;
    SCOPED_TRACE(format.name);
    constexpr int64_t n = 300, k = 192, tokens = 128 * 90 + 5;
    RandomMoe memory;
    const LinearCase group = one_linear(make_linear(memory, format, n, k), format.options);
    const OwnedRows x = OwnedRows(tokens, k, 7, 1.0f, RowFormat::kBf16);
    each_implementation<LinearGroup>(
        group.problem(),
        [&](const Implementation<LinearGroup>& implementation, const OpOptions& options) {
          const auto op = implementation.prepare(group.problem(), group.weights, options);
          for (const bool decode : {false, true}) {
            const std::vector<float> all = run_linears(*op, x, threads, decode ? tokens : 0)[0];
            for (const int64_t t : {int64_t{0}, int64_t{200}, tokens - 40}) {
              const std::vector<float> few =
                  run_linears(*op, some_rows(x, t, 40), threads, decode ? 40 : 0)[0];
              EXPECT_TRUE(same_bits(few, std::span(all).subspan(t * n, 40 * n)))
                  << (decode ? "decode" : "prompt") << " from token " << t;
            }
          }
        },
        threads);
  }
}

// Rows long enough for eight shares of K: tokens by the dozen are spread over clusters of blocks.
TEST(CudaLinearGroup, DozensOfGeneratedTokensGiveTheBitsOfAFew) {
  ThreadPool threads(2);
  for (const LinearFormat& format : kLinearFormats) {
    if (format.options.activations != ActivationMode::kAuto) continue;
    // The last rows of a tile of 64 are missing; so many tiles that a warpgroup has several; shares
    // of unequal numbers of units, the last of them with fewer chunks.
    for (const auto& [n, k] :
         {std::pair<int64_t, int64_t>{300, 2048}, {9300, 2048}, {2048, 4096}, {70, 2624}}) {
      if (n > 4096 && !format.scheme.is_fp8()) continue;
      SCOPED_TRACE(std::string(format.name) + " " + std::to_string(n) + " x " + std::to_string(k));
      RandomMoe memory;
      const LinearCase group = one_linear(make_linear(memory, format, n, k), format.options);
      const OwnedRows x = linear_inputs(261, k);
      const int64_t checked = std::min<int64_t>(n, 70);  // outputs of a token
      each_implementation<LinearGroup>(
          group.problem(),
          [&](const Implementation<LinearGroup>& implementation, const OpOptions& options) {
            const auto op = implementation.prepare(group.problem(), group.weights, options);
            std::vector<float> few;
            for (int64_t t = 0; t < x.rows; t += 8) {
              const int64_t count = std::min<int64_t>(8, x.rows - t);
              const auto y = run_linears(*op, some_rows(x, t, count), threads, count)[0];
              few.insert(few.end(), y.begin(), y.end());
            }
            for (const int64_t tokens : {9, 16, 17, 32, 33, 64, 65, 100, 128, 129, 261}) {
              const auto y = run_linears(*op, some_rows(x, 0, tokens), threads, tokens)[0];
              EXPECT_TRUE(same_bits(y, std::span(few).first(static_cast<size_t>(tokens * n))))
                  << tokens << " tokens";
            }
            // Prompts behind them, and inputs and outputs of every format.
            const auto mixed = run_linears(*op, some_rows(x, 0, 40), threads, 20)[0];
            EXPECT_TRUE(same_bits(std::span(mixed).first(static_cast<size_t>(20 * n)),
                                  std::span(few).first(static_cast<size_t>(20 * n))));
            for (const RowFormat in : activation_formats()) {
              OwnedRows rows = some_rows(x, 0, 20);
              const auto y =
                  run_linears(*op, rows.as(in), threads, 20, activation_formats().back());
              for (int64_t t = 0; t < 20; ++t) {
                const auto row = [&](std::span<const float> all) {
                  return all.subspan(static_cast<size_t>(t * n), static_cast<size_t>(checked));
                };
                EXPECT_LT(relative_error(row(y[0]), row(few)), 0x1p-8);
              }
            }
          },
          threads);
    }
  }
}

// So many rows that every multiprocessor of an H200 has 96, and a few of BF16 beside them, as in
// front of a delta net; results in both formats.
TEST(CudaLinearGroup, RowsForAllMultiprocessorsGiveTheBitsOfAFewTokens) {
  ThreadPool threads(2);
  constexpr int64_t k = 1024;
  RandomMoe memory;
  LinearCase group;
  for (const int64_t n : {8192, 3003, 35, 32}) {
    group.weights.members.push_back(make_linear(memory, kLinearFormats[n > 100 ? 4 : 0], n, k));
    group.options.push_back({});
  }
  const OwnedRows x = linear_inputs(200, k);
  each_implementation<LinearGroup>(
      group.problem(),
      [&](const Implementation<LinearGroup>& implementation, const OpOptions& options) {
        const auto op = implementation.prepare(group.problem(), group.weights, options);
        std::vector<std::vector<float>> few(4);
        for (int64_t t = 0; t < x.rows; t += 8) {
          const auto y = run_linears(*op, some_rows(x, t, 8), threads, 8);
          for (size_t i = 0; i < 4; ++i) few[i].insert(few[i].end(), y[i].begin(), y[i].end());
        }
        for (const int64_t tokens : {17, 32, 33, 64, 65, 128, 129, 200}) {
          for (const RowFormat in : activation_formats()) {
            OwnedRows rows = some_rows(x, 0, tokens);
            const auto y = run_linears(*op, rows.as(in), threads, tokens);
            for (size_t i = 0; i < 4; ++i) {
              EXPECT_TRUE(same_bits(y[i], std::span(few[i]).first(y[i].size())))
                  << tokens << " tokens, member " << i;
            }
          }
          const auto rounded = run_linears(*op, some_rows(x, 0, tokens).as(RowFormat::kBf16),
                                           threads, tokens, RowFormat::kBf16);
          for (size_t i = 0; i < 4; ++i) {
            OwnedRows y(tokens, static_cast<int64_t>(rounded[i].size()) / tokens, 0.0f);
            for (int64_t t = 0; t < y.rows; ++t) {
              for (int64_t c = 0; c < y.width; ++c) y.set(t, c, few[i][t * y.width + c]);
            }
            EXPECT_TRUE(same_bits(rounded[i], y.as(RowFormat::kBf16).dense()))
                << tokens << " tokens, BF16, member " << i;
          }
        }
      },
      threads);
}

// So many rows that a warp has tiles of its own.
TEST(CudaLinearGroup, HeadsGiveTheBitsOfManyTokens) {
  ThreadPool threads(2);
  for (const size_t format : {size_t{3}, size_t{9}}) {
    for (const auto& [n, k] : {std::pair<int64_t, int64_t>{150003, 96}, {136000, 576}}) {
      if (k > 96 && format != 3) continue;
      SCOPED_TRACE(std::string(kLinearFormats[format].name) + " " + std::to_string(n) + " x " +
                   std::to_string(k));
      RandomMoe memory;
      const LinearCase group = one_linear(make_linear(memory, kLinearFormats[format], n, k), {});
      const OwnedRows x = linear_inputs(33, k);
      each_implementation<LinearGroup>(
          group.problem(),
          [&](const Implementation<LinearGroup>& implementation, const OpOptions& options) {
            const auto op = implementation.prepare(group.problem(), group.weights, options);
            const auto many = run_linears(*op, x, threads, x.rows)[0];
            for (const int64_t tokens : {1, 3, 8, 9, 16}) {
              const auto few = run_linears(*op, some_rows(x, 0, tokens), threads, tokens)[0];
              EXPECT_TRUE(same_bits(few, std::span(many).first(static_cast<size_t>(tokens * n))))
                  << tokens << " tokens";
            }
          },
          threads);
    }
  }
}

uint8_t* scale_bytes(const LinearWeights& weights) {
  return const_cast<uint8_t*>(static_cast<const uint8_t*>(weights.scale.data));
}

// One row more than multiprocessors of an H200 have 128 each, and an odd number of them; a last
// unit of one chunk. Blocks of a cluster have rows for one, two or none of their warpgroups.
TEST(CudaLinearGroup, HeadsOfDozensOfTokensGiveTheBitsOfAFew) {
  ThreadPool threads(2);
  constexpr int64_t n = 17003;
  for (const auto& what : {std::pair<size_t, int64_t>{3, 2112}, {3, 2048}, {9, 320}}) {
    const size_t format = what.first;
    const int64_t k = what.second;
    SCOPED_TRACE(std::string(kLinearFormats[format].name) + " x " + std::to_string(k));
    RandomMoe memory;
    const LinearWeights weights = make_linear(memory, kLinearFormats[format], n, k);
    if (format == 3) {  // rows of zeros, and of all scales below the normal ones
      for (int64_t b = 0; b < k / 16; ++b) {
        scale_bytes(weights)[6 * k / 16 + b] = 0;
        scale_bytes(weights)[(n - 2) * k / 16 + b] = static_cast<uint8_t>(1 + b % 7);
      }
    }
    const LinearCase group = one_linear(weights, {});
    const OwnedRows x = linear_inputs(256, k);
    const auto exact = exact_linears(group, some_rows(x, 0, 2))[0];
    each_implementation<LinearGroup>(
        group.problem(),
        [&](const Implementation<LinearGroup>& implementation, const OpOptions& options) {
          const auto op = implementation.prepare(group.problem(), group.weights, options);
          std::vector<float> few;
          for (int64_t t = 0; t < x.rows; t += 8) {
            const auto y = run_linears(*op, some_rows(x, t, 8), threads, 8)[0];
            few.insert(few.end(), y.begin(), y.end());
          }
          EXPECT_LT(relative_error(std::span(few).first(exact.size()), exact),
                    linear_tolerance(kLinearFormats[format], options, k));
          for (const int64_t tokens : {17, 32, 33, 64, 65, 100, 128, 129, 200, 256}) {
            const auto y = run_linears(*op, some_rows(x, 0, tokens), threads, tokens)[0];
            EXPECT_TRUE(same_bits(y, std::span(few).first(y.size()))) << tokens << " tokens";
          }
          const auto rounded = run_linears(*op, some_rows(x, 0, 70).as(RowFormat::kBf16), threads,
                                           70, RowFormat::kBf16)[0];
          OwnedRows y(70, n, 0.0f);
          for (int64_t t = 0; t < y.rows; ++t) {
            for (int64_t c = 0; c < n; ++c) y.set(t, c, few[t * n + c]);
          }
          EXPECT_TRUE(same_bits(rounded, y.as(RowFormat::kBf16).dense())) << "BF16";
        },
        threads);
  }
}

// What the test above would see of a single weight's block that is not as it should be.
TEST(CudaLinearGroup, AWrongScaleOfAHeadShowsInItsRowAlone) {
  ThreadPool threads(2);
  constexpr int64_t n = 17003, k = 2048, row = 16899, tokens = 130;
  RandomMoe memory;
  const LinearCase group = one_linear(make_linear(memory, kLinearFormats[3], n, k), {});
  const OwnedRows x = linear_inputs(tokens, k);
  each_implementation<LinearGroup>(
      group.problem(),
      [&](const Implementation<LinearGroup>& implementation, const OpOptions& options) {
        const auto outputs = [&] {
          const auto op = implementation.prepare(group.problem(), group.weights, options);
          return run_linears(*op, x, threads, tokens)[0];
        };
        const auto right = outputs();
        uint8_t& scale = scale_bytes(group.weights.members[0])[row * k / 16 + 77];
        const uint8_t before = scale;
        scale = before == 0x38 ? 0x40 : 0x38;
        const auto wrong = outputs();
        scale = before;
        for (int64_t t = 0; t < tokens; ++t) {
          int64_t differ = 0;
          for (int64_t r = 0; r < n; ++r) differ += right[t * n + r] != wrong[t * n + r] ? 1 : 0;
          EXPECT_EQ(differ, 1) << "token " << t;
          EXPECT_NE(right[t * n + row], wrong[t * n + row]) << "token " << t;
        }
      },
      threads);
}

// More inputs than leave room for a full ring or several tokens a pass.
TEST(CudaLinearGroup, LongRowsEqualTheExactSum) {
  ThreadPool threads(1);
  for (const int64_t k : {24576, 12288, 5120}) {
    RandomMoe memory;
    const LinearCase group = one_linear(make_linear(memory, kLinearFormats[4], 20, k), {});
    const OwnedRows x = linear_inputs(11, k);
    const auto exact = exact_linears(group, x);
    each_implementation<LinearGroup>(
        group.problem(),
        [&](const Implementation<LinearGroup>& implementation, const OpOptions& options) {
          const auto op = implementation.prepare(group.problem(), group.weights, options);
          for (const int64_t decodes : {-1, 11}) {
            EXPECT_LT(relative_error(run_linears(*op, x, threads, decodes)[0], exact[0]),
                      linear_tolerance(kLinearFormats[4], options, k))
                << k << " columns, " << decodes << " decodes";
          }
        },
        threads);
  }
}

}  // namespace
}  // namespace moe4
