// Presets by name, cut to fewer experts, and refused by name.
#include "moe/layer_presets.h"

#include <gtest/gtest.h>

#include <set>
#include <string>

#include "base/error.h"

namespace moe4 {
namespace {

TEST(LayerPresets, HaveTheirPublishedSizesAndWeights) {
  const MoePreset nano = moe_preset("nemotron-3-nano");
  EXPECT_EQ(nano.problem.hidden_size, 2688);
  EXPECT_EQ(nano.problem.intermediate_size, 1856);
  EXPECT_EQ(nano.problem.num_experts, 128);
  EXPECT_EQ(nano.problem.top_k, 6);
  EXPECT_FALSE(nano.problem.activation.is_gated());
  EXPECT_TRUE(nano.scheme.is_nvfp4());
  const MoePreset oss = moe_preset("gpt-oss-20b");
  EXPECT_TRUE(oss.scheme.is_mxfp4());
  EXPECT_TRUE(oss.has_bias);
  EXPECT_EQ(to_string(oss.problem.activation), "swigluoai(alpha=1.702, beta=1, limit=7)");
  EXPECT_EQ(to_string(moe_preset("gemma-4-26b-a4b").problem.activation), "gelu_tanh");
}

TEST(LayerPresets, EveryNameIsThereOnceAndMakesALayer) {
  std::set<std::string_view> names;
  for (const std::string_view name : moe_preset_names()) {
    EXPECT_TRUE(names.insert(name).second) << name;
    const MoePreset preset = moe_preset(name);
    EXPECT_EQ(preset.name, name);
    EXPECT_EQ(preset.problem.num_local_experts, preset.problem.num_experts) << name;
    EXPECT_LE(preset.problem.top_k, preset.problem.num_experts) << name;
    EXPECT_EQ(preset.problem.hidden_size % 32, 0) << name;
    EXPECT_EQ(preset.problem.intermediate_size % 32, 0) << name;
  }
}

TEST(LayerPresets, TitlesSayHowManyExpertsAreLeft) {
  EXPECT_EQ(moe_preset("minimax-m2").title(), "minimax-m2");
  EXPECT_EQ(moe_preset("kimi-k2").title(), "kimi-k2, 48 of its 384 experts");
  const MoePreset cut = moe_preset("deepseek-v3/32");
  EXPECT_EQ(cut.problem.num_experts, 32);
  EXPECT_EQ(cut.problem.num_local_experts, 32);
  EXPECT_EQ(cut.title(), "deepseek-v3, 32 of its 256 experts");
  EXPECT_EQ(moe_preset("deepseek-v3/256").title(), "deepseek-v3");
}

std::string error_of(const char* name) {
  try {
    moe_preset(name);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kUsage);
    return error.what();
  }
  return "";
}

TEST(LayerPresets, RefuseUnknownNamesAndCounts) {
  EXPECT_NE(error_of("gpt-5").find("nemotron-3-nano"), std::string::npos);
  EXPECT_NE(error_of("").find("unknown preset ''"), std::string::npos);
  for (const char* name : {"kimi-k2/7", "kimi-k2/385", "kimi-k2/", "kimi-k2/-8", "kimi-k2/8x"}) {
    EXPECT_NE(error_of(name).find("expected 8 to 384 experts"), std::string::npos) << name;
  }
}

}  // namespace
}  // namespace moe4
