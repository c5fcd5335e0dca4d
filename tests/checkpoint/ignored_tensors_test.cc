// Which tensors may stay unread, and that names which merely look like them may not.
#include "checkpoint/ignored_tensors.h"

#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

namespace moe4 {
namespace {

constexpr int64_t kLayers = 4;

std::string reason(const std::string& tensor) {
  const char* because = ignored_because(tensor, kLayers);
  return because == nullptr ? "" : because;
}

TEST(IgnoredTensors, PartsBesideTheTextModelAreNamedByTheirKind) {
  const std::vector<std::pair<std::string, std::vector<std::string>>> parts = {
      {"vision",
       {"visual", "vision_tower", "vision_model", "vision_encoder", "vision_embed_tokens",
        "vision_projector", "embed_vision", "image_newline", "multi_modal_projector",
        "mm_projector", "patch_merger"}},
      {"audio", {"audio_tower", "audio_model", "audio_encoder", "embed_audio"}},
      {"speech", {"talker", "code2wav", "token2wav"}},
      {"multi-token prediction", {"mtp"}}};
  for (const auto& [kind, names] : parts) {
    for (const std::string& name : names) {
      EXPECT_EQ(reason(name), kind) << name;
      EXPECT_EQ(reason(name + ".layers.0.weight"), kind) << name;
      EXPECT_EQ(reason("model." + name + ".norm.weight"), kind) << name;
      EXPECT_EQ(reason("model.my_" + name + ".weight"), "") << name;
      EXPECT_EQ(reason("model." + name + "s.weight"), "") << name;
      EXPECT_EQ(reason("model.layers.0." + name + ".weight"), "") << name;
    }
  }
}

TEST(IgnoredTensors, LayersBehindTheLastPredictMoreTokens) {
  EXPECT_EQ(reason("model.layers.3.mlp.up_proj.weight"), "");
  EXPECT_EQ(reason("model.layers.4.mlp.up_proj.weight"), "multi-token prediction");
  EXPECT_EQ(reason("model.layers.40.eh_proj.weight"), "multi-token prediction");
  EXPECT_EQ(reason("layers.4"), "multi-token prediction");
  for (const char* name : {"model.layers.4x.weight", "model.layers..weight",
                           "model.layers.-4.weight", "model.layers", "model.blocks.4.weight"}) {
    EXPECT_EQ(reason(name), "") << name;
  }
}

TEST(IgnoredTensors, ScalesOfACacheAndStoredFrequenciesByTheirLastComponent) {
  const std::string attention = "model.layers.0.self_attn.";
  for (const char* name : {"k_scale", "v_scale", "kv_scale", "q_scale", "prob_scale",
                           "k_proj.k_scale", "k_proj.output_scale", "v_proj.output_scale"}) {
    EXPECT_EQ(reason(attention + name), "scales of a quantised KV cache") << name;
  }
  EXPECT_EQ(reason(attention + "rotary_emb.inv_freq"), "stored rotary frequencies");
  for (const char* name : {"sinks", "q_proj.output_scale", "o_proj.weight_scale", "k_scales",
                           "k_scale.weight", "inv_freq", "rotary_emb.freq"}) {
    EXPECT_EQ(reason(attention + name), "") << name;
  }
}

}  // namespace
}  // namespace moe4
