// Rotary embeddings from configurations: frequencies against transformers'
// (scripts/make_rotary_goldens.py), and what is refused.
#include "models/rotary_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "ops/rotary/rotary_angles.h"

namespace moe4 {
namespace {

using nlohmann::json;
using ::testing::AllOf;
using ::testing::HasSubstr;

RotarySpec read(const json& config, RotaryDefaults defaults = {.head_dim = 64}) {
  return read_rotary_spec(JsonReader(config, "config.json"), defaults);
}

std::string error_of(const json& config, RotaryDefaults defaults = {.head_dim = 64}) {
  try {
    (void)read(config, defaults);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kBadInput);
    return error.what();
  }
  return "";
}

const json& cases() {
  static const json all =
      json::parse(std::ifstream(std::string(MOE4_TEST_DATA) + "/rotary/cases.json"));
  return all;
}

// Powers may differ in their last bit, and with them all that comes after.
TEST(RotaryConfig, FrequenciesAndAmplitudesAreThoseOfTransformers) {
  ASSERT_GE(cases().size(), 17u);
  for (const json& c : cases()) {
    SCOPED_TRACE(c["name"].get<std::string>());
    const RotarySpec spec = read(c["config"], {.head_dim = c["head_dim"].get<int64_t>()});
    EXPECT_NEAR(spec.amplitude, c["amplitude"].get<double>(), 1e-12);
    const std::vector<float> found = inverse_frequencies(spec);
    const auto expected = c["inverse_frequencies"].get<std::vector<float>>();
    ASSERT_EQ(found.size(), expected.size());
    for (size_t i = 0; i < found.size(); ++i) {
      EXPECT_NEAR(found[i] / expected[i], 1.0f, 4e-7f) << i;
    }
  }
}

TEST(RotaryConfig, ScoresAndAnglesAreCorrectedApart) {
  const auto of = [](const char* name) {
    for (const json& c : cases()) {
      if (c["name"] == name) return read(c["config"]);
    }
    throw std::runtime_error(name);
  };
  const auto squared = [](const RotarySpec& spec) {
    return std::pow(yarn_mscale(spec.factor, spec.mscale_all_dim), 2);
  };
  // Both mscales are 1: nothing on the angles, 1.87 on the scores.
  EXPECT_EQ(of("DeepSeek-V3").amplitude, 1.0);
  EXPECT_NEAR(squared(of("DeepSeek-V3")), 1.87385, 1e-5);
  EXPECT_NEAR(squared(of("Kimi-K2-Instruct, a step")), 1.81326, 1e-5);
  EXPECT_NEAR(squared(of("Mistral-Small-4")), 2.20583, 1e-5);
  EXPECT_NEAR(of("gpt-oss").amplitude, 1.34657, 1e-5);
  EXPECT_EQ(of("gpt-oss").mscale_all_dim, 0.0);
  EXPECT_EQ(yarn_mscale(0.5, 1.0), 1.0);
}

TEST(RotaryConfig, BothSpellingsAreOneAndMustNotDisagree) {
  const json yarn = {{"type", "yarn"}, {"factor", 4.0}, {"original_max_position_embeddings", 512}};
  json fifth = yarn;
  fifth["rope_type"] = "yarn";
  fifth["rope_theta"] = 5e5;
  const RotarySpec four = read({{"rope_theta", 5e5}, {"rope_scaling", yarn}});
  EXPECT_EQ(four, read({{"rope_parameters", fifth}}));
  EXPECT_EQ(four, read({{"rope_scaling", yarn}, {"rope_parameters", fifth}}));
  EXPECT_EQ(four,
            read({{"rope_theta", 5e5}, {"rope_scaling", yarn}, {"rope_parameters", nullptr}}));
  // The object's theta counts, as in transformers.
  EXPECT_EQ(read({{"rope_theta", 1e4}, {"rope_parameters", fifth}}).theta, 5e5);

  json other = fifth;
  other["factor"] = 8.0;
  EXPECT_THAT(error_of({{"rope_scaling", yarn}, {"rope_parameters", other}}),
              AllOf(HasSubstr("rope_scaling.factor"), HasSubstr("disagree")));
  EXPECT_THAT(error_of({{"rope_scaling", yarn}, {"rope_parameters", {{"rope_type", "default"}}}}),
              HasSubstr("rope_scaling.type"));
  EXPECT_THAT(error_of({{"original_max_position_embeddings", 1024}, {"rope_scaling", yarn}}),
              AllOf(HasSubstr("original_max_position_embeddings"), HasSubstr("1024")));
}

TEST(RotaryConfig, OneALayerTypeIsReadForTheTypeThatIsAsked) {
  const json both = {{"full_attention", {{"rope_type", "default"}, {"rope_theta", 1e6}}},
                     {"sliding_attention", {{"rope_type", "linear"}, {"factor", 2.0}}}};
  EXPECT_EQ(read({{"rope_parameters", both}}).theta, 1e6);
  EXPECT_EQ(read({{"rope_parameters", both}}, {.head_dim = 64, .layer_type = "sliding_attention"})
                .scaling,
            RotaryScaling::kLinear);
  EXPECT_THAT(
      error_of({{"rope_parameters", both}}, {.head_dim = 64, .layer_type = "chunked_attention"}),
      HasSubstr("chunked_attention"));
}

TEST(RotaryConfig, WhatItDoesNotComputeIsRefusedByName) {
  for (const char* type : {"dynamic", "longrope", "su", "ntk"}) {
    for (const char* key : {"type", "rope_type"}) {
      EXPECT_THAT(error_of({{"rope_scaling", {{key, type}, {"factor", 2.0}}}}),
                  AllOf(HasSubstr(std::string("rope_scaling.") + key), HasSubstr(type),
                        HasSubstr("llama3")));
    }
  }
  const std::string_view own[] = {"llama_4_scaling_beta"};
  json rope = {{"rope_type", "default"}, {"llama_4_scaling_beta", 0.1}};
  EXPECT_THAT(error_of({{"rope_parameters", rope}}),
              HasSubstr("rope_parameters.llama_4_scaling_beta"));
  EXPECT_EQ(error_of({{"rope_parameters", rope}}, {.head_dim = 64, .other_keys = own}), "");
  // A key of another type changes nothing there: whoever wrote it meant that other type.
  rope = {{"rope_type", "linear"}, {"factor", 2.0}, {"low_freq_factor", 1.0}};
  EXPECT_THAT(error_of({{"rope_parameters", rope}}), HasSubstr("low_freq_factor"));
  rope["low_freq_factor"] = nullptr;
  EXPECT_EQ(error_of({{"rope_parameters", rope}}), "");
  // A factor without a type is what old exporters write for linear scaling.
  EXPECT_THAT(error_of({{"rope_scaling", {{"factor", 4.0}}}}), HasSubstr("rope_scaling.factor"));
  EXPECT_EQ(error_of({{"rope_scaling", {{"factor", 1.0}}}}), "");
}

TEST(RotaryConfig, ValuesThatAreNoNumbersOfTheirKindAreRefusedByName) {
  const json yarn = {{"rope_type", "yarn"},
                     {"factor", 4.0},
                     {"rope_theta", 1e4},
                     {"original_max_position_embeddings", 512}};
  const auto with = [&](const char* key, const json& value) {
    json rope = yarn;
    rope[key] = value;
    return error_of({{"rope_parameters", rope}});
  };
  EXPECT_EQ(with("beta_fast", 16), "");
  EXPECT_THAT(with("factor", 0), HasSubstr("rope_parameters.factor"));
  EXPECT_THAT(with("factor", "four"), HasSubstr("rope_parameters.factor"));
  EXPECT_THAT(with("beta_fast", 0.5), HasSubstr("rope_parameters.beta_fast"));
  EXPECT_THAT(with("truncate", 1), HasSubstr("rope_parameters.truncate"));
  EXPECT_THAT(with("rope_theta", 1.0), HasSubstr("rope_parameters.rope_theta"));
  EXPECT_THAT(with("original_max_position_embeddings", 0),
              HasSubstr("rope_parameters.original_max_position_embeddings"));
  EXPECT_THAT(with("original_max_position_embeddings", nullptr),
              HasSubstr("max_position_embeddings"));
  EXPECT_THAT(error_of({{"rope_scaling", {{"type", "linear"}}}}), HasSubstr("rope_scaling.factor"));
  EXPECT_THAT(error_of({{"partial_rotary_factor", 0.3}}), HasSubstr("partial_rotary_factor"));
  const json llama = {{"rope_type", "llama3"},
                      {"factor", 8.0},
                      {"low_freq_factor", 4.0},
                      {"high_freq_factor", 1.0},
                      {"original_max_position_embeddings", 512}};
  EXPECT_THAT(error_of({{"rope_scaling", llama}}), HasSubstr("rope_scaling.high_freq_factor"));
}

}  // namespace
}  // namespace moe4
