// Mixtral and Mistral-Small-4: windows, the temperature's spellings, what is refused.
#include <gtest/gtest.h>

#include "support/changed_family.h"

namespace moe4 {
namespace {

using nlohmann::json;
using testing::expect_missed;
using testing::expect_refused;
using testing::logits_after;
using testing::plain;
using testing::with;
using testing::worst;

// ---- Mixtral

const std::string kMixtralName = "mixtral-modelopt-nvfp4";

TEST(Mixtral, AWindowIsOfAllLayersWhereTheFileHasOne) {
  const std::vector<float> expected = plain(kMixtralName);
  for (const json& window : {json(7), json(9), json(nullptr)}) {
    EXPECT_GT(worst(logits_after(kMixtralName, with({{"sliding_window", window}})), expected), 1e-3)
        << window;
  }
  expect_refused(kMixtralName, {{{{"attention_bias", true}}, "attention_bias"},
                                {{{"rope_scaling", {{"type", "dynamic"}}}}, "dynamic"},
                                {{{"num_local_experts", 9}}, "experts"}});
  expect_missed(kMixtralName, {"model.layers.1.block_sparse_moe.gate.weight"});
}

// ---- Mistral-Small-4

const std::string kMistral = "mistral4-ct-nvfp4";

// A patch of the text model's rotary embedding.
json rope(const json& patch) { return {{"text_config", {{"rope_parameters", patch}}}}; }

TEST(Mistral4, TheTemperatureHasTwoSpellings) {
  const std::vector<float> expected = plain(kMistral);
  json own = rope({{"llama_4_scaling_beta", nullptr}});
  own["text_config"]["llama_4_scaling"] = {{"beta", 0.1}, {"original_max_position_embeddings", 16}};
  EXPECT_EQ(logits_after(kMistral, with(own)), expected);
  // The first 16 positions have none, the others another one.
  const std::vector<float> other =
      logits_after(kMistral, with(rope({{"llama_4_scaling_beta", 0.2}})));
  const auto first = static_cast<std::ptrdiff_t>(16 * 320);
  EXPECT_TRUE(std::equal(other.begin(), other.begin() + first, expected.begin()));
  EXPECT_GT(worst(std::span(other).subspan(first), std::span(expected).subspan(first)), 1e-3);
}

TEST(Mistral4, WhatIsNotComputedIsRefusedByName) {
  const auto text = [](const json& patch) { return json{{"text_config", patch}}; };
  expect_refused(
      kMistral,
      {{rope({{"llama_4_scaling_beta", nullptr}}), "llama_4_scaling_beta"},
       {rope({{"partial_rotary_factor", 1.0}}), "partial_rotary_factor"},
       {text({{"llama_4_scaling", {{"beta", 0.3}, {"original_max_position_embeddings", 16}}}}),
        "llama_4_scaling"},
       {text({{"n_group", 2}}), "n_group"},
       {text({{"scoring_func", "sigmoid"}}), "scoring_func"},
       {text({{"first_k_dense_replace", 1}}), "layers.0.mlp"}});
}

}  // namespace
}  // namespace moe4
