// Rules of precedence of the metadata dialects, and that looking names up is linear work.
#include "checkpoint/quant_config.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "base/error.h"
#include "checkpoint/module_names.h"
#include "checkpoint/name_matcher.h"

namespace moe4 {
namespace {

using ::testing::HasSubstr;

struct Parsed {
  QuantConfig config;
  std::vector<CheckpointNote> notes;

  // "W4A16 (...)", "excluded", or what is unsupported.
  std::string operator()(const std::string& module, const std::string& prefix = "model.") const {
    const auto found = config.lookup(module_spellings(module, prefix), is_routed_expert(module));
    if (!found) return "excluded";
    return found->unsupported.empty() ? to_string(found->scheme) : found->unsupported;
  }
};

Parsed parse(const std::string& config_text, const std::string& hf_text = "",
             const std::string& expert_dtype = "") {
  Parsed parsed;
  QuantDocument config{.file = "config.json", .expert_dtype = expert_dtype},
      hf{.file = "hf_quant_config.json"};
  // Wrapped so that the order of config_groups is seen as in a real file.
  Json config_json, hf_json;
  if (!config_text.empty()) {
    config_json = parse_json(config_text, config.file, &config.group_order);
    config.json = &config_json;
  }
  if (!hf_text.empty()) {
    hf_json = parse_json(hf_text, hf.file, &hf.group_order);
    hf.json = &hf_json;
  }
  parsed.config = QuantConfig::parse(config, hf, parsed.notes);
  return parsed;
}

const std::string kW4A4Text = to_string(kW4A4);
const std::string kW4A16Text = to_string(kW4A16);
const std::string kExpert = "model.layers.3.mlp.experts.17.up_proj";

TEST(QuantConfig, ExactNameBeatsPrefixBeatsExclusionBeatsGeneralRule) {
  const Parsed rules = parse("", R"({"quantization": {
      "quant_algo": "NVFP4", "exclude_modules": ["model.layers.3*", "lm_head"],
      "quantized_layers": {
        "model.layers.3.mlp.experts": {"quant_algo": "W4A16_NVFP4"},
        "model.layers.3.mlp.experts.5.up_proj": {"quant_algo": "FP8"}}}})");
  EXPECT_THAT(rules("model.layers.3.mlp.experts.5.up_proj"), HasSubstr("fp8 per-tensor"));
  EXPECT_EQ(rules(kExpert), kW4A16Text);
  EXPECT_EQ(rules("model.layers.3.self_attn.q_proj"), "excluded");
  EXPECT_EQ(rules("model.layers.2.self_attn.q_proj"), kW4A4Text);
  EXPECT_EQ(rules("lm_head"), "excluded");
  EXPECT_TRUE(rules.config.is_excluded_and_listed(module_spellings(kExpert, "model.")));
}

TEST(QuantConfig, StrategiesOfFp8GroupsSayHowWeightsAndInputsAreScaled) {
  const auto scheme = [](const std::string& weights, const std::string& inputs) {
    const Parsed rules = parse(fmt::format(
        R"({{"quant_method": "compressed-tensors", "config_groups": {{"group_0": {{"targets": ["Linear"],
            "weights": {{"num_bits": 8, "type": "float", {}}}, "input_activations": {}}}}}}})",
        weights, inputs));
    return rules(kExpert);
  };
  const auto inputs = [&](const std::string& more) {
    return scheme(R"("strategy": "tensor")", R"({"num_bits": 8, "type": "float", )" + more + "}");
  };
  EXPECT_EQ(inputs(R"("strategy": "tensor", "dynamic": false)"),
            "W8A8 (fp8 per-tensor static, fp8 per-tensor static)");
  EXPECT_EQ(inputs(R"("strategy": "tensor")"),
            "W8A8 (fp8 per-tensor static, fp8 per-tensor static)");
  for (const std::string word : {"true", "\"local\""}) {
    EXPECT_EQ(inputs(R"("strategy": "tensor", "dynamic": )" + word),
              "W8A8 (fp8 per-tensor static, fp8 per-tensor dynamic)");
  }
  EXPECT_EQ(inputs(R"("strategy": "token", "dynamic": true)"),
            "W8A8 (fp8 per-tensor static, fp8 per-token dynamic)");
  for (const std::string strategy : {"group", "block"}) {
    EXPECT_EQ(inputs(R"("dynamic": true, "strategy": ")" + strategy + "\""),
              "W8A8 (fp8 per-tensor static, fp8 block-128 dynamic)");
  }
  EXPECT_EQ(scheme(R"("strategy": "tensor")", "null"), "W8A16 (fp8 per-tensor static, none)");
  EXPECT_EQ(scheme(R"("strategy": "channel")", "null"), "W8A16 (fp8 per-channel static, none)");
  EXPECT_EQ(scheme(R"("strategy": "block")", "null"), "W8A16 (fp8 block-128 static, none)");
  EXPECT_THAT(scheme(R"("strategy": "group", "group_size": 32)", "null"), HasSubstr("MXFP8"));
}

TEST(QuantConfig, AlgorithmBeatsGroupsThatClaimQuantisedInputs) {
  const Parsed rules = parse(R"({"quant_method": "modelopt", "quant_algo": "W4A16_NVFP4",
      "config_groups": {"group_0": {"targets": ["Linear"],
        "weights": {"num_bits": 4, "type": "float", "group_size": 16},
        "input_activations": {"num_bits": 4, "type": "float", "group_size": 16}}}})");
  EXPECT_EQ(rules(kExpert), kW4A16Text);
}

TEST(QuantConfig, PrefixesOfMultimodalWrappersAreInterchangeable) {
  const Parsed rules = parse("", R"({"quantization": {"quant_algo": "MIXED_PRECISION",
      "quantized_layers": {
        "model.language_model.layers.3.mlp.experts": {"quant_algo": "NVFP4"},
        "language_model.lm_head": {"quant_algo": "W4A16_NVFP4"}}}})");
  EXPECT_EQ(rules(kExpert), kW4A4Text);
  EXPECT_EQ(rules("language_model.model.layers.3.mlp.experts.17.up_proj", "language_model.model."),
            kW4A4Text);
  EXPECT_EQ(rules("lm_head"), kW4A16Text);
  EXPECT_EQ(rules("model.layers.33.mlp.experts.17.up_proj"), "excluded");
}

TEST(QuantConfig, FilesThatDisagreeAreReportedAndTheProducersWins) {
  const Parsed rules = parse(R"({"quant_method": "modelopt", "quant_algo": "NVFP4"})",
                             R"({"quantization": {"quant_algo": "W4A16_NVFP4",
                                 "kv_cache_quant_algo": "FP8"}})");
  EXPECT_EQ(rules(kExpert), kW4A16Text);
  EXPECT_EQ(rules.config.kv_cache(), "FP8");
  ASSERT_EQ(rules.notes.size(), 1u);
  EXPECT_THAT(rules.notes[0].message, HasSubstr("NVFP4"));
}

TEST(QuantConfig, Fp8WithNvfp4ExpertsIsBoth) {
  const Parsed rules = parse(R"({"quant_method": "fp8", "weight_block_size": [128, 128],
      "scale_fmt": "ue8m0", "moe_quant_algo": "NVFP4", "modules_to_not_convert": ["lm_head"]})",
                             R"({"quantization": {"quant_algo": "MIXED_PRECISION",
      "quantized_layers": {"layers.5.ffn.experts": {"quant_algo": "NVFP4"}}}})");
  EXPECT_EQ(rules("model.layers.5.ffn.experts.0.w1"), kW4A4Text);
  EXPECT_EQ(rules("model.layers.6.ffn.experts.0.w1"), kW4A4Text);
  EXPECT_THAT(rules("model.layers.5.attn.wq_b"), HasSubstr("fp8 block-128"));
  EXPECT_EQ(rules("lm_head"), "excluded");
}

TEST(QuantConfig, LeftoverConfigOfAnEarlierLifeIsIgnored) {
  const Parsed rules = parse(R"({"quant_method": "compressed-tensors", "format": "pack-quantized",
      "ignore": ["re:.*"], "config_groups": {"group_0": {"targets": ["Linear"],
        "weights": {"num_bits": 4, "type": "int", "group_size": 32}}}})",
                             R"({"quantization": {"quant_algo": "NVFP4"}})");
  EXPECT_EQ(rules(kExpert), kW4A4Text);
  EXPECT_THAT(rules.notes.at(0).message, HasSubstr("ignored"));
}

std::string group(const std::string& name, const std::string& targets, int bits,
                  const std::string& more) {
  return fmt::format(
      R"("{}": {{"targets": [{}], "weights": {{"num_bits": {}, "type": "float"{}}}}})", name,
      targets, bits, more);
}

TEST(QuantConfig, FirstMatchingGroupInFileOrderWinsAndIgnoreBeatsAll) {
  // "group_10" sorts before "group_2", but the file has it last.
  const Parsed rules = parse(fmt::format(
      R"({{"quant_method": "compressed-tensors", "ignore": ["re:.*layers\\.9\\."],
          "config_groups": {{{}, {}}}}})",
      group("group_2", R"("re:model\\.layers\\.[34]\\..*experts")", 4, ""),
      group("group_10", R"("Linear")", 8, R"(, "strategy": "channel")")));
  EXPECT_EQ(rules(kExpert), kW4A16Text);
  EXPECT_THAT(rules("model.layers.5.mlp.experts.0.up_proj"), HasSubstr("fp8 per-channel"));
  EXPECT_EQ(rules("model.layers.9.mlp.experts.0.up_proj"), "excluded");
}

TEST(QuantConfig, RegexTargetsAreAnchoredAtTheStartOnly) {
  const Parsed rules = parse(fmt::format(
      R"({{"quant_method": "compressed-tensors", "config_groups": {{{}}}}})",
      group("g", R"("re:layers\\.3", "re:model\\.layers\\.4", "re:.*ffn.*(gate|up|down)_proj$")", 4,
            "")));
  EXPECT_EQ(rules("vision.layers.3.mlp.up_proj", "model."), "excluded");
  EXPECT_EQ(rules("model.layers.4.mlp.up_proj"), kW4A16Text);
  EXPECT_EQ(rules("model.layers.40.anything"), kW4A16Text);
  EXPECT_EQ(rules("model.layers.7.ffn.experts.0.w3"), kW4A16Text);  // up_proj by its other name
}

// Nothing literal begins these expressions, so that only the anchor keeps them from the middle.
TEST(QuantConfig, RegexesWithoutALiteralBeginningAreAnchoredToo) {
  const Parsed rules = parse(fmt::format(
      R"({{"quant_method": "compressed-tensors", "ignore": ["re:[mv]odel\\.layers\\.[12]$"],
          "config_groups": {{{}}}}})",
      group("g", R"("re:(layers|blocks)\\.3", "re:[lb]ayers\\.5")", 4, "")));
  EXPECT_EQ(rules("layers.3.mlp.up_proj", ""), kW4A16Text);
  EXPECT_EQ(rules("vision.layers.3.mlp.up_proj", "model."), "excluded");
  EXPECT_EQ(rules("vision.blocks.3.mlp.up_proj", "model."), "excluded");
  EXPECT_EQ(rules("vision.layers.5.mlp.up_proj", "model."), "excluded");
}

TEST(NameMatcher, ACharacterBeforeAQuantifierIsNotPartOfTheLiteralBeginning) {
  const struct {
    const char* regex;
    const char* name;
  } cases[] = {
      {"model\\.layers\\.10?\\.mlp", "model.layers.1.mlp"},
      {"model\\.layers\\.1*2\\.mlp", "model.layers.2.mlp"},
      {"model\\.layers\\.1{0,2}2\\.mlp", "model.layers.2.mlp"},
      {"model\\.?layers", "modellayers"},
      {"a+b", "aab"},
      {"layers\\.3|model\\.layers\\.3", "model.layers.3"},
      {"^model", "model"},
  };
  for (const auto& [regex, name] : cases) {
    NameMatcher matcher;
    matcher.add_regex(regex, "F");
    EXPECT_TRUE(matcher.matches(name)) << regex << " on " << name;
  }
}

TEST(QuantConfig, AnExclusionThatNamesAModuleCoversWhatLiesBelowIt) {
  const Parsed producer = parse("", R"({"quantization": {"quant_algo": "NVFP4",
      "exclude_modules": ["model.layers.3.mlp", "model.layers.4.self_attn"]}})");
  const Parsed fp8 = parse(R"({"quant_method": "fp8",
      "modules_to_not_convert": ["model.layers.3.mlp", "model.layers.4.self_attn", "gate"]})");
  for (const Parsed* rules : {&producer, &fp8}) {
    EXPECT_EQ((*rules)(kExpert), "excluded");
    EXPECT_EQ((*rules)("model.layers.4.self_attn.q_proj"), "excluded");
    EXPECT_NE((*rules)("model.layers.4.self_attention.q_proj"), "excluded");
    EXPECT_NE((*rules)("model.layers.33.mlp.experts.17.up_proj"), "excluded");
  }
  // transformers takes last components too.
  EXPECT_EQ(fp8("model.layers.7.mlp.gate"), "excluded");
  EXPECT_NE(fp8("model.layers.7.mlp.gate_proj"), "excluded");
}

TEST(QuantConfig, Mxfp4OfGptOssAndItsGlobs) {
  const Parsed rules = parse(R"({"quant_method": "mxfp4", "modules_to_not_convert": [
      "model.layers.*.self_attn", "model.layers.*.mlp.router", "lm_head"]})");
  EXPECT_EQ(rules.config.dialect(), "mxfp4");
  EXPECT_EQ(rules(kExpert), "W4A16 (mxfp4 static, none)");
  EXPECT_EQ(rules("model.layers.9.self_attn.q_proj"), "excluded");
  EXPECT_EQ(rules("model.layers.9.mlp.router"), "excluded");
  EXPECT_EQ(rules("lm_head"), "excluded");
}

TEST(QuantConfig, Fp8CheckpointsMayHaveExpertsOfAnotherType) {
  const std::string fp8 = R"({"quant_method": "fp8", "weight_block_size": [128, 128])";
  EXPECT_EQ(parse(fp8 + "}", "", "fp4")(kExpert), to_string(kMxfp4W4A16));
  EXPECT_THAT(parse(fp8 + "}", "", "fp8")(kExpert), HasSubstr("fp8 block-128"));
  EXPECT_THAT(parse(fp8 + "}", "", "fp4")("model.layers.3.mlp.up_proj"),
              HasSubstr("fp8 block-128"));
  EXPECT_THAT(parse(fp8 + "}", "", "int3")(kExpert), HasSubstr("int3"));
  EXPECT_EQ(parse(fp8 + R"(, "moe_quant_algo": "NVFP4"})", "", "fp4")(kExpert), kW4A4Text);
}

TEST(QuantConfig, AlgorithmsAreComparedWithoutCase) {
  EXPECT_THAT(parse(R"({"quant_algo": "fp8_pb_wo"})")(kExpert), HasSubstr("fp8 block-128"));
  EXPECT_EQ(parse(R"({"quant_algo": "w4a16_nvfp4"})")(kExpert), kW4A16Text);
  EXPECT_EQ(parse(R"({"quant_algo": "Mixed_Precision", "quantized_layers": {
      "model.layers.3.mlp.experts": {"quant_algo": "nvfp4"}}})")(kExpert),
            kW4A4Text);
  EXPECT_EQ(parse(R"({"quant_method": "modelopt_fp4", "quant_algo": "NVFP4"})")(kExpert),
            kW4A4Text);
}

TEST(QuantConfig, GroupsWithoutInputsMakeNvfp4WeightOnly) {
  const auto with_inputs = [](const std::string& inputs) {
    return parse(R"({"quant_algo": "NVFP4", "config_groups": {
        "group_0": {"targets": ["Linear"], "input_activations": null,
          "weights": {"num_bits": 4, "type": "float", "group_size": 16}},
        "group_1": {"targets": ["Linear"])" +
                 inputs +
                 R"(, "weights": {"num_bits": 4, "type": "float", "group_size": 16}}}})")(kExpert);
  };
  EXPECT_EQ(with_inputs(R"(, "input_activations": null)"), kW4A16Text);
  EXPECT_EQ(with_inputs(""), kW4A4Text);  // does not say
  EXPECT_EQ(with_inputs(R"(, "input_activations": {"num_bits": 4, "type": "float"})"), kW4A4Text);
}

TEST(QuantConfig, GroupSizesOtherThanTheFormatsAreNamed) {
  EXPECT_EQ(parse(R"({"quant_algo": "W4A16_NVFP4", "group_size": 32})")(kExpert),
            "NVFP4 in groups of 32");
  EXPECT_EQ(parse(R"({"quant_algo": "W4A16_NVFP4", "group_size": 16})")(kExpert), kW4A16Text);
  EXPECT_EQ(parse("", R"({"quantization": {"quant_algo": "MIXED_PRECISION", "quantized_layers": {
      "model.layers.3.mlp.experts": {"quant_algo": "NVFP4", "group_size": 32}}}})")(kExpert),
            "NVFP4 in groups of 32");
}

TEST(QuantConfig, NamesWithANulExcludeNothingAndAreReported) {
  const Parsed rules = parse("", R"({"quantization": {"quant_algo": "NVFP4",
      "exclude_modules": ["backbone\u0000*", "backbone.\u0000.layers", "lm_head"]}})");
  EXPECT_EQ(rules("backbone.layers.1.mixer.experts.0.up_proj", "backbone."), kW4A4Text);
  EXPECT_EQ(rules("lm_head"), "excluded");
  ASSERT_EQ(rules.notes.size(), 1u);
  EXPECT_THAT(rules.notes[0].message, HasSubstr("2 of the excluded names"));
}

TEST(ModuleNames, ExpertsAreFoundUnderEveryFamilysNames) {
  for (const char* module :
       {"model.layers.3.mlp.experts.1.up_proj", "backbone.layers.3.mixer.experts.1.up_proj",
        "layers.3.ffn.experts.1.w3", "model.language_model.layers.3.experts.1.up_proj",
        "model.layers.3.moe.0.up_proj", "model.layers.3.moe.up_proj"}) {
    EXPECT_TRUE(is_routed_expert(module)) << module;
  }
  for (const char* module : {"model.layers.3.moe.gate", "model.layers.3.mlp.shared_experts.up_proj",
                             "model.layers.3.share_expert.up_proj", "up_proj", "3.up_proj"}) {
    EXPECT_FALSE(is_routed_expert(module)) << module;
  }
  // Stored one by one, listed as one module, without the wrapper's prefix.
  const Parsed rules = parse("", R"({"quantization": {"quant_algo": "MIXED_PRECISION",
      "quantized_layers": {"model.layers.3.feed_forward.experts.gate_up_proj":
                             {"quant_algo": "NVFP4"},
                           "backbone.layers.4.mixer.experts": {"quant_algo": "NVFP4"}}}})");
  EXPECT_EQ(rules("language_model.model.layers.3.feed_forward.experts.0.up_proj",
                  "language_model.model."),
            kW4A4Text);
  EXPECT_EQ(rules("model.layers.4.mixer.experts.9.up_proj"), kW4A4Text);
}

TEST(ModuleNames, ProjectionsHaveTheOtherNamesOfTheirOwnPartAndNoMore) {
  const std::map<std::string, std::set<std::string>> expected = {
      {"w1", {"w1", "gate_proj", "gate_up_proj"}},
      {"w3", {"w3", "up_proj", "gate_up_proj"}},
      {"w2", {"w2", "down_proj"}},
      {"gate_proj", {"gate_proj", "w1", "gate_up_proj"}},
      {"up_proj", {"up_proj", "w3", "gate_up_proj"}},
      {"down_proj", {"down_proj", "w2"}},
      {"q_proj", {"q_proj", "qkv_proj"}},
      {"k_proj", {"k_proj", "qkv_proj"}},
      {"v_proj", {"v_proj", "qkv_proj"}},
      {"o_proj", {"o_proj"}},
      {"in_proj_qkv", {"in_proj_qkv", "in_proj_qkvz"}},
      {"in_proj_z", {"in_proj_z", "in_proj_qkvz"}},
      {"in_proj_b", {"in_proj_b", "in_proj_ba"}},
      {"in_proj_a", {"in_proj_a", "in_proj_ba"}},
      {"wq_a", {"wq_a", "fused_wqa_wkv"}},
      {"wkv", {"wkv", "fused_wqa_wkv"}},
      {"kv_a_proj_with_mqa", {"kv_a_proj_with_mqa", "fused_qkv_a_proj"}}};
  for (const auto& [stored, names] : expected) {
    const std::string parent = "layers.3.mlp.experts.17.";
    std::set<std::string> tails;
    for (const std::string& name : module_spellings(parent + stored, "model.")) {
      if (name.starts_with(parent)) tails.insert(name.substr(parent.size()));
    }
    EXPECT_EQ(tails, names) << stored;
  }
  // What an engine's names exclude is excluded, and its neighbour is not.
  const Parsed rules = parse("", R"({"quantization": {"quant_algo": "NVFP4", "exclude_modules": [
      "model.layers.3.mlp.experts.17.gate_proj", "model.layers.4.mlp.experts.17.up_proj"]}})");
  EXPECT_EQ(rules("model.layers.3.mlp.experts.17.w1"), "excluded");
  EXPECT_EQ(rules("model.layers.3.mlp.experts.17.w3"), kW4A4Text);
  EXPECT_EQ(rules("model.layers.4.mlp.experts.17.w3"), "excluded");
  EXPECT_EQ(rules("model.layers.4.mlp.experts.17.w1"), kW4A4Text);
}

TEST(QuantConfig, FormatsOutsideTheProjectAreNamed) {
  const auto ct = [](int bits, const std::string& more) {
    return parse(fmt::format(R"({{"quant_method": "compressed-tensors", "config_groups": {{{}}}}})",
                             group("g", R"("Linear")", bits, more)))(kExpert);
  };
  EXPECT_EQ(ct(4, R"(, "group_size": 64)"), "FP4 in groups of 64");
  EXPECT_THAT(ct(8, R"(, "group_size": 32, "strategy": "group")"), HasSubstr("MXFP8"));
  EXPECT_EQ(parse(R"({"quant_method": "awq"})")(kExpert), "awq");
  EXPECT_EQ(parse(R"({"quant_algo": "MXFP8"})")(kExpert), "MXFP8");
}

TEST(QuantConfig, Mxfp4GroupsAndAlgorithms) {
  const auto ct = [](const std::string& inputs) {
    return parse(R"({"quant_method": "compressed-tensors", "config_groups": {"g": {
        "targets": ["Linear"], "format": "mxfp4-pack-quantized", "weights": {"num_bits": 4,
        "type": "float", "strategy": "group", "group_size": 32, "scale_dtype": "torch.uint8"},
        "input_activations": )" +
                 inputs + "}}}")(kExpert);
  };
  EXPECT_EQ(ct("null"), "W4A16 (mxfp4 static, none)");
  EXPECT_EQ(ct(R"({"num_bits": 4, "type": "float", "group_size": 32, "dynamic": true})"),
            "W4A4 (mxfp4 static, mxfp4 dynamic)");
  EXPECT_EQ(ct(R"({"num_bits": 8, "type": "float", "dynamic": true})"),
            "W4A16 (mxfp4 static, none)");
  EXPECT_EQ(parse(R"({"quant_algo": "W4A8_MXFP4_FP8"})")(kExpert), "W4A16 (mxfp4 static, none)");
  EXPECT_EQ(parse(R"({"quant_algo": "MXFP4"})")(kExpert), "W4A4 (mxfp4 static, mxfp4 dynamic)");
}

TEST(Globs, FollowFnmatch) {
  // Expected values are those of Python's fnmatch.fnmatchcase.
  const struct {
    const char* glob;
    const char* name;
    bool matches;
  } cases[] = {
      {"model.layers.1*", "model.layers.10.mlp", true},
      {"model.layers.1.*", "model.layers.10.mlp", false},
      {"model.layers.1.*", "model.layers.1.mlp", true},
      {"*.mlp.shared_expert.*", "model.layers.1.mlp.shared_expert.up_proj", true},
      {"*lm_head", "lm_head", true},
      {"mtp*", "mtp", true},
      {"mtp*", "model.mtp", false},
      {"l?_head", "lm_head", true},
      {"layers.[0-2].x", "layers.1.x", true},
      {"layers.[!0-2].x", "layers.1.x", false},
      {"layers.[!0-2].x", "layers.3.x", true},
      {"a[", "a[", true},
      {"a[]]b", "a]b", true},
      {"", "", true},
      {"*", "", true},
      {"**a*", "bba", true},
      {"a*b*c", "a.b.b", false},
  };
  for (const auto& [glob, name, matches] : cases) {
    EXPECT_EQ(glob_matches(glob, name), matches) << glob << " on " << name;
  }
}

TEST(NameMatcher, FifteenThousandPatternsAgainstAsManyNamesIsLinearWork) {
  NameMatcher matcher;
  std::vector<std::string> names;
  for (int layer = 0; layer < 60; ++layer) {
    for (int expert = 0; expert < 250; ++expert) {
      const std::string name = fmt::format("model.layers.{}.mlp.experts.{}", layer, expert);
      names.push_back(name + ".up_proj");
      matcher.add_glob(name + ".gate*", "F");
      matcher.add_exact(name + ".down_proj");
      matcher.add_regex(
          fmt::format("model\\.layers\\.{}\\.mlp\\.experts\\.{}\\.g.*", layer, expert), "F");
    }
  }
  matcher.add_glob("*.shared_expert.*", "F");
  for (const std::string& name : names) EXPECT_FALSE(matcher.matches(name));
  // Of 30,001 patterns only the one without a literal beginning is tried on each name.
  EXPECT_EQ(matcher.patterns_tried(), static_cast<int64_t>(names.size()));
  EXPECT_TRUE(matcher.matches("model.layers.59.mlp.experts.249.gate_proj"));
  EXPECT_TRUE(matcher.matches("model.layers.59.mlp.experts.249.down_proj"));
}

}  // namespace
}  // namespace moe4
