// Templates of models that ship none, against the publisher's encoders
// (scripts/make_deepseek_prompts.py).
#include "text/builtin_templates.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "text/chat_template.h"
#include "text/template_files.h"

namespace moe4 {
namespace {

using nlohmann::ordered_json;
using testing::HasSubstr;

std::string render(const std::string& model_type, const std::string& context) {
  return ChatTemplate::parse(builtin_template(model_type), model_type)->render(context);
}

TEST(BuiltinTemplates, WriteWhatTheEncodersWrite) {
  std::map<std::string, int> tried;
  for (const ordered_json& one :
       ordered_json::parse(std::ifstream(MOE4_TEST_DATA "/text/deepseek_prompts.json"))) {
    const auto model_type = one["model_type"].get<std::string>();
    EXPECT_EQ(render(model_type, one["context"].dump()), one["prompt"].get<std::string>())
        << one["name"] << one["context"];
    ++tried[model_type];
  }
  EXPECT_GE(tried["deepseek_v32"], 38);
  EXPECT_GE(tried["deepseek_v4"], 70);
}

TEST(BuiltinTemplates, WriteTheExamplesOfThePublisher) {
  // README.md of deepseek-ai/DeepSeek-V3.2.
  EXPECT_EQ(
      render("deepseek_v32", R"({"thinking": true, "add_generation_prompt": true, "messages": [
                {"role": "user", "content": "hello"},
                {"role": "assistant", "content": "Hello! I am DeepSeek.",
                 "reasoning_content": "thinking..."},
                {"role": "user", "content": "1+1=?"}]})"),
      "<｜begin▁of▁sentence｜><｜User｜>hello<｜Assistant｜></think>Hello! I am DeepSeek."
      "<｜end▁of▁sentence｜><｜User｜>1+1=?<｜Assistant｜><think>");
  // encoding/README.md of deepseek-ai/DeepSeek-V4-Pro.
  EXPECT_EQ(render("deepseek_v4", R"({"add_generation_prompt": true, "messages": [
                {"role": "system", "content": "You are a helpful assistant."},
                {"role": "user", "content": "What is 2+2?"}]})"),
            "<｜begin▁of▁sentence｜>You are a helpful assistant.<｜User｜>What is 2+2?"
            "<｜Assistant｜><think>");
}

TEST(BuiltinTemplates, WithoutAGenerationPromptTheConversationEndsWithItsLastMessage) {
  const std::string user = R"({"messages": [{"role": "user", "content": "a"}]})";
  EXPECT_EQ(render("deepseek_v32", user), "<｜begin▁of▁sentence｜><｜User｜>a");
  EXPECT_EQ(render("deepseek_v4", user), "<｜begin▁of▁sentence｜><｜User｜>a");
}

TEST(BuiltinTemplates, ReasoningWithinAnAnswersTextIsReasoning) {
  const std::string said = R"({"role": "assistant", "content": "Hm.</think>b"}, )";
  const std::string begin = R"({"thinking": true, "messages": [{"role": "user", "content": "a"}, )";
  const std::string end = R"({"role": "user", "content": "c"}]})";
  for (const char* type : {"deepseek_v32", "deepseek_v4"}) {
    EXPECT_EQ(render(type, begin + said + end),
              "<｜begin▁of▁sentence｜><｜User｜>a<｜Assistant｜></think>b<｜end▁of▁sentence｜>"
              "<｜User｜>c");
  }
  EXPECT_THAT(render("deepseek_v4", R"({"drop_thinking": false, )" + begin.substr(1) + said + end),
              HasSubstr("<｜Assistant｜><think>Hm.</think>b<｜end▁of▁sentence｜>"));
}

TEST(BuiltinTemplates, RefuseWhatTheModelsHaveNoWordsFor) {
  for (const char* type : {"deepseek_v32", "deepseek_v4"}) {
    try {
      render(type, R"({"messages": [{"role": "critic", "content": "a"}]})");
      FAIL() << type;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kBadInput);
      EXPECT_THAT(error.what(), HasSubstr("has no messages of role critic"));
    }
  }
  EXPECT_THROW(render("deepseek_v32", R"({"messages": [{"role": "tool", "content": "a"}]})"),
               Error);
}

TEST(BuiltinTemplates, ServeFoldersThatHaveNone) {
  for (const char* type : {"deepseek_v32", "deepseek_v4"}) {
    const std::filesystem::path folder =
        std::string(MOE4_TEST_DATA "/checkpoints/") + type +
        (std::string(type) == "deepseek_v4" ? "-modelopt-fp8" : "-modelopt-nvfp4");
    const std::vector<NamedTemplate> found = find_templates(folder);
    ASSERT_EQ(found.size(), 1U) << type;
    EXPECT_EQ(found[0].name, "default");
    EXPECT_EQ(found[0].source, builtin_template(type));
    EXPECT_NE(ChatTemplate::load(folder), nullptr);
  }
  EXPECT_TRUE(find_templates(MOE4_TEST_DATA "/checkpoints/deepseek_v3-modelopt-nvfp4").empty());
  EXPECT_EQ(builtin_template("deepseek_v3"), "");
}

}  // namespace
}  // namespace moe4
