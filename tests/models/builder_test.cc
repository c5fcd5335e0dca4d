// Architecture files against checkpoints that transformers wrote: the same tensors, the same
// layers; and layers of one part alone.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <set>
#include <string>

#include "checkpoint/ignored_tensors.h"
#include "models/architecture.h"
#include "models/common_settings.h"
#include "models/decoder.h"
#include "models/describer.h"
#include "models/loader.h"
#include "ops/experts/registry.h"
#include "support/editable_checkpoint.h"
#include "support/sequence.h"
#include "support/temp_dir.h"

namespace moe4 {
namespace {

namespace fs = std::filesystem;
using testing::EditableCheckpoint;
using ::testing::ElementsAre;
using testing::LogitsFor;
using testing::Sequence;
using testing::TempDir;
using ::testing::UnorderedElementsAreArray;

void build(const Checkpoint& checkpoint, Builder& builder) {
  const ConfigReader config(checkpoint);
  find_architecture(checkpoint.config().model_type)->build(config, builder);
}

// Calls fn with every checkpoint below tests/data whose architecture runs.
template <typename Fn>
void for_each_fixture(const Fn& fn) {
  for (const auto& entry : fs::recursive_directory_iterator(MOE4_TEST_DATA)) {
    if (entry.path().filename() != "config.json") continue;
    const auto checkpoint = Checkpoint::open(entry.path().parent_path(), {.headers_only = true});
    if (checkpoint->is_partial()) continue;
    if (find_architecture(checkpoint->config().model_type) == nullptr) continue;
    SCOPED_TRACE(entry.path().string());
    fn(*checkpoint);
  }
}

TEST(Builder, AsksForTheTensorsThatTheExporterWrote) {
  std::set<const Architecture*> seen;
  for_each_fixture([&](const Checkpoint& checkpoint) {
    seen.insert(find_architecture(checkpoint.config().model_type));
    std::vector<std::string> expected;
    for (const std::string& name : checkpoint.tensor_names()) {
      if (ignored_because(name, checkpoint.config().num_layers) == nullptr) {
        expected.push_back(name);
      }
    }
    for (const Device& device : {Device::cpu(), Device::cuda_sm(90)}) {
      Describer describer(checkpoint, device);
      build(checkpoint, describer);
      EXPECT_THAT(describer.tensors(), UnorderedElementsAreArray(expected));
      EXPECT_TRUE(describer.description().refusals.empty());
    }
  });
  for (const std::string& type : known_architectures()) {
    EXPECT_TRUE(seen.contains(find_architecture(type))) << "no checkpoint of " << type;
  }
}

const OpChoice* choice_of(const std::vector<OpChoice>& ops, std::string_view role) {
  const auto at = std::find_if(ops.begin(), ops.end(),
                               [&](const OpChoice& choice) { return choice.role == role; });
  return at == ops.end() ? nullptr : &*at;
}

TEST(Builder, OnAGpuASharedExpertLikeTheRoutedOnesIsOneOfThem) {
  register_builtin_backends();
  // What is said after "since"; "": it is.
  const std::string kBf16 = "it is unquantised, they are ";
  const std::string kFp8 = "it is W8A8 (fp8 block-128 static, fp8 block-128 dynamic), they are ";
  const std::map<std::string, std::string> expected = {
      {"deepseek_v3-modelopt-nvfp4", ""},
      {"deepseek_v3-negative-bias", kBf16 + "W4A4 (nvfp4 static, nvfp4 dynamic)"},
      {"deepseek_v32-modelopt-nvfp4", kBf16 + "W4A4 (nvfp4 static, nvfp4 dynamic)"},
      {"deepseek_v4-modelopt-fp8", kFp8 + "W4A4 (nvfp4 static, nvfp4 dynamic)"},
      {"deepseek_v4-mxfp4", kFp8 + "W4A16 (mxfp4 static, none)"},
      {"ernie4_5_moe-modelopt-w4a16", kBf16 + "W4A16 (nvfp4 static, none)"},
      {"glm4_moe-modelopt-nvfp4", kBf16 + "W4A4 (nvfp4 static, nvfp4 dynamic)"},
      {"glm4_moe_lite-modelopt-nvfp4", kBf16 + "W4A4 (nvfp4 static, nvfp4 dynamic)"},
      {"glm_moe_dsa-modelopt-nvfp4", kBf16 + "W4A4 (nvfp4 static, nvfp4 dynamic)"},
      {"hy_v3-ct-nvfp4", kBf16 + "W4A4 (nvfp4 static, nvfp4 dynamic)"},
      {"kimi_k2-modelopt-nvfp4", kBf16 + "W4A4 (nvfp4 static, nvfp4 dynamic)"},
      {"laguna-modelopt-nvfp4", kBf16 + "W4A4 (nvfp4 static, nvfp4 dynamic)"},
      {"llama4-modelopt-nvfp4", kBf16 + "W4A4 (nvfp4 static, nvfp4 dynamic)"},
      {"minimax_m3-modelopt-mixed", kBf16 + "W4A4 (nvfp4 static, nvfp4 dynamic)"},
      {"mistral4-ct-nvfp4", kBf16 + "W4A4 (nvfp4 static, nvfp4 dynamic)"},
      {"nemotron_h-nano", "its intermediate size is 80, no multiple of their 48"},
      {"nemotron_h-super", "routed experts work on a latent of 32"},
      {"qwen3_5-ct-nvfp4a16", kBf16 + "W4A16 (nvfp4 static, none)"},
      {"qwen3_5-fused-experts", kBf16 + "W4A16 (nvfp4 static, none)"},
      {"qwen3_5-modelopt-mixed-prefix", ""},
      {"qwen3_next-modelopt-nvfp4", kBf16 + "W4A4 (nvfp4 static, nvfp4 dynamic)"},
      // of the last layer; that of the layer before has no limit, theirs has
      {"step3p7-modelopt-nvfp4",
       "its activation is silu(late limit=0.8), theirs silu(late limit=0.5)"},
  };
  std::map<std::string, std::string> found;
  for_each_fixture([&](const Checkpoint& checkpoint) {
    const std::string folder = checkpoint.path().filename().string();
    for (const std::vector<OpChoice>& ops : describe(checkpoint).layers) {
      EXPECT_EQ(choice_of(ops, "shared_expert"), nullptr)
          << "on the CPU all models stay as they are";
    }
    for (const std::vector<OpChoice>& ops : describe(checkpoint, Device::cuda_sm(90)).layers) {
      const OpChoice* choice = choice_of(ops, "shared_expert");
      if (choice == nullptr) continue;
      const Support& why = choice->verdicts.front().verdict;
      EXPECT_EQ(choice->implementation, why ? "linears" : "experts");
      EXPECT_EQ(choice_of(ops, "shared_down_proj") != nullptr, why.has_value());
      // Its tensors, where its own linears do not have them.
      EXPECT_EQ(choice->weight_bytes > 0, !why);
      for (const OpChoice& op : ops) {
        if (op.op != "add_norm") continue;
        EXPECT_LE(op.weight_bytes, checkpoint.config().hidden_size * 4) << folder << " " << op.role;
      }
      found[folder] = why ? why->message : "";
    }
  });
  EXPECT_EQ(found, expected);
}

TEST(Builder, OnAGpuARouterAloneBehindANormIsOneOpWithIt) {
  register_builtin_backends();
  int fused = 0, apart = 0;
  for_each_fixture([&](const Checkpoint& checkpoint) {
    for (const std::vector<OpChoice>& ops : describe(checkpoint).layers) {
      EXPECT_EQ(choice_of(ops, "norm_route"), nullptr) << "the CPU has no kernel for it";
    }
    for (const std::vector<OpChoice>& ops : describe(checkpoint, Device::cuda_sm(90)).layers) {
      const bool alone = choice_of(ops, "router") != nullptr &&
                         choice_of(ops, "router_norm") == nullptr &&
                         choice_of(ops, "mlp_norm") == nullptr;
      EXPECT_EQ(choice_of(ops, "norm_route") != nullptr, alone) << checkpoint.path();
      ++(alone ? fused : apart);
    }
  });
  EXPECT_GT(fused, 0);
  EXPECT_GT(apart, 0);
}

bool is_routed(const std::vector<OpChoice>& ops) {
  return std::any_of(ops.begin(), ops.end(), [](const auto& op) { return op.op == "route"; });
}

void expect_layers_of_the_plan(const Checkpoint& checkpoint) {
  const ModelConfig& config = checkpoint.config();
  const Description description = describe(checkpoint);
  ASSERT_EQ(static_cast<int64_t>(description.layers.size()), config.num_layers);
  for (size_t i = 0; i < description.layers.size(); ++i) {
    EXPECT_EQ(is_routed(description.layers[i]), config.is_moe_layer[i]) << "layer " << i;
  }
}

// moe4 plan reads ModelConfig, the model its architecture file.
TEST(Builder, RoutesWhereThePlanSaysSo) {
  for_each_fixture(expect_layers_of_the_plan);
  const std::pair<const char*, nlohmann::json> patterns[] = {
      {"decoder_sparse_step", 2}, {"mlp_only_layers", {0}}, {"mlp_only_layers", {0, 1}}};
  for (const auto& [key, value] : patterns) {
    SCOPED_TRACE(key);
    EditableCheckpoint editable("qwen3-modelopt-nvfp4");
    editable.config[key] = value;
    TempDir dir;
    editable.write(dir.path());
    expect_layers_of_the_plan(*Checkpoint::open(dir.path(), {.headers_only = true}));
  }
}

std::vector<std::string> roles_of(const std::vector<OpChoice>& ops) {
  std::vector<std::string> roles;
  roles.reserve(ops.size());
  for (const OpChoice& op : ops) roles.push_back(op.role + " by " + std::string(op.implementation));
  return roles;
}

TEST(Builder, DescribesWhoServesWhichOp) {
  const auto checkpoint =
      Checkpoint::open(fs::path(MOE4_TEST_DATA) / "checkpoints/qwen3_5-ct-nvfp4a16");
  const Description description = describe(*checkpoint);
  ASSERT_EQ(description.layers.size(), 2u);
  EXPECT_THAT(roles_of(description.layers[0]),
              ElementsAre("in_proj by cpu", "delta_net by cpu", "out_proj by cpu",
                          "router_shared_gate_up_proj by cpu", "shared_down_proj by cpu",
                          "shared_activation by cpu", "add_shared by cpu", "route by cpu",
                          "norm by cpu", "norm by cpu"));
  EXPECT_THAT(
      roles_of(description.outside),
      ElementsAre("rotary by cpu", "final_norm by cpu", "lm_head by cpu", "embedding by cpu-tied"));
  const OpChoice& embedding = description.outside.back();
  ASSERT_EQ(embedding.verdicts.size(), 2u);
  EXPECT_EQ(embedding.verdicts[0].implementation, "cpu");
  EXPECT_EQ(embedding.verdicts[0].verdict->message, "the table is tied to lm_head");
}

// Where shards are absent, what they hold is neither missed nor known.
TEST(Builder, DescribesWhatIsThereOfAPartialCheckpoint) {
  EditableCheckpoint editable("qwen3-modelopt-nvfp4");
  TempDir dir;
  editable.write_config(dir.path());
  const auto checkpoint = Checkpoint::open(dir.path(), {.headers_only = true});
  ASSERT_TRUE(checkpoint->is_partial());
  const Description description = describe(*checkpoint);
  EXPECT_THAT(description.refusals, ::testing::IsEmpty());
  EXPECT_THAT(roles_of(description.layers.at(0)),
              ElementsAre("qkv_to_cache by cpu", "attention by cpu", "route by cpu", "norm by cpu",
                          "norm by cpu"));
}

std::vector<float> logits_of(const Model& model) {
  const std::vector<int32_t> ids = {1, 2, 3, 300, 5};
  Sequence sequence(model, static_cast<int64_t>(ids.size()));
  std::vector<float> logits;
  sequence.forward(ids, LogitsFor::kAllTokens, logits);
  return logits;
}

// h += a(n(h)); h += b(n(h)) as one layer or as two.
TEST(Builder, LayersOfOnePartAddUpToWholeOnes) {
  register_builtin_backends();
  ThreadPool threads(2);
  const ModelOptions options{.threads = &threads};
  const auto checkpoint =
      Checkpoint::open(fs::path(MOE4_TEST_DATA) / "checkpoints/qwen3-modelopt-nvfp4");
  Loader loader(*checkpoint, options);
  const ConfigReader c(*checkpoint);
  const int64_t hidden = c.size({"hidden_size"});
  const NormSpec norm = read_norm(c);
  loader.embedding("embed_tokens", c.size({"vocab_size"}), hidden);
  AttentionSpec attention = read_heads(c, hidden);
  attention.norm = norm;
  const RotarySpec rotary = read_rotary(c, {.head_dim = attention.head_dim});
  attention.rotary = loader.rotary(rotary);
  attention.rotary_dim = rotary.dim;
  EXPECT_EQ(loader.rotary(rotary), attention.rotary) << "an equal one is made once";
  MoeSpec moe;
  moe.router.num_experts = c.size({"num_local_experts"});
  moe.router.top_k = c.size({"num_experts_per_tok"});
  moe.intermediate_size = c.size({"moe_intermediate_size"});
  for (int64_t i = 0; i < c.size({"num_hidden_layers"}); ++i) {
    const std::string at = "layers." + std::to_string(i) + ".";
    loader.layer(at + "input_layernorm", loader.attention(at + "self_attn", attention), norm);
    loader.layer(at + "post_attention_layernorm", loader.moe(at + "mlp", moe), norm);
  }
  loader.head("norm", norm, "lm_head", c.tie_word_embeddings());
  const Decoder single(loader.take(), Device::cpu(), threads);

  const auto whole = Model::load(*checkpoint, options);
  EXPECT_EQ(logits_of(single), logits_of(*whole));
  EXPECT_EQ(single.caches().size(), whole->caches().size());
  EXPECT_EQ(single.bytes_per_token(), whole->bytes_per_token());
  EXPECT_EQ(single.moe_block(0), nullptr);
  EXPECT_NE(single.moe_block(1), nullptr);
}

}  // namespace
}  // namespace moe4
