// Other names for the same tensors give the same logits, to the bit.
#include <gtest/gtest.h>

#include <string>

#include "ops/experts/registry.h"
#include "support/editable_checkpoint.h"
#include "support/sequence.h"
#include "support/temp_dir.h"

namespace moe4 {
namespace {

using testing::LogitsFor;
using testing::Sequence;

using testing::EditableCheckpoint;
using testing::replaced;

std::vector<float> logits_of(const EditableCheckpoint& editable) {
  register_builtin_backends();
  testing::TempDir dir;
  editable.write(dir.path());
  ThreadPool threads(1);
  const auto checkpoint = Checkpoint::open(dir.path());
  const auto model = Model::load(*checkpoint, {.threads = &threads});
  const std::vector<int32_t> ids = {1, 2, 3, 300, 5};
  Sequence sequence(*model, static_cast<int64_t>(ids.size()));
  std::vector<float> logits;
  sequence.forward(ids, LogitsFor::kAllTokens, logits);
  return logits;
}

TEST(Names, TheHeadMayLieInsideTheLanguageModel) {
  const EditableCheckpoint plain("qwen3_5-modelopt-mixed-prefix");
  ASSERT_EQ(plain.config["tie_word_embeddings"], false);
  const std::vector<float> expected = logits_of(plain);
  EditableCheckpoint nested = plain;
  nested.rename([](const std::string& name) {
    return name.starts_with("lm_head.")
               ? "language_model." + name
               : replaced(name, "model.language_model.", "language_model.model.");
  });
  ASSERT_TRUE(nested.tensors.contains("language_model.lm_head.weight"));
  EXPECT_EQ(logits_of(nested), expected);
}

TEST(Names, TheWrappersWordOnTiedEmbeddingsCounts) {
  EditableCheckpoint tied("qwen3_5-modelopt-mixed-prefix");
  const std::vector<float> own_head = logits_of(tied);
  tied.config["tie_word_embeddings"] = true;  // text_config says false
  const std::vector<float> embedding = logits_of(tied);
  EXPECT_NE(embedding, own_head);
  tied.config["text_config"]["tie_word_embeddings"] = true;
  EXPECT_EQ(logits_of(tied), embedding);
  tied.config["tie_word_embeddings"] = false;
  EXPECT_EQ(logits_of(tied), own_head);
  tied.config.erase("tie_word_embeddings");
  EXPECT_EQ(logits_of(tied), embedding);
}

TEST(Names, ExpertsMayLieUnderAnotherNameThanTheFamilys) {
  const EditableCheckpoint plain("qwen3-modelopt-nvfp4");
  const std::vector<float> expected = logits_of(plain);
  for (const char* module : {".moe.experts.", ".block_sparse_moe.experts.", ".experts."}) {
    EditableCheckpoint renamed = plain;
    renamed.rename(
        [&](const std::string& name) { return replaced(name, ".mlp.experts.", module); });
    ASSERT_EQ(renamed.tensors.size(), plain.tensors.size());
    EXPECT_EQ(logits_of(renamed), expected) << module;
  }
}

TEST(Names, FusedBiasesAreAdded) {
  EditableCheckpoint plain("qwen3_5-fused-experts");
  const std::vector<float> without = logits_of(plain);
  for (auto& [name, tensor] : EditableCheckpoint::Tensors(plain.tensors)) {
    const bool both = name.ends_with("experts.gate_up_proj");
    if (!both && !name.ends_with("experts.down_proj")) continue;
    std::vector<float> values(static_cast<size_t>(tensor.shape[0] * tensor.shape[1]));
    for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i % 7) - 3.0f;
    plain.add(name + "_bias", {tensor.shape[0], tensor.shape[1]}, values);
  }
  EXPECT_NE(logits_of(plain), without);
}

}  // namespace
}  // namespace moe4
