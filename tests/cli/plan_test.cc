// moe4 plan and moe4 inspect on the embedded checkpoint and on each dialect, for every device.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <string>

#include "support/editable_checkpoint.h"
#include "support/run_program.h"
#include "support/temp_dir.h"

namespace moe4 {
namespace {

using nlohmann::json;
using ::testing::AllOf;
using ::testing::HasSubstr;
using testing::ProgramResult;
using testing::run_program;

const std::string kModel = std::string(MOE4_EMBEDDED_MODELS) + "/tiny-qwen3_5-moe-nvfp4";

json plan(const std::string& model, const std::vector<std::string>& flags) {
  std::vector<std::string> arguments = {"plan", model, "--json"};
  arguments.insert(arguments.end(), flags.begin(), flags.end());
  const ProgramResult result = run_program(arguments);
  EXPECT_EQ(result.status, 0) << result.err;
  return json::parse(result.out);
}

TEST(Plan, EveryDeviceGetsItsBackend) {
  const std::map<std::string, std::string> expected = {
      {"cpu", "cpu"},      {"sm_80", "marlin"},  {"sm_86", "marlin"}, {"sm_89", "marlin"},
      {"sm_90", "hopper"}, {"sm_100", "marlin"}, {"sm_120", "b12x"},  {"sm_121", "b12x"},
  };
  for (const auto& [device, backend] : expected) {
    const json report = plan(kModel, {"--device", device});
    EXPECT_EQ(report["device"], device);
    for (const json& group : report["groups"]) {
      EXPECT_EQ(group["backend"], backend) << device;
      EXPECT_EQ(group["runs_on"], device);
      EXPECT_FALSE(group["reason"].get<std::string>().empty());
      for (const json& candidate : group["candidates"]) {
        if (candidate["status"] == "rejected") {
          EXPECT_FALSE(candidate["reason"].get<std::string>().empty());
          EXPECT_FALSE(candidate["kind"].get<std::string>().empty());
        }
      }
    }
  }
}

TEST(Plan, SaysWhatATokensBitsDependOnAndWhatThatCosts) {
  // Steps of a model say which tokens were generated, so hopper's phases hold.
  for (const bool asked : {false, true}) {
    std::vector<std::string> flags = {"--device", "sm_90"};
    if (asked) flags.emplace_back("--batch-invariant");
    const json report = plan(kModel, flags);
    EXPECT_EQ(report["batch_invariant"], asked);
    const json hopper = report["groups"][0];
    EXPECT_EQ(hopper["backend"], "hopper");
    EXPECT_EQ(hopper["batch_invariant"], "by phase");
    EXPECT_THAT(hopper["batch_dependence"].get<std::string>(), HasSubstr("runs of columns"));
    EXPECT_THAT(hopper["batch_invariant_cost"].get<std::string>(), HasSubstr("1.6 %"));
  }
  const ProgramResult text = run_program({"plan", kModel, "--device", "sm_90"});
  EXPECT_THAT(text.out, HasSubstr("batch invariant: by phase"));
  EXPECT_THAT(text.out, HasSubstr("a token's bits depend on whether it is generated"));
  EXPECT_THAT(text.out, HasSubstr("that costs at most 1.6 %"));
  EXPECT_THAT(run_program({"plan", kModel}).out, HasSubstr("batch invariant: yes"));
}

TEST(Plan, SaysWhatMemoryIsTaken) {
  const json memory = plan(kModel, {"--device", "sm_90", "--gpu-memory", "4GB"})["memory"];
  const int64_t total = memory["total"], room = memory["room"];
  EXPECT_LE(total, room);
  EXPECT_EQ(room, 3'600'000'000 - 600'000'000);
  int64_t sum = 0;
  for (const char* part :
       {"weights", "pages", "states", "snapshots", "workspace", "buffers", "graphs"}) {
    sum += memory[part].get<int64_t>();
  }
  EXPECT_EQ(sum, total);
  EXPECT_GT(memory["weights"], 0);
  // Experts and all other ops have them.
  int64_t weights = 0;
  for (const json& bytes : memory["expert_bytes"]) weights += bytes.get<int64_t>();
  const json ops = plan(kModel, {"--device", "sm_90"})["ops"];
  for (const json& group : ops) {
    const size_t layers = group.contains("layers") ? group["layers"].size() : 1;
    for (const json& op : group["ops"]) {
      weights += static_cast<int64_t>(layers) * op["weight_bytes"].get<int64_t>();
    }
  }
  EXPECT_EQ(weights, memory["weights"]);
  EXPECT_GT(memory["bytes_per_state"], 0);
  EXPECT_EQ(memory["host_weights"], 0);
  // Half the bits a value.
  const json fp8 = plan(kModel, {"--device", "sm_90", "--kv-cache-dtype", "fp8"})["memory"];
  EXPECT_EQ(2 * fp8["bytes_per_page"].get<int64_t>(), memory["bytes_per_page"]);
  EXPECT_TRUE(fp8["room"].is_null());
  const ProgramResult text = run_program({"plan", kModel, "--device", "sm_90"});
  EXPECT_THAT(text.out, AllOf(HasSubstr("memory: "), HasSubstr(" of weights, "),
                              HasSubstr("caches: "), HasSubstr("give --gpu-memory")));
}

TEST(Plan, LeavesExpertsToTheCpuWhereTheGpuIsTooSmall) {
  std::vector<std::string> small = {"--device", "sm_90", "--gpu-memory", "1264MB"};
  for (const char* flag : {"--max-model-len", "256", "--max-num-seqs", "1",
                           "--max-num-batched-tokens", "512", "--gpu-memory-utilization", "0.5"}) {
    small.emplace_back(flag);
  }
  const auto with = [&](const std::string& layers) {
    std::vector<std::string> flags = {"plan", kModel, "--cpu-moe", layers};
    flags.insert(flags.end(), small.begin(), small.end());
    return run_program(flags);
  };
  const ProgramResult none = with("0");
  ASSERT_EQ(none.status, 4) << none.out;
  EXPECT_THAT(none.err, AllOf(HasSubstr("would fit"), HasSubstr("--cpu-moe ")));
  const ProgramResult chosen = with("auto");
  EXPECT_EQ(chosen.status, 0) << chosen.err;
  EXPECT_THAT(chosen.out, AllOf(HasSubstr("-> cpu on cpu"), HasSubstr("in the host's memory")));
  const json all = plan(kModel, {"--device", "sm_90", "--cpu-moe", "all"});
  ASSERT_EQ(all["groups"].size(), 1u);
  EXPECT_EQ(all["groups"][0]["runs_on"], "cpu");
  EXPECT_EQ(all["memory"]["cpu_moe"], 4);
}

TEST(Plan, FlagsAboutMemoryAreChecked) {
  const std::map<std::vector<std::string>, std::string> wrong = {
      {{"--gpu-memory", "much"}, "24GB"},
      {{"--gpu-memory", "24XB"}, "24GB"},
      {{"--cpu-moe", "some"}, "a number of layers, all or auto"},
      {{"--cpu-moe", "-1"}, "a number of layers, all or auto"},
      {{"--kv-cache-dtype", "bf16"}, "F16 has its size"},
      {{"--kv-cache-dtype", "int4"}, "auto, f16 or fp8"},
      {{"--gpu-memory-utilization", "1.5"}, "1.5"},
      {{"--max-model-len", "1000000000"}, "beyond the"},
  };
  for (const auto& [flags, words] : wrong) {
    std::vector<std::string> arguments = {"plan", kModel, "--device", "sm_90"};
    arguments.insert(arguments.end(), flags.begin(), flags.end());
    const ProgramResult result = run_program(arguments);
    EXPECT_EQ(result.status, 2) << flags[0] << " " << flags[1] << result.err;
    EXPECT_THAT(result.err, HasSubstr(words));
  }
  // The CPU's ops say why not.
  const json cpu = plan(kModel, {"--kv-cache-dtype", "fp8"});
  EXPECT_THAT(cpu["refusals"].dump(), HasSubstr("F8_E4M3"));
}

TEST(Plan, EqualConsecutiveLayersAreOneGroup) {
  const json report = plan(kModel, {});
  ASSERT_EQ(report["groups"].size(), 1u);
  EXPECT_EQ(report["groups"][0]["layers"], json({0, 1, 2, 3}));
  EXPECT_EQ(report["groups"][0]["scheme"], "W4A4 (nvfp4 static, nvfp4 dynamic)");
}

TEST(Plan, ActivationsFollowSchemeDeviceAndFlag) {
  const auto activations = [](const std::vector<std::string>& flags) {
    return plan(kModel, flags)["groups"][0]["activations"].get<std::string>();
  };
  EXPECT_EQ(activations({"--device", "cpu"}), "bf16");
  EXPECT_EQ(activations({"--device", "sm_121"}), "fp4 (in-kernel)");
  EXPECT_EQ(activations({"--device", "sm_121", "--activations", "bf16"}), "bf16");
  EXPECT_EQ(activations({"--device", "cpu", "--activations", "fp4-static"}), "fp4-static");
}

TEST(Plan, AForcedImpossibleBackendPrintsThePlanAndExits4) {
  const ProgramResult result =
      run_program({"plan", kModel, "--device", "sm_121", "--moe-backend", "hopper", "--json"});
  EXPECT_EQ(result.status, 4);
  EXPECT_THAT(result.err, HasSubstr("b12x, marlin"));
  const json report = json::parse(result.out);
  EXPECT_TRUE(report["groups"][0]["backend"].is_null());
}

TEST(Plan, EveryDialectPlansForEveryDevice) {
  const std::filesystem::path folder = std::string(MOE4_TEST_DATA) + "/checkpoints";
  int checkpoints = 0;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    if (!std::filesystem::exists(entry.path() / "config.json")) continue;
    ++checkpoints;
    for (const char* device : {"cpu", "sm_80", "sm_90", "sm_100", "sm_121"}) {
      const json report = plan(entry.path().string(), {"--device", device});
      for (const json& group : report["groups"]) {
        EXPECT_TRUE(group["backend"].is_string()) << entry.path() << " " << device;
        const json& key = group["weight_key"];
        // FP8 and BF16 experts are never given to a backend for four bits.
        if (key != "nvfp4 static" && key != "mxfp4 static") {
          EXPECT_EQ(group["runs_on"], "cpu") << entry.path();
        }
      }
    }
  }
  EXPECT_GT(checkpoints, 5);
}

// A folder with config.json alone, or with hf_quant_config.json.
class MetadataFolder {
 public:
  explicit MetadataFolder(const json& config, const json& hf_quant = nullptr) {
    write("config.json", config);
    if (!hf_quant.is_null()) write("hf_quant_config.json", hf_quant);
  }
  std::string path() const { return folder_.path().string(); }

 private:
  void write(const char* name, const json& value) const {
    std::ofstream(folder_.path() / name) << value.dump();
  }
  testing::TempDir folder_;
};

const json kSizes = {{"hidden_size", 64},        {"num_hidden_layers", 3},
                     {"num_attention_heads", 4}, {"num_key_value_heads", 2},
                     {"head_dim", 16},           {"vocab_size", 260},
                     {"intermediate_size", 128}, {"num_experts", 4},
                     {"num_experts_per_tok", 2}, {"moe_intermediate_size", 32}};
const json kNvfp4 = {{"quantization", {{"quant_algo", "NVFP4"}}}};

json config_of(const std::string& type, const json& more = json::object()) {
  json config = kSizes;
  config["model_type"] = type;
  config["architectures"] = {type + "_arch"};
  config.update(more);
  return config;
}

TEST(Plan, ADenseModelSaysThatItHasNoExperts) {
  json config = config_of("qwen3");
  config.erase("num_experts");
  const MetadataFolder folder(config);
  const ProgramResult text = run_program({"plan", folder.path()});
  EXPECT_EQ(text.status, 0) << text.err;
  EXPECT_THAT(text.out, HasSubstr("no layer has routed experts"));
  const json report = plan(folder.path(), {});
  EXPECT_TRUE(report["groups"].empty());
  EXPECT_THAT(report["note"], HasSubstr("no layer has routed experts"));
}

TEST(Plan, ExpertsThatCannotBeDecodedAreDescribedAndExit3) {
  json config = config_of("gpt_oss");
  config["quantization_config"] = {{"quant_method", "modelopt"}, {"quant_algo", "MXFP8"}};
  const MetadataFolder folder(config);
  const ProgramResult result = run_program({"plan", folder.path(), "--json"});
  EXPECT_EQ(result.status, 3);
  EXPECT_THAT(result.err, HasSubstr("found MXFP8"));
  const json group = json::parse(result.out)["groups"][0];
  EXPECT_EQ(group["layers"], json({0, 1, 2}));
  EXPECT_EQ(group["scheme"], "MXFP8");
  EXPECT_TRUE(group["backend"].is_null() && group["weight_key"].is_null());
  EXPECT_EQ(group["num_experts"], 4);
  EXPECT_THAT(group["error"], HasSubstr("MXFP8"));
  const ProgramResult inspected = run_program({"inspect", folder.path()});
  EXPECT_EQ(inspected.status, 0) << inspected.err;
  EXPECT_THAT(inspected.out, HasSubstr("4 experts of width 32, top 2, MXFP8 (cannot be decoded)"));
}

TEST(Plan, Mxfp4ExpertsHaveABackendOnEveryDevice) {
  json config = config_of("gpt_oss");
  config["quantization_config"] = {{"quant_method", "mxfp4"}};
  const MetadataFolder folder(config);
  for (const auto& [device, backend] : std::vector<std::pair<std::string, std::string>>{
           {"cpu", "cpu"}, {"sm_80", "marlin"}, {"sm_90", "hopper"}, {"sm_121", "marlin"}}) {
    const json group = plan(folder.path(), {"--device", device})["groups"][0];
    EXPECT_EQ(group["scheme"], "W4A16 (mxfp4 static, none)");
    EXPECT_EQ(group["weight_key"], "mxfp4 static");
    EXPECT_EQ(group["backend"], backend) << device;
  }
  const ProgramResult forced =
      run_program({"plan", folder.path(), "--device", "sm_121", "--moe-backend", "b12x"});
  EXPECT_EQ(forced.status, 4);
  EXPECT_THAT(forced.err, HasSubstr("NVFP4 weights only, not W4A16 (mxfp4 static, none)"));
  const ProgramResult fp4 =
      run_program({"plan", folder.path(), "--device", "cpu", "--activations", "fp4"});
  EXPECT_EQ(fp4.status, 4);
  EXPECT_THAT(fp4.err, HasSubstr("FP4 for NVFP4 weights only"));
}

TEST(Plan, NamesThePartsOfAnArchitectureThatCannotRun) {
  json config = config_of("lfm2_moe", {{"layer_types", {"conv", "conv", "full_attention"}},
                                       {"moe_latent_size", 48},
                                       {"mlp_hidden_act", "relu2"}});
  const MetadataFolder folder(config, kNvfp4);
  const ProgramResult text = run_program({"plan", folder.path()});
  EXPECT_EQ(text.status, 0) << text.err;
  EXPECT_THAT(text.out, HasSubstr("run: not possible: architecture lfm2_moe is not known: it "
                                  "needs short convolutions"));
  const json report = plan(folder.path(), {});
  EXPECT_FALSE(report["run"]["possible"]);
  EXPECT_EQ(report["groups"][0]["hidden_size"], 48);
  EXPECT_TRUE(plan(kModel, {})["run"]["possible"]);
}

TEST(Plan, LayersThatClampAfterTheActivationGoToWhoDoesThat) {
  const MetadataFolder folder(
      config_of("step3p7", {{"swiglu_limits", {0.0, 7.0, nullptr}}, {"moe_layers_enum", "0,1,2"}}),
      kNvfp4);
  const json report = plan(folder.path(), {"--device", "cpu"});
  ASSERT_EQ(report["groups"].size(), 3u);
  EXPECT_EQ(report["groups"][0]["backend"], "cpu");
  EXPECT_EQ(report["groups"][0]["activation"], "silu");
  EXPECT_EQ(report["groups"][1]["backend"], "cpu");
  EXPECT_EQ(report["groups"][1]["activation"], "silu(late limit=7)");
  EXPECT_EQ(report["groups"][2]["backend"], "cpu");
  const json hopper = plan(folder.path(), {"--device", "sm_90"});
  ASSERT_EQ(hopper["groups"].size(), 3u);
  EXPECT_EQ(hopper["groups"][0]["backend"], "hopper");
  EXPECT_EQ(hopper["groups"][1]["backend"], "marlin");
  const ProgramResult refused =
      run_program({"plan", folder.path(), "--device", "sm_90", "--moe-backend", "hopper"});
  EXPECT_EQ(refused.status, 4);
  EXPECT_THAT(refused.err, HasSubstr("silu(late limit=7)"));
  const json b12x = plan(folder.path(), {"--device", "sm_121"});
  ASSERT_EQ(b12x["groups"].size(), 3u);
  for (const json& group : b12x["groups"]) EXPECT_EQ(group["backend"], "b12x");
}

TEST(Plan, ALimitThatNoKernelAppliesIsRefused) {
  const MetadataFolder folder(
      config_of("some_moe", {{"hidden_act", "gelu_pytorch_tanh"}, {"swiglu_limit", 3.0}}), kNvfp4);
  const ProgramResult result = run_program({"plan", folder.path()});
  EXPECT_EQ(result.status, 4);
  EXPECT_THAT(result.err, HasSubstr("without the limit of 3"));
}

TEST(Plan, SaysWhichImplementationServesEveryOp) {
  const json ops = plan(kModel, {})["ops"];
  ASSERT_EQ(ops.size(), 3u);
  EXPECT_EQ(ops[0]["layers"], (json{0, 1, 2}));
  EXPECT_EQ(ops[0]["ops"][1]["op"], "delta_net");
  EXPECT_EQ(ops[1]["layers"], json{3});
  EXPECT_EQ(ops[1]["ops"][0]["role"], "qkv_proj");
  EXPECT_FALSE(ops[2].contains("layers"));
  const json embedding = ops[2]["ops"].back();
  EXPECT_EQ(embedding["implementation"], "cpu-tied");
  EXPECT_EQ(embedding["candidates"][0]["kind"], "scheme");
  EXPECT_EQ(embedding["candidates"][1]["status"], "selected");
  EXPECT_THAT(run_program({"plan", kModel}).out,
              AllOf(HasSubstr("ops of layers 0-2: cpu: in_proj, delta_net, out_proj"),
                    HasSubstr("ops of layer 3: cpu: qkv_proj, qkv_to_cache, attention, o_proj"),
                    HasSubstr("cpu-tied: embedding (not cpu since the table is tied to lm_head)")));
}

TEST(Plan, LayersWithEqualOpsAreOneLine) {
  const json types = {"linear_attention", "full_attention", "linear_attention"};
  const MetadataFolder folder(config_of("qwen3_5_moe_text", {{"layer_types", types}}), kNvfp4);
  EXPECT_THAT(run_program({"plan", folder.path()}).out,
              AllOf(HasSubstr("ops of layers 0, 2: cpu: delta_net, "),
                    HasSubstr("ops of layer 1: cpu: qkv_to_cache, attention, ")));
}

TEST(Plan, AnOpThatNobodyCanDoIsARefusalAndThePlanGoesOn) {
  const MetadataFolder folder(config_of("qwen3_moe", {{"head_dim", 24}}), kNvfp4);
  const json report = plan(folder.path(), {});
  EXPECT_EQ(report["groups"][0]["backend"], "cpu");
  EXPECT_EQ(report["refusals"][0]["code"], "unsupported-problem");
  EXPECT_THAT(report["refusals"][0]["message"],
              AllOf(HasSubstr("layer 0, qkv_to_cache"), HasSubstr("24 is not a multiple of 16")));
  EXPECT_THAT(run_program({"plan", folder.path()}).out,
              HasSubstr("nobody: qkv_to_cache (not cpu since head_dim 24"));
}

TEST(Plan, AnUnknownKindOfLayerIsRefusedAndThePlanGoesOn) {
  const json types = {"full_attention", "wavelet", "full_attention"};
  const MetadataFolder known(config_of("qwen3_moe", {{"layer_types", types}}), kNvfp4);
  const json report = plan(known.path(), {});
  EXPECT_EQ(report["groups"][0]["backend"], "cpu");
  EXPECT_EQ(report["refusals"].size(), 1u);
  EXPECT_THAT(report["refusals"][0]["message"],
              AllOf(HasSubstr("layer_types"), HasSubstr("\"wavelet\" in layer 1")));
  const MetadataFolder unknown(config_of("some_moe", {{"layer_types", types}}), kNvfp4);
  EXPECT_THAT(plan(unknown.path(), {})["run"]["missing"][0], "layers of an unknown kind");
  EXPECT_EQ(run_program({"inspect", unknown.path()}).status, 0);
}

TEST(Plan, PrintsWhatOpeningNoticed) {
  const MetadataFolder folder(config_of("qwen3_moe"), kNvfp4);
  EXPECT_THAT(plan(folder.path(), {})["notes"][0]["message"], HasSubstr("no weights here"));
  EXPECT_THAT(run_program({"plan", folder.path()}).out, HasSubstr("\nnote: " + folder.path()));
}

TEST(Inspect, LayersHaveTheirOwnMixersAndMayHaveNoFeedForward) {
  const MetadataFolder folder(config_of("nemotron_h", {{"hybrid_override_pattern", "M-*"}}));
  const ProgramResult result = run_program({"inspect", folder.path(), "--json"});
  ASSERT_EQ(result.status, 0) << result.err;
  const json groups = json::parse(result.out)["layer_groups"];
  ASSERT_EQ(groups.size(), 3u);
  EXPECT_EQ(groups[0]["attention"], "Mamba-2");
  EXPECT_EQ(groups[0]["feed_forward"], "none");
  EXPECT_EQ(groups[1]["attention"], "none");
  EXPECT_EQ(groups[1]["feed_forward"], "dense, width 128");
  EXPECT_EQ(groups[2]["attention"], "full attention");
}

TEST(Inspect, TensorsBelongToTheirPartOfTheModel) {
  testing::EditableCheckpoint checkpoint("qwen3-modelopt-nvfp4");
  // Names of which no part is known, inside a layer and outside the text model.
  checkpoint.add("model.layers.0.layer_scalar", {1}, {1.0f});
  checkpoint.add("speech.adapter.weight", {2}, {1.0f, 1.0f});
  checkpoint.add("visual.patch_embed.weight", {4}, std::vector<float>(4));
  checkpoint.add("model.layers.9.mlp.up_proj.weight", {8}, std::vector<float>(8));
  const testing::TempDir folder;
  checkpoint.write(folder.path());
  const ProgramResult result = run_program({"inspect", folder.path().string(), "--json"});
  ASSERT_EQ(result.status, 0) << result.err;
  const json report = json::parse(result.out);
  std::map<std::string, int64_t> parameters;
  for (const json& component : report["components"]) {
    parameters[component["name"]] = component["parameters"].get<int64_t>();
  }
  EXPECT_EQ(parameters["other"], 1 + 2);
  EXPECT_EQ(parameters["vision"], 4);
  EXPECT_EQ(parameters["draft layers (mtp)"], 8);
  for (const char* name : {"routed experts", "routers", "norms", "attention", "embedding"})
    EXPECT_GT(parameters[name], 0) << name;
}

TEST(Inspect, SaysWhatATokenReads) {
  const ProgramResult result = run_program({"inspect", kModel, "--json"});
  ASSERT_EQ(result.status, 0) << result.err;
  const json report = json::parse(result.out);
  EXPECT_EQ(report["parameters"], 8820240);  // as the checkpoint's makers counted
  // 12 of 16 experts a layer do nothing for a token.
  EXPECT_EQ(report["active_parameters"], 8820240 - 4 * 12 * 3 * 256 * 128);
  EXPECT_EQ(report["num_layers"], 4);
  int64_t bytes = 0, bytes_per_token = 0;
  for (const json& component : report["components"]) {
    bytes += component["bytes"].get<int64_t>();
    bytes_per_token += component["bytes_per_token"].get<int64_t>();
    if (component["name"] != "routed experts") continue;
    // 4 of 16 experts a layer: 3 matrices of 256 x 128, half a byte and a sixteenth of a scale an
    // element, and their float32 scales.
    EXPECT_EQ(component["bytes"].get<int64_t>(),
              4 * 16 * (3 * (256 * 128 / 2 + 256 * 128 / 16 + 8)));
    EXPECT_EQ(component["bytes_per_token"].get<int64_t>() * 4, component["bytes"].get<int64_t>());
  }
  EXPECT_EQ(bytes, report["bytes"]);
  EXPECT_EQ(bytes_per_token, report["bytes_per_token"]);
}

TEST(Inspect, WhatIsNotComputedIsAnErrorAmongTheFindings) {
  const testing::TempDir folder;
  testing::EditableCheckpoint checkpoint("qwen3-modelopt-nvfp4");
  checkpoint.config["use_sliding_window"] = true;
  checkpoint.config["sliding_window"] = 4;
  checkpoint.write(folder.path());
  EXPECT_THAT(run_program({"inspect", folder.path(), "--lint"}).out,
              HasSubstr("\nerror [unsupported-setting] sliding_window: unsupported"));
  for (const bool with_lint : {false, true}) {
    std::vector<std::string> arguments = {"inspect", folder.path(), "--json"};
    if (with_lint) arguments.emplace_back("--lint");
    const ProgramResult result = run_program(arguments);
    ASSERT_EQ(result.status, 0) << result.err;
    const json finding = json::parse(result.out)["findings"].at(0);
    EXPECT_EQ(finding["level"], "error");
    EXPECT_EQ(finding["code"], "unsupported-setting");
    EXPECT_EQ(finding["tensor"], "sliding_window");
    EXPECT_THAT(finding["message"].get<std::string>(), HasSubstr("found 4"));
  }
}

TEST(Inspect, LintReportsAsJsonToo) {
  const auto inspect = [](const std::string& model, const std::vector<std::string>& flags) {
    std::vector<std::string> arguments = {"inspect", model, "--json"};
    arguments.insert(arguments.end(), flags.begin(), flags.end());
    const ProgramResult result = run_program(arguments);
    EXPECT_EQ(result.status, 0) << result.err;
    return json::parse(result.out);
  };
  const json linted = inspect(kModel, {"--lint"});
  EXPECT_EQ(linted["linted"], true);
  ASSERT_EQ(linted["findings"].size(), 4u);
  for (const json& finding : linted["findings"]) {
    EXPECT_EQ(finding["code"], "folded-scales");
    EXPECT_EQ(finding["level"], "info");
    EXPECT_THAT(finding["tensor"].get<std::string>(), HasSubstr("layers."));
    EXPECT_NE(finding["message"], "");
  }
  // Nothing found is an empty list, whether it was looked for or not.
  const std::string clean = MOE4_TEST_DATA "/checkpoints/qwen3-modelopt-nvfp4";
  EXPECT_EQ(inspect(clean, {"--lint"})["findings"], json::array());
  EXPECT_EQ(inspect(kModel, {})["findings"], json::array());
  EXPECT_EQ(inspect(kModel, {})["linted"], false);
}

}  // namespace
}  // namespace moe4
