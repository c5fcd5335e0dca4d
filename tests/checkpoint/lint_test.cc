// The linter finds what the small checkpoints were made to have, and nothing in a healthy one.
#include "checkpoint/lint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>

#include "checkpoint/safetensors.h"
#include "support/editable_checkpoint.h"
#include "support/temp_dir.h"

namespace moe4 {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

fs::path small(const std::string& name) { return fs::path(MOE4_TEST_DATA) / "checkpoints" / name; }

std::vector<LintFinding> findings_of(const std::vector<LintFinding>& all, const std::string& code) {
  std::vector<LintFinding> some;
  std::copy_if(all.begin(), all.end(), std::back_inserter(some),
               [&](const LintFinding& finding) { return finding.code == code; });
  return some;
}

TEST(Lint, ABf16CheckpointHasNothing) {
  EXPECT_TRUE(lint(*Checkpoint::open(small("qwen3-bf16-sharded"))).empty());
}

TEST(Lint, GateAndUpScalesThatDifferAreCountedPerLayer) {
  const auto found =
      findings_of(lint(*Checkpoint::open(small("qwen3-gate-up-scales"))), "gate-up-scales");
  ASSERT_EQ(found.size(), 2u);
  EXPECT_EQ(found[0].tensor, "model.layers.0.mlp.experts");
  EXPECT_THAT(found[0].message, HasSubstr("6 gate and up"));
}

TEST(Lint, ScalesThatFoldingWouldDestroyAreCounted) {
  const auto found =
      findings_of(lint(*Checkpoint::open(small("qwen3-tiny-weights"))), "folded-scales");
  ASSERT_EQ(found.size(), 2u);
  EXPECT_THAT(found[0].message, HasSubstr("would vanish"));
}

// Findings about a checkpoint whose float scale tensors with this suffix are all `value`.
std::vector<LintFinding> lint_with_scale(const char* name, const std::string& suffix, float value) {
  testing::EditableCheckpoint checkpoint(name);
  for (auto& [tensor_name, tensor] : checkpoint.tensors) {
    if (!tensor_name.ends_with(suffix) || tensor.dtype != DType::kF32) continue;
    for (size_t i = 0; i < tensor.bytes.size(); i += sizeof value) {
      std::memcpy(tensor.bytes.data() + i, &value, sizeof value);
    }
  }
  testing::TempDir dir;
  checkpoint.write(dir.path());
  return lint(*Checkpoint::open(dir.path()));
}

TEST(Lint, ReciprocalGlobalScalesAreOneWarningAKind) {
  for (const auto& [name, suffix, value] :
       {std::tuple{"qwen3-modelopt-w4a16", ".weight_scale_2", 100.0f},
        {"qwen3-ct-nvfp4", ".weight_global_scale", 0.01f},
        {"qwen3-gate-up-scales", ".weight_scale_2", 5e4f}}) {
    const auto found = findings_of(lint_with_scale(name, suffix, value), "global-scale");
    ASSERT_FALSE(found.empty()) << name;
    EXPECT_LE(found.size(), 3u) << name;
    EXPECT_EQ(found[0].level, LintFinding::Level::kWarning) << name;
    EXPECT_THAT(found[0].message, HasSubstr("reciprocal")) << name;
  }
  EXPECT_THAT(findings_of(lint_with_scale("qwen3-modelopt-w4a16", ".weight_scale_2", 100.0f),
                          "global-scale")[0]
                  .message,
              HasSubstr("268800"));
  for (const auto& [name, suffix, value] :
       {std::tuple{"qwen3-modelopt-w4a16", ".weight_scale_2", 1e-3f},
        {"qwen3-ct-nvfp4", ".weight_global_scale", 3e4f},
        {"qwen3-ct-nvfp4", ".input_global_scale", 0.01f}}) {
    EXPECT_TRUE(findings_of(lint_with_scale(name, suffix, value), "global-scale").empty()) << name;
  }
}

TEST(Lint, InfiniteScalesAreErrors) {
  const float infinity = std::numeric_limits<float>::infinity();
  for (const float value : {infinity, -1.0f, std::nanf("")}) {
    for (const auto& [name, suffix, code] :
         {std::tuple{"qwen3-modelopt-w4a16", ".weight_scale_2", "global-scale"},
          {"qwen3-ct-nvfp4", ".weight_global_scale", "global-scale"},
          {"qwen3-modelopt-fp8", ".weight_scale", "weight-scale"},
          {"qwen3-fp8-block128", ".weight_scale_inv", "weight-scale"}}) {
      const auto found = findings_of(lint_with_scale(name, suffix, value), code);
      ASSERT_FALSE(found.empty()) << name << value;
      EXPECT_EQ(found[0].level, LintFinding::Level::kError) << name << value;
    }
  }
}

TEST(Lint, DamagedScalesAndUncalibratedExpertsAreFoundWithoutThrowing) {
  testing::TempDir dir;
  for (const auto& entry : fs::directory_iterator(small("qwen3-modelopt-nvfp4"))) {
    if (entry.is_regular_file()) fs::copy(entry.path(), dir.path());
  }
  const fs::path file = dir / "model.safetensors";
  const std::string nan_scale = "model.layers.0.mlp.experts.1.up_proj.weight_scale";
  const std::string zero_input = "model.layers.1.mlp.experts.2.down_proj.input_scale";
  {
    const auto reader = SafetensorsFile::open(file);
    std::ifstream in(file, std::ios::binary);
    uint64_t header = 0;
    in.read(reinterpret_cast<char*>(&header), 8);
    std::fstream out(file, std::ios::binary | std::ios::in | std::ios::out);
    out.seekp(static_cast<std::streamoff>(8 + header) + reader->find(nan_scale)->begin);
    out.put('\x7f');
    out.seekp(static_cast<std::streamoff>(8 + header) + reader->find(zero_input)->begin);
    out.write("\0\0\0\0", 4);
  }
  const auto all = lint(*Checkpoint::open(dir.path()));
  ASSERT_FALSE(all.empty());
  EXPECT_EQ(all.front().level, LintFinding::Level::kError);  // errors first
  const auto nan = findings_of(all, "block-scale-nan");
  ASSERT_EQ(nan.size(), 1u);
  EXPECT_EQ(nan[0].tensor, nan_scale);
  EXPECT_EQ(findings_of(all, "unusable-layer").size(), 1u);
  const auto uncalibrated = findings_of(all, "uncalibrated-expert");
  ASSERT_EQ(uncalibrated.size(), 1u);
  EXPECT_THAT(uncalibrated[0].message, HasSubstr("experts.2.down_proj"));
}

}  // namespace
}  // namespace moe4
