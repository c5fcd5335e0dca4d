// The linter finds what the small checkpoints were made to have, and nothing in a healthy one.
#include "checkpoint/lint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>

#include "checkpoint/safetensors.h"
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
