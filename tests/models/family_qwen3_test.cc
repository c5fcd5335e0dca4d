// Qwen3-Next and Qwen3-VL: spellings of layers, projections grouped by key head, what is refused.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "support/changed_family.h"

namespace moe4 {
namespace {

using nlohmann::json;
using testing::EditableCheckpoint;
using testing::error_after;
using testing::expect_missed;
using testing::expect_refused;
using ::testing::HasSubstr;
using testing::logits_after;
using testing::plain;
using testing::with;
using testing::worst;

// ---- Qwen3-Next

const std::string kNext = "qwen3_next-modelopt-nvfp4";

TEST(Qwen3Next, LayersHaveTwoSpellings) {
  const json types = {"linear_attention", "full_attention", "linear_attention"};
  const json listed = {{"full_attention_interval", nullptr}, {"layer_types", types}};
  EXPECT_EQ(logits_after(kNext, with(listed)), plain(kNext));
}

// Rows of in_proj_qkvz with two value heads a key head of width 16: [q k v v z z] twice.
TEST(Qwen3Next, ProjectionsAreGroupedByKeyHead) {
  const auto swap_groups = [](EditableCheckpoint& c) {
    const auto swap = [&](const std::string& name, size_t rows) {
      std::vector<std::byte>& bytes = c.tensors.at("model.layers.0.linear_attn." + name).bytes;
      const auto middle = bytes.begin() + static_cast<std::ptrdiff_t>(bytes.size() / 2);
      EXPECT_EQ(c.tensors.at("model.layers.0.linear_attn." + name).shape[0],
                static_cast<int64_t>(rows));
      std::rotate(bytes.begin(), middle, bytes.end());
    };
    swap("in_proj_qkvz.weight", 192);
    swap("in_proj_ba.weight", 8);
    swap("A_log", 4);
    swap("dt_bias", 4);
    // Channels of the convolution: q, k and v apart, each by head.
    for (const auto& [first, count] : {std::pair(0, 32), std::pair(32, 32), std::pair(64, 64)}) {
      std::vector<std::byte>& bytes =
          c.tensors.at("model.layers.0.linear_attn.conv1d.weight").bytes;
      const auto row = static_cast<std::ptrdiff_t>(bytes.size() / 128);
      std::rotate(bytes.begin() + first * row, bytes.begin() + (first + count / 2) * row,
                  bytes.begin() + (first + count) * row);
    }
    // Columns of the output projection, by value head.
    auto& out = c.tensors.at("model.layers.0.linear_attn.out_proj.weight");
    const auto row = static_cast<std::ptrdiff_t>(out.bytes.size()) / out.shape[0];
    for (auto at = out.bytes.begin(); at != out.bytes.end(); at += row) {
      std::rotate(at, at + row / 2, at + row);
    }
  };
  // The same delta net with its key heads in another order.
  EXPECT_LT(worst(logits_after(kNext, swap_groups), plain(kNext)), 1e-5);
}

TEST(Qwen3Next, WhatIsNotComputedIsRefusedByName) {
  expect_refused(
      kNext, {{{{"attention_bias", true}}, "attention_bias"},
              {{{"attn_output_gate", false}}, "attn_output_gate"},
              {{{"layer_types", {"linear_attention", "full_attention", "mamba"}}}, "layer_types"},
              {{{"mlp_only_layers", json::array()}}, "model.layers.2.mlp"},
              {{{"decoder_sparse_step", 2}}, "model.layers.0.mlp"},
              {{{"linear_num_key_heads", 3}}, "linear_num"},
              {{{"linear_value_head_dim", 1 << 20}}, "in_proj_qkvz"},
              {{{"linear_key_head_dim", 1 << 21}}, "linear_key_head_dim"}});
  expect_missed(kNext, {"model.layers.0.linear_attn.in_proj_ba.weight",
                        "model.layers.1.mlp.shared_expert_gate.weight"});
}

// ---- Qwen3-VL

const std::string kVl = "qwen3_vl_moe-modelopt-nvfp4";

TEST(Qwen3VlMoe, TextAloneIsQwen3Moe) {
  const std::vector<float> expected = plain(kVl);
  const auto unwrapped = [](EditableCheckpoint& c) {
    c.rename([](const std::string& name) {
      return testing::replaced(name, "model.language_model.", "model.");
    });
    json text = c.config["text_config"];
    text["model_type"] = "qwen3_moe";
    c.config = std::move(text);
  };
  EXPECT_EQ(logits_after(kVl, unwrapped), expected);
  // Weights are divided by their sum whether the file says so or not.
  EXPECT_EQ(logits_after(kVl, with({{"text_config", {{"norm_topk_prob", nullptr}}}})), expected);
  EXPECT_THAT(error_after(kVl, with({{"text_config", {{"norm_topk_prob", false}}}})),
              HasSubstr("norm_topk_prob"));
}

}  // namespace
}  // namespace moe4
