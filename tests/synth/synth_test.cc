// Synthetic checkpoints are read back by the real loader as what they claim to be.
#include "synth/synth.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <iterator>

#include "checkpoint/checkpoint.h"
#include "moe/dequantize.h"
#include "synth/synth_tokenizer.h"
#include "text/tokenizer.h"

namespace moe4 {
namespace {

namespace fs = std::filesystem;

class Synth : public testing::TestWithParam<const char*> {
 protected:
  Synth() : folder_(fs::temp_directory_path() / ("moe4_synth_" + std::to_string(getpid()))) {
    fs::remove_all(folder_);
  }
  ~Synth() override { fs::remove_all(folder_); }
  fs::path folder_;
};

std::string contents(const fs::path& file) {
  std::ifstream in(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

TEST_P(Synth, OpensWithoutAnyDisagreementBetweenMetadataAndTensors) {
  write_synthetic_checkpoint(folder_, {.preset = "tiny", .format = parse_synth_format(GetParam())});
  const auto checkpoint = Checkpoint::open(folder_);
  for (const CheckpointNote& note : checkpoint->notes()) {
    EXPECT_NE(note.level, CheckpointNote::Level::kWarning) << note.where << ": " << note.message;
  }
  EXPECT_EQ(checkpoint->config().num_layers, 4);
  for (int64_t layer = 0; layer < 4; ++layer) {
    const MoeLayerWeights weights = checkpoint->moe_layer(layer);
    EXPECT_TRUE(weights.scheme.is_nvfp4());
    EXPECT_EQ(weights.scheme.activation.has_value(), std::string(GetParam()) == "modelopt");
    EXPECT_EQ(weights.experts.size(), 32u);
  }
}

TEST_P(Synth, WeightsKeepTheVarianceOfActivations) {
  write_synthetic_checkpoint(
      folder_, {.preset = "tiny", .num_layers = 1, .format = parse_synth_format(GetParam())});
  const auto checkpoint = Checkpoint::open(folder_);
  const MoeLayerWeights weights = checkpoint->moe_layer(0);
  const LinearWeights& up = weights.experts[3].up;
  std::vector<float> row(up.in_features);
  double squares = 0;
  for (int64_t r = 0; r < up.out_features; ++r) {
    dequantize_row(up, r, row.data());
    for (float w : row) squares += double{w} * w;
  }
  const double variance_gain = squares / static_cast<double>(up.out_features);  // sum over K of w^2
  EXPECT_GT(variance_gain, 0.5);
  EXPECT_LT(variance_gain, 2.0);
}

INSTANTIATE_TEST_SUITE_P(Formats, Synth,
                         testing::Values("modelopt-mixed", "modelopt", "compressed-tensors"),
                         [](const auto& info) {
                           std::string name = info.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

TEST_F(Synth, SameSeedGivesTheSameBytesAndAnotherSeedOthers) {
  const fs::path again = folder_.string() + "_again", other = folder_.string() + "_other";
  write_synthetic_checkpoint(folder_, {.preset = "tiny", .num_layers = 1});
  write_synthetic_checkpoint(again, {.preset = "tiny", .num_layers = 1});
  write_synthetic_checkpoint(other, {.preset = "tiny", .num_layers = 1, .fill = {.seed = 2}});
  EXPECT_EQ(contents(folder_ / "model.safetensors"), contents(again / "model.safetensors"));
  EXPECT_NE(contents(folder_ / "model.safetensors"), contents(other / "model.safetensors"));
  fs::remove_all(again);
  fs::remove_all(other);
}

TEST_F(Synth, RefusesUnknownPresetsExistingFoldersAndTooFewExperts) {
  EXPECT_THROW(write_synthetic_checkpoint(folder_, {.preset = "none"}), Error);
  EXPECT_THROW(write_synthetic_checkpoint(folder_, {.preset = "tiny", .num_experts = 3}), Error);
  fs::create_directories(folder_);
  EXPECT_THROW(write_synthetic_checkpoint(folder_, {.preset = "tiny"}), Error);
}

// Streams of a server are only worth measuring where every token is a piece of text.
TEST(SynthTokenizer, EveryIdHasATextAndWordsEncodeToTheirIds) {
  constexpr int64_t kVocab = 20000;  // words of up to four letters
  const auto tokenizer = Tokenizer::parse(synth_tokenizer_json(kVocab), "tokenizer.json");
  EXPECT_EQ(tokenizer->vocab_size(), kVocab);
  EXPECT_EQ(tokenizer->token_bytes(259), " a");
  EXPECT_EQ(tokenizer->token_bytes(259 + 26), " aa");
  std::vector<int32_t> words;
  for (int32_t id = 0; id < kVocab; ++id) {
    EXPECT_NE(tokenizer->token_bytes(id), "") << id;
    EXPECT_EQ(tokenizer->is_special(id), id >= 256 && id < 259) << id;
    if (id >= 259) words.push_back(id);
  }
  StreamDecoder stream(*tokenizer);
  std::string text;
  for (const int32_t id : words) {
    const std::string piece = stream.push(id);
    ASSERT_NE(piece, "") << id;
    text += piece;
  }
  EXPECT_EQ(tokenizer->encode(text), words);
}

TEST_F(Synth, VocabularyIsThatOfTheModel) {
  write_synthetic_checkpoint(folder_, {.preset = "tiny", .num_layers = 1});
  EXPECT_EQ(Tokenizer::load(folder_)->vocab_size(), Checkpoint::open(folder_)->config().vocab_size);
}

}  // namespace
}  // namespace moe4
