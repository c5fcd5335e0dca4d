// Opens whole checkpoints: the embedded one, and larger ones where MOE4_SHARED_MODELS points to.
#include "checkpoint/checkpoint.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "base/error.h"
#include "checkpoint/materialise.h"

namespace moe4 {
namespace {

namespace fs = std::filesystem;

using testing::materialise;

TEST(Checkpoint, EmbeddedModelOpensWithoutNotes) {
  const auto checkpoint =
      Checkpoint::open(fs::path(MOE4_EMBEDDED_MODELS) / "tiny-qwen3_5-moe-nvfp4");
  materialise(*checkpoint);
  EXPECT_EQ(checkpoint->moe_layer(0).scheme, kW4A4);
  EXPECT_EQ(checkpoint->notes().size(), 0u);
  EXPECT_EQ(checkpoint->text_prefix(), "model.");
  // All of the file but the header and its length, 8 bytes.
  const fs::path file = checkpoint->file_of("model.embed_tokens.weight");
  uint64_t header = 0;
  std::ifstream(file, std::ios::binary).read(reinterpret_cast<char*>(&header), sizeof header);
  EXPECT_EQ(checkpoint->total_tensor_bytes(),
            static_cast<int64_t>(fs::file_size(file) - sizeof header - header));
}

TEST(Checkpoint, AMissingTensorIsSaidWithTheNearestName) {
  const auto checkpoint =
      Checkpoint::open(fs::path(MOE4_EMBEDDED_MODELS) / "tiny-qwen3_5-moe-nvfp4");
  const auto nearest_to = [&](const std::string& name) {
    try {
      checkpoint->tensor(name);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kBadInput);
      const std::string what = error.what();
      const std::string words = "the nearest name is ";
      const size_t at = what.find(words);
      if (at != std::string::npos) return what.substr(at + words.size());
    }
    return std::string("nothing");
  };
  const std::string norm = "model.layers.1.input_layernorm.weight";
  EXPECT_EQ(nearest_to("model.layers.1.input_layernorm.weigh"), norm) << "the next in order";
  EXPECT_EQ(nearest_to("model.layers.1.input_layernorm.weights"), norm) << "the one before";
  EXPECT_EQ(nearest_to("zzz"), checkpoint->tensor_names().back());
  EXPECT_EQ(nearest_to("a"), checkpoint->tensor_names().front());
}

TEST(Checkpoint, SharedModelsOpen) {
  if (std::string(MOE4_SHARED_MODELS).empty()) GTEST_SKIP() << "MOE4_SHARED_MODELS is not set";
  int opened = 0;
  for (const auto& model : fs::directory_iterator(MOE4_SHARED_MODELS)) {
    if (!model.is_directory()) continue;
    for (const auto& format : fs::directory_iterator(model)) {
      if (format.path().filename() == "golden" || !format.is_directory()) continue;
      SCOPED_TRACE(format.path());
      materialise(*Checkpoint::open(format.path()));
      materialise(*Checkpoint::open(format.path(), {.headers_only = true}));
      ++opened;
    }
  }
  EXPECT_GT(opened, 0) << "MOE4_SHARED_MODELS holds no checkpoint";
}

}  // namespace
}  // namespace moe4
