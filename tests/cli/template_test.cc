// moe4 template, and the chat template's variables in run and chat.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "support/run_program.h"
#include "support/temp_dir.h"

namespace moe4 {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using testing::ProgramResult;
using testing::run_program;
using ::testing::StartsWith;

const std::string kModel = std::string(MOE4_EMBEDDED_MODELS) + "/tiny-qwen3_5-moe-nvfp4";

class TemplateCommand : public ::testing::Test {
 protected:
  std::string write(const std::string& name, const std::string& text) const {
    std::ofstream(folder_ / name, std::ios::binary) << text;
    return (folder_ / name).string();
  }
  std::string folder() const { return (folder_ / "").string(); }

  ProgramResult render(const std::string& messages, std::vector<std::string> more = {}) const {
    std::vector<std::string> arguments = {"template", folder(), "--messages",
                                          write("messages.json", messages)};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return run_program(arguments);
  }

  // Exit status 3 and one line that says all of this.
  void expect_refused(const ProgramResult& result, const std::string& says) const {
    EXPECT_EQ(result.status, 3) << result.err;
    EXPECT_EQ(result.out, "");
    EXPECT_THAT(result.err, AllOf(StartsWith("error: "), HasSubstr(says)));
    EXPECT_EQ(result.err.find('\n'), result.err.size() - 1) << result.err;
  }

  testing::TempDir folder_;
};

constexpr const char* kHi = R"([{"role": "user", "content": "Hi"}])";

TEST_F(TemplateCommand, PrintsExactlyThePromptOfTheEmbeddedModel) {
  const std::string file = write(
      "m.json", R"([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"},
                          {"role": "assistant", "content": "Yo"}, {"role": "user", "content": "Go"}])");
  const std::string turns =
      "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
      "<|im_start|>assistant\nYo<|im_end|>\n<|im_start|>user\nGo<|im_end|>\n";
  EXPECT_EQ(run_program({"template", kModel, "--messages", file}).out,
            turns + "<|im_start|>assistant\n");
  EXPECT_EQ(run_program({"template", kModel, "--messages", file, "--no-generation-prompt"}).out,
            turns);
}

TEST_F(TemplateCommand, VariablesComeFromTheFileThenFromTheFlags) {
  write("chat_template.jinja",
        "{{ messages|length }} {{ tools }} {{ a }} {{ b }} {{ add_generation_prompt }}");
  const std::string object =
      R"({"messages": [{"role": "user"}], "a": 12345678901234567890123, "tools": [1]})";
  EXPECT_EQ(render(kHi).out, "1 None   True");
  EXPECT_EQ(render(object).out, "1 [1] 12345678901234567890123  True");
  EXPECT_EQ(
      render(object, {"--template-arg", "a=[1, {\"k\": null}]", "--template-arg", "b=word"}).out,
      "1 [1] [1, {'k': None}] word True");
  EXPECT_EQ(render(object, {"--tools", write("tools.json", "[2, 3]"), "--no-generation-prompt",
                            "--template-arg", "b=", "--template-arg", "a=x=y"})
                .out,
            "1 [2, 3] x=y  False");
  EXPECT_EQ(render(R"({"messages": [], "add_generation_prompt": false})").out, "0 None   False");
  EXPECT_EQ(run_program({"template", folder(), "--messages", write("m.json", kHi)},
                        {"MOE4_TEMPLATE_ARG=b=7"})
                .out,
            "1 None  7 True");
}

TEST_F(TemplateCommand, BytesAreNotTouched) {
  write("chat_template.jinja", "{{ messages[0].content }}\n\n");
  EXPECT_EQ(render(R"([{"role": "user", "content": "a\r\n\u0000\tü "}])").out,
            std::string("a\r\n\0\tü \n", 9));
}

TEST_F(TemplateCommand, BadFilesAreRefusedInOneLine) {
  expect_refused(render(kHi), "no chat template");
  write("chat_template.jinja", "{{ raise_exception('not\nlike this') }}");
  expect_refused(render(kHi), "not\\x0alike this");
  expect_refused(render("[{]"), "not valid JSON");
  expect_refused(render("5"), "not a list");
  expect_refused(render("{}"), "not a list");
  expect_refused(render(R"({"messages": {}})"), "not a list");
  expect_refused(render(R"([{"role": "user"}, {"content": "x"}])"), "messages[1]");
  expect_refused(render(R"([{"role": 5}])"), "no role");
  expect_refused(render(R"(["user"])"), "no role");
  expect_refused(render(kHi, {"--tools", write("tools.json", "{}")}), "tools are not a list");
  expect_refused(render(kHi, {"--tools", folder() + "absent.json"}), "no such file");
  expect_refused(run_program({"template", folder(), "--messages", folder()}), "regular file");
  expect_refused(run_program({"template", folder() + "absent", "--messages", folder()}), "absent");
  write("chat_template.jinja", "{% if %}");
  expect_refused(render(kHi), "line 1");
}

TEST_F(TemplateCommand, WrongArgumentsAreMistakesOfTheCommandLine) {
  write("chat_template.jinja", "x");
  for (const char* argument : {"enable_thinking", "=1", "a b=1", "1a=1", "a={", "a=[1", "a=\"b",
                               "a=True", "a=False", "a=None", "messages=[]"}) {
    const ProgramResult result = render(kHi, {"--template-arg", argument});
    EXPECT_EQ(result.status, 2) << argument << result.err;
    EXPECT_EQ(result.out, "") << argument;
  }
  EXPECT_EQ(run_program({"template", folder()}).status, 2);
  const ProgramResult run = run_program({"run", kModel, "-p", "x", "--template-arg", "a=1"});
  EXPECT_EQ(run.status, 2);
  EXPECT_THAT(run.err, HasSubstr("--chat"));
}

// A checkpoint whose template says what it was given, as an error, once there are `size` messages.
class ChatPrompts : public TemplateCommand {
 protected:
  void copy_model(const std::string& size) const {
    for (const auto& file : std::filesystem::directory_iterator(kModel)) {
      if (file.path().filename() == "chat_template.jinja") continue;
      std::filesystem::create_symlink(file.path(), folder_ / file.path().filename().string());
    }
    write("chat_template.jinja",
          "{% if messages|length >= " + size +
              " %}{{ raise_exception(messages|tojson ~ add_generation_prompt ~ flag) }}{% endif %}"
              "{% for m in messages %}{{ m.content }}{% endfor %}");
  }
  ProgramResult chat(const std::string& input, std::vector<std::string> more) const {
    std::vector<std::string> arguments = {"chat", folder(),        "-q", "-n",
                                          "3",    "--temperature", "0",  "--ignore-eos"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return run_program(arguments, {}, input);
  }
};

nlohmann::ordered_json message(const std::string& role, const std::string& text) {
  return {{"role", role}, {"content", text}};
}

// What tojson makes of it inside of moe4's error: nlohmann writes no spaces.
std::string spaced(const nlohmann::ordered_json& messages) {
  std::string out = "[";
  for (const auto& one : messages) {
    out += out.size() > 1 ? ", " : "";
    out += R"({"role": )" + one["role"].dump() + R"(, "content": )" + one["content"].dump() + "}";
  }
  return out + "]";
}

TEST_F(ChatPrompts, TheSecondTurnHoldsSystemMessageAndAnswer) {
  copy_model("4");
  const ProgramResult result = chat("In the beginning\nMore\n",
                                    {"--system", "Be brief.", "--template-arg", "flag={\"a\": 1}"});
  EXPECT_EQ(result.status, 3);
  const std::string answer = result.out.substr(0, result.out.rfind('\n'));
  EXPECT_FALSE(answer.empty());
  EXPECT_THAT(result.err,
              HasSubstr(spaced({message("system", "Be brief."), message("user", "In the beginning"),
                                message("assistant", answer), message("user", "More")}) +
                        "True{'a': 1}"));
}

TEST_F(ChatPrompts, ClearForgetsAllButTheSystemMessage) {
  copy_model("3");
  const ProgramResult result = chat("One\n/clear\nTwo\nThree\n", {});
  EXPECT_EQ(result.status, 3);
  const size_t begin = result.err.find('[');
  const size_t end = result.err.find("]True");
  ASSERT_NE(end, std::string::npos) << result.err;
  const auto seen = nlohmann::ordered_json::parse(result.err.substr(begin, end + 1 - begin));
  ASSERT_EQ(seen.size(), 3u) << result.err;
  EXPECT_EQ(seen[0], message("user", "Two"));
  EXPECT_EQ(seen[2], message("user", "Three"));
  EXPECT_EQ(seen[1]["role"], "assistant");
  const auto answer = seen[1]["content"].get<std::string>();
  EXPECT_FALSE(answer.empty());
  EXPECT_TRUE(result.out.ends_with(answer + "\n")) << result.out;
}

TEST_F(ChatPrompts, ClearKeepsTheSystemMessage) {
  copy_model("3");
  write("chat_template.jinja",
        "{% if 'Two' in messages[-1].content %}{{ raise_exception(messages|tojson) }}{% endif %}x");
  const ProgramResult result = chat("One\n/clear\nTwo\n", {"--system", "S"});
  EXPECT_EQ(result.status, 3);
  EXPECT_THAT(result.err, HasSubstr(spaced({message("system", "S"), message("user", "Two")})));
}

TEST_F(ChatPrompts, RunPutsItsPromptAndVariablesIntoTheTemplate) {
  copy_model("1");
  const ProgramResult result = run_program(
      {"run", folder(), "-q", "--chat", "-p", "Hi", "-n", "1", "--template-arg", "flag=false"});
  EXPECT_EQ(result.status, 3);
  const auto messages = nlohmann::ordered_json::array({message("user", "Hi")});
  EXPECT_THAT(result.err, HasSubstr(spaced(messages) + "TrueFalse"));
}

}  // namespace
}  // namespace moe4
