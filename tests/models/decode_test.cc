// A token's logits depend on the tokens before it and on nothing else.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "ops/experts/registry.h"
#include "support/golden.h"
#include "support/sequence.h"

namespace moe4 {
namespace {

using testing::LogitsFor;
using testing::Sequence;

namespace fs = std::filesystem;

struct Case {
  const char* folder;
  DType dtype;
};

void PrintTo(const Case& c, std::ostream* out) { *out << c.folder << " " << to_string(c.dtype); }

std::unique_ptr<Model> load(const Case& c, ThreadPool& threads) {
  register_builtin_backends();
  const auto checkpoint = Checkpoint::open(fs::path(MOE4_TEST_DATA) / "checkpoints" / c.folder);
  return Model::load(*checkpoint, {.compute_dtype = c.dtype, .threads = &threads});
}

// Pseudo-random ids below the vocabulary of the small checkpoints.
std::vector<int32_t> make_ids(size_t n) {
  std::vector<int32_t> ids(n);
  for (size_t i = 0; i < n; ++i) ids[i] = static_cast<int32_t>((i * 7919 + 13) % 300);
  return ids;
}

bool same_bits(std::span<const float> a, std::span<const float> b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size_bytes()) == 0;
}

std::vector<float> all_logits(const Model& model, std::span<const int32_t> ids, size_t chunk) {
  Sequence sequence(model, static_cast<int64_t>(ids.size()));
  std::vector<float> all, part;
  for (size_t begin = 0; begin < ids.size(); begin += chunk) {
    sequence.forward(ids.subspan(begin, std::min(chunk, ids.size() - begin)), LogitsFor::kAllTokens,
                     part);
    all.insert(all.end(), part.begin(), part.end());
  }
  return all;
}

class Decode : public ::testing::TestWithParam<Case> {};

TEST_P(Decode, TokenByTokenEqualsPrefillBitForBit) {
  ThreadPool threads(2);
  const auto model = load(GetParam(), threads);
  const std::vector<int32_t> ids = make_ids(150);
  const std::vector<float> whole = all_logits(*model, ids, ids.size());
  for (float logit : whole) ASSERT_TRUE(std::isfinite(logit));
  EXPECT_TRUE(same_bits(all_logits(*model, ids, 1), whole));
}

TEST_P(Decode, ChunkSizeAndThreadCountDoNotChangeABit) {
  const std::vector<int32_t> ids = make_ids(97);
  ThreadPool one(1), three(3);
  const std::vector<float> expected = all_logits(*load(GetParam(), one), ids, ids.size());
  const auto model = load(GetParam(), three);
  for (size_t chunk : {1, 3, 7, 64, 97}) {
    EXPECT_TRUE(same_bits(all_logits(*model, ids, chunk), expected)) << "chunk " << chunk;
  }
}

TEST_P(Decode, LongContextsSplitOverThreadsWithoutChangingABit) {
  // Past a segment of keys (1024): decode spreads them over threads, prefill does not.
  const std::vector<int32_t> ids = make_ids(1100);
  ThreadPool one(1), many(4);
  const auto serial = load(GetParam(), one), parallel = load(GetParam(), many);
  Sequence a(*serial, 1100), b(*parallel, 1100);
  std::vector<float> logits_a, logits_b;
  a.forward(ids, LogitsFor::kLastToken, logits_a);
  b.forward(std::span(ids).first(1095), LogitsFor::kNone, logits_b);
  for (size_t i = 1095; i < ids.size(); ++i) {
    b.forward(std::span(ids).subspan(i, 1), LogitsFor::kLastToken, logits_b);
  }
  EXPECT_TRUE(same_bits(logits_a, logits_b));
}

TEST_P(Decode, SequencesDoNotDisturbEachOther) {
  ThreadPool threads(2);
  const auto model = load(GetParam(), threads);
  const std::vector<int32_t> ids = make_ids(40);
  const std::vector<float> alone = all_logits(*model, ids, 1);
  Sequence a(*model, 40), b(*model, 80);
  std::vector<float> part, interleaved;
  for (int32_t id : ids) {
    a.forward({&id, 1}, LogitsFor::kAllTokens, part);
    interleaved.insert(interleaved.end(), part.begin(), part.end());
    const int32_t others[] = {299 - id, id / 2};
    b.forward(others, LogitsFor::kNone, part);
  }
  EXPECT_TRUE(same_bits(interleaved, alone));
}

TEST_P(Decode, LastTokenLogitsAreTheLastOfAllAndHiddenStatesChangeNothing) {
  ThreadPool threads(2);
  const auto model = load(GetParam(), threads);
  const std::vector<int32_t> ids = make_ids(30);
  const auto vocab = static_cast<size_t>(model->config().vocab_size);
  const std::vector<float> all = all_logits(*model, ids, ids.size());
  const std::span<const float> expected = std::span(all).last(vocab);
  std::vector<float> logits;
  HiddenStates hidden;
  for (HiddenStates* out : {static_cast<HiddenStates*>(nullptr), &hidden}) {
    Sequence sequence(*model, 30);
    sequence.forward(ids, LogitsFor::kLastToken, logits, out);
    EXPECT_TRUE(same_bits(logits, expected));
  }
  EXPECT_EQ(hidden.layers.size(), static_cast<size_t>(model->config().num_layers));
  EXPECT_EQ(hidden.final_norm.size(), ids.size() * model->config().hidden_size);
}

INSTANTIATE_TEST_SUITE_P(
    All, Decode,
    ::testing::Values(
        Case{"qwen3-modelopt-nvfp4", DType::kBF16}, Case{"gpt_oss-mxfp4", DType::kBF16},
        Case{"nemotron_h-nano", DType::kBF16}, Case{"nemotron_h-super", DType::kF32},
        Case{"qwen3-fp8-block128", DType::kBF16},
        Case{"qwen3_5-modelopt-mixed-prefix", DType::kBF16},
        Case{"qwen3_5-ct-nvfp4a16", DType::kF32}, Case{"deepseek_v3-modelopt-nvfp4", DType::kBF16},
        Case{"gemma4-modelopt-nvfp4", DType::kBF16}, Case{"glm4_moe-modelopt-nvfp4", DType::kBF16},
        Case{"glm4_moe_lite-modelopt-nvfp4", DType::kF32},
        Case{"minimax_m2-modelopt-nvfp4", DType::kBF16},
        Case{"qwen3_next-modelopt-nvfp4", DType::kBF16},
        Case{"qwen3_vl_moe-modelopt-nvfp4", DType::kF32},
        Case{"mixtral-modelopt-nvfp4", DType::kBF16}, Case{"hy_v3-ct-nvfp4", DType::kF32},
        Case{"ernie4_5_moe-modelopt-w4a16", DType::kBF16}, Case{"mistral4-ct-nvfp4", DType::kBF16},
        Case{"laguna-modelopt-nvfp4", DType::kF32}, Case{"llama4-modelopt-nvfp4", DType::kBF16},
        Case{"llama4-modelopt-nvfp4", DType::kF32},
        Case{"mimo_v2_flash-modelopt-nvfp4", DType::kBF16},
        Case{"step3p7-modelopt-nvfp4", DType::kBF16},
        Case{"deepseek_v32-modelopt-nvfp4", DType::kBF16},
        Case{"glm_moe_dsa-modelopt-nvfp4", DType::kF32},
        Case{"minimax_m3-modelopt-mixed", DType::kBF16},
        Case{"deepseek_v4-modelopt-fp8", DType::kBF16}, Case{"deepseek_v4-mxfp4", DType::kBF16}));

}  // namespace
}  // namespace moe4
