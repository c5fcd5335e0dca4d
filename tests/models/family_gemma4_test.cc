// Gemma-4: norms, caps, windows and rotations that count, and what is refused.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "numerics/bf16.h"
#include "support/changed_family.h"

namespace moe4 {
namespace {

using nlohmann::json;
using testing::Change;
using testing::EditableCheckpoint;
using testing::error_after;
using testing::expect_missed;
using testing::expect_refused;
using ::testing::HasSubstr;
using testing::logits_after;
using testing::plain;
using testing::with_text;
using testing::worst;

const std::string kGemma = "gemma4-modelopt-nvfp4";
const std::string kGemmaLayers = "model.language_model.layers.";

// A tensor of one layer, its BF16 elements replaced.
Change with_elements(const std::string& name, float value) {
  return [=](EditableCheckpoint& c) {
    std::vector<std::byte>& bytes = c.tensors.at(kGemmaLayers + name).bytes;
    auto* elements = reinterpret_cast<Bf16*>(bytes.data());
    std::fill_n(elements, bytes.size() / sizeof(Bf16), to_bf16(value));
  };
}

TEST(Gemma4, TheCapTheWindowAndTheTwoRotationsCount) {
  const std::vector<float> expected = plain(kGemma);
  for (const float logit : expected) ASSERT_LT(std::abs(logit), 30.0f);
  const auto moved = [&](const Change& change) {
    return worst(logits_after(kGemma, change), expected);
  };
  EXPECT_GT(moved(with_text({{"final_logit_softcapping", nullptr}})), 1e-3);
  EXPECT_GT(moved(with_text({{"sliding_window", 9}})), 1e-3);
  const auto rope = [](const json& patch) { return with_text({{"rope_parameters", patch}}); };
  EXPECT_GT(moved(rope({{"sliding_attention", {{"rope_theta", 1e6}}}})), 1e-3);
  EXPECT_GT(moved(rope({{"full_attention", {{"rope_theta", 1e4}}}})), 1e-4);
  EXPECT_GT(moved(rope({{"full_attention", {{"partial_rotary_factor", 1.0}}}})), 1e-4);
}

TEST(Gemma4, EveryNormAndScaleOfALayerCounts) {
  const std::vector<float> expected = plain(kGemma);
  for (const char* name :
       {"1.layer_scalar", "1.router.scale", "1.router.per_expert_scale",
        "1.pre_feedforward_layernorm.weight", "1.pre_feedforward_layernorm_2.weight",
        "1.post_feedforward_layernorm.weight", "1.post_feedforward_layernorm_1.weight",
        "1.post_feedforward_layernorm_2.weight", "1.post_attention_layernorm.weight",
        "1.input_layernorm.weight", "1.self_attn.q_norm.weight", "2.self_attn.k_norm.weight"}) {
    EXPECT_GT(worst(logits_after(kGemma, with_elements(name, 1.5f)), expected), 1e-4) << name;
  }
}

TEST(Gemma4, LayersWithoutAWindowHaveNoValuesOfTheirOwn) {
  EXPECT_THAT(error_after(kGemma, with_text({{"attention_k_eq_v", false}})), HasSubstr("v_proj"));
  EXPECT_THAT(error_after(kGemma,
                          [](EditableCheckpoint& c) {
                            c.add(kGemmaLayers + "2.self_attn.v_proj.weight", {32, 96},
                                  std::vector<float>(size_t{32} * 96, 0.5f));
                          }),
              HasSubstr("2.self_attn.v_proj"));
}

TEST(Gemma4, WhatIsNotComputedIsRefusedByName) {
  const auto text = [](const json& patch) { return json{{"text_config", patch}}; };
  expect_refused(kGemma,
                 {{text({{"hidden_size_per_layer_input", 256}}), "hidden_size_per_layer_input"},
                  {text({{"num_kv_shared_layers", 2}}), "num_kv_shared_layers"},
                  {text({{"use_double_wide_mlp", true}}), "use_double_wide_mlp"},
                  {text({{"enable_moe_block", false}}), "enable_moe_block"},
                  {text({{"use_bidirectional_attention", "all"}}), "use_bidirectional_attention"},
                  {text({{"attention_bias", true}}), "attention_bias"},
                  {text({{"layer_types", {"sliding_attention", "full_attention", "linear"}}}),
                   "layer_types"}});
  expect_missed(kGemma, {"model.language_model.layers.0.layer_scalar",
                         "model.language_model.layers.1.router.scale",
                         "model.language_model.layers.1.router.per_expert_scale",
                         "model.language_model.layers.0.post_attention_layernorm.weight",
                         "model.language_model.layers.2.pre_feedforward_layernorm_2.weight",
                         "model.language_model.layers.0.mlp.gate_proj.weight"});
}

}  // namespace
}  // namespace moe4
