// What architecture files read is noted, what they do not compute is refused.
#include "models/config_reader.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "support/editable_checkpoint.h"
#include "support/temp_dir.h"

namespace moe4 {
namespace {

using nlohmann::json;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::Field;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class ConfigReaderTest : public ::testing::Test {
 protected:
  const ConfigReader& read(const json& changes, const json& beside = nullptr) {
    testing::EditableCheckpoint editable("qwen3-modelopt-nvfp4");
    if (!changes.is_null()) editable.config.update(changes);
    if (!beside.is_null()) {
      json wrapper = beside;
      wrapper["text_config"] = editable.config;
      editable.config = wrapper;
    }
    editable.write(dir_.path());
    checkpoint_ = Checkpoint::open(dir_.path(), {.headers_only = true});
    return reader_.emplace(*checkpoint_);
  }

  testing::TempDir dir_;
  std::unique_ptr<Checkpoint> checkpoint_;
  std::optional<ConfigReader> reader_;
};

::testing::Matcher<const Refusal&> says(const std::string& a, const std::string& b) {
  return Field(&Refusal::message, AllOf(HasSubstr(a), HasSubstr(b), HasSubstr("config.json")));
}

TEST_F(ConfigReaderTest, NotesWhatIsRead) {
  const ConfigReader& c = read({});
  EXPECT_EQ(c.size({"hidden_size"}), 64);
  EXPECT_EQ(c.size({"num_experts", "num_local_experts"}), 6);
  EXPECT_EQ(c.size({"not_there"}, 3), 3);
  EXPECT_FALSE(c.has("rope_scaling"));
  for (const char* key :
       {"hidden_size", "num_experts", "num_local_experts", "not_there", "rope_scaling"}) {
    EXPECT_TRUE(c.was_read(key)) << key;
  }
  EXPECT_FALSE(c.was_read("vocab_size"));
  EXPECT_FALSE(c.was_read("rope_theta"));
  EXPECT_THAT(c.refusals(), IsEmpty());
}

TEST_F(ConfigReaderTest, SizesOfLayersAreThoseOfTheListOrTheFallback) {
  const ConfigReader& c = read({{"heads", {4, 8}}, {"none", {4, 0}}, {"word", {"4", 8}}});
  EXPECT_EQ(c.layer_size(1, "heads", 3), 8);
  EXPECT_EQ(c.layer_size(1, "not_there", 3), 3);
  EXPECT_TRUE(c.was_read("not_there"));
  for (const auto& [layer, key] :
       {std::pair(2, "heads"), std::pair(1, "none"), std::pair(0, "word")}) {
    try {
      (void)c.layer_size(layer, key, 3);
      FAIL() << key;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kBadInput);
      EXPECT_THAT(error.what(), HasSubstr(key));
    }
  }
}

TEST_F(ConfigReaderTest, EmbeddingsAreTiedAsTheFileOrItsFamilySays) {
  EXPECT_FALSE(read({{"tie_word_embeddings", false}}).tie_word_embeddings(true));
  const ConfigReader& c = read({{"tie_word_embeddings", nullptr}});
  EXPECT_TRUE(c.tie_word_embeddings(true));
  EXPECT_FALSE(c.tie_word_embeddings());
}

TEST_F(ConfigReaderTest, LayerTypesAreRefusedOnceAndByName) {
  const ConfigReader& c = read({{"layer_types", {"full_attention", "hyena"}}});
  EXPECT_EQ(c.layer_type(0, {"full_attention"}, "full_attention"), "full_attention");
  EXPECT_THAT(c.refusals(), IsEmpty());
  EXPECT_EQ(c.layer_type(1, {"full_attention", "mamba"}, "mamba"), "mamba");
  EXPECT_EQ(c.layer_type(1, {"full_attention", "mamba"}, "mamba"), "mamba");
  EXPECT_THAT(c.refusals(), ElementsAre(says("layer_types", "\"hyena\" in layer 1")));
  EXPECT_THAT(c.refusals(), ElementsAre(says("full_attention or mamba", "layer_types")));
  EXPECT_THROW(c.layer_type(2, {"full_attention"}, "full_attention"), Error);
  EXPECT_EQ(read({}).layer_type(1, {"a"}, "b"), "b");
}

TEST_F(ConfigReaderTest, RequiredValuesMayBeAbsent) {
  const ConfigReader& c = read({{"gate", false}, {"scale", 2}, {"kind", "odd"}, {"none", nullptr}});
  c.require("gate", false);
  c.require("scale", 2.0);
  c.require("kind", {"even", "odd"});
  c.require("none", 1.0);
  c.require("not_there", true);
  EXPECT_THAT(c.refusals(), IsEmpty());
  c.require("gate", true);
  c.require("scale", 1.0);
  c.require("kind", {"even"});
  c.require_multiple("width", 24, 16);
  EXPECT_THAT(c.refusals(), ElementsAre(says("gate", "false"), says("scale", "2"),
                                        says("kind", "odd"), says("width", "multiple of 16")));
}

TEST_F(ConfigReaderTest, SpellingsThatDisagreeAreRefused) {
  const ConfigReader& c = read({{"eps", 1e-5}, {"norm_eps", 1e-5}, {"epsilon", 1e-6}});
  EXPECT_EQ(c.number({"eps", "norm_eps"}, 0.0, 0.0, 1.0), 1e-5);
  EXPECT_THAT(c.refusals(), IsEmpty());
  EXPECT_EQ(c.number({"eps", "epsilon"}, 0.0, 0.0, 1.0), 1e-5);
  EXPECT_THAT(c.refusals(), ElementsAre(says("epsilon", "as eps")));
}

TEST_F(ConfigReaderTest, KeysBesideTheTextModelAreRefusedWhenRead) {
  const json beside = {{"rope_theta", 1e6}, {"hidden_size", 7}, {"unread", 1}};
  const ConfigReader& c = read({}, beside);
  EXPECT_EQ(c.size({"hidden_size"}), 64);  // the text model has its own
  EXPECT_THAT(c.refusals(), IsEmpty());
  c.number({"rope_theta"}, 1.0, 0.0, 1e9);
  c.number({"rope_theta"}, 1.0, 0.0, 1e9);
  EXPECT_THAT(c.refusals(), ElementsAre(says("rope_theta", "text_config.rope_theta")));
}

TEST_F(ConfigReaderTest, DisregardedKeysCountAsRead) {
  const ConfigReader& c = read({}, {{"sliding_window", 4}});
  c.disregard({"sliding_window"});
  EXPECT_TRUE(c.was_read("sliding_window"));
  EXPECT_THAT(c.refusals(), IsEmpty());
}

TEST_F(ConfigReaderTest, AnyWordOnBiasesCounts) {
  const ConfigReader& c = read({{"attention_bias", nullptr}, {"qkv_bias", true}});
  const BiasRule rule = c.bias({"attention_bias", "qkv_bias"});
  EXPECT_EQ(rule.key, "qkv_bias");
  EXPECT_EQ(rule.there, true);
  EXPECT_EQ(c.bias({"not_there"}).there, std::nullopt);
  EXPECT_THAT(c.refusals(), IsEmpty());
}

TEST_F(ConfigReaderTest, ListsHoldNumbers) {
  const ConfigReader& c = read({{"dense", {0, 2}}});
  EXPECT_TRUE(c.lists("dense", 0));
  EXPECT_FALSE(c.lists("dense", 1));
  EXPECT_TRUE(c.lists("dense", 2));
  EXPECT_FALSE(c.lists("not_there", 0));
}

}  // namespace
}  // namespace moe4
