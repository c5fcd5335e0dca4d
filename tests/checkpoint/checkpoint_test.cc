// Opens whole checkpoints: the embedded one, and larger ones where MOE4_SHARED_MODELS points to.
#include "checkpoint/checkpoint.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "base/error.h"

namespace moe4 {
namespace {

namespace fs = std::filesystem;

// Everything that can be read from a checkpoint.
void materialise(const Checkpoint& checkpoint) {
  for (int64_t layer = 0; layer < checkpoint.config().num_layers; ++layer) {
    if (!checkpoint.config().is_moe_layer[layer]) continue;
    const MoeLayerWeights weights = checkpoint.moe_layer(layer);
    EXPECT_EQ(static_cast<int64_t>(weights.experts.size()), checkpoint.config().moe.num_experts);
  }
  for (const std::string& module : checkpoint.linear_modules()) {
    EXPECT_GT(checkpoint.linear(module).out_features, 0) << module;
  }
}

TEST(Checkpoint, EmbeddedModelOpensWithoutNotes) {
  const auto checkpoint =
      Checkpoint::open(fs::path(MOE4_EMBEDDED_MODELS) / "tiny-qwen3_5-moe-nvfp4");
  materialise(*checkpoint);
  EXPECT_EQ(checkpoint->moe_layer(0).scheme, kW4A4);
  EXPECT_EQ(checkpoint->notes().size(), 0u);
  EXPECT_EQ(checkpoint->text_prefix(), "model.");
}

TEST(Checkpoint, SharedModelsOpen) {
  if (std::string(MOE4_SHARED_MODELS).empty()) GTEST_SKIP() << "MOE4_SHARED_MODELS is not set";
  for (const auto& model : fs::directory_iterator(MOE4_SHARED_MODELS)) {
    if (!model.is_directory()) continue;
    for (const auto& format : fs::directory_iterator(model)) {
      if (format.path().filename() == "golden" || !format.is_directory()) continue;
      SCOPED_TRACE(format.path());
      materialise(*Checkpoint::open(format.path()));
      materialise(*Checkpoint::open(format.path(), {.headers_only = true}));
    }
  }
}

}  // namespace
}  // namespace moe4
