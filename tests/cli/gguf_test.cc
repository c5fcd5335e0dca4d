// The program with a .gguf file: what it says of the folder that the file was made of, and clear
// errors for files that are cut, hostile or of an unknown kind.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "support/run_program.h"
#include "support/temp_dir.h"

namespace moe4 {
namespace {

using nlohmann::json;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;
using testing::ProgramResult;
using testing::run_program;
using ::testing::StartsWith;

const std::string kFolder = std::string(MOE4_TEST_DATA) + "/gguf/qwen3_moe_nvfp4";
const std::string kFile = kFolder + ".gguf";

std::string bytes_of(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

class GgufCommands : public ::testing::Test {
 protected:
  std::string write(const std::string& name, const std::string& bytes) const {
    std::ofstream(folder_ / name, std::ios::binary) << bytes;
    return (folder_ / name).string();
  }

  static json say(std::vector<std::string> arguments) {
    arguments.emplace_back("--json");
    const ProgramResult result = run_program(arguments);
    EXPECT_EQ(result.status, 0) << result.err;
    return result.status == 0 ? json::parse(result.out) : json();
  }

  // Exit status 3 and one line that says all of this, of every command that opens a checkpoint.
  static void expect_refused(const std::string& path, const std::string& says) {
    const std::vector<std::vector<std::string>> commands = {
        {"run", path, "-p", "a", "-n", "1"},
        {"plan", path},
        {"inspect", path},
        {"eval", path, "--text", kFolder + "/config.json"}};
    for (const std::vector<std::string>& command : commands) {
      SCOPED_TRACE(command.front());
      const ProgramResult result = run_program(command);
      EXPECT_EQ(result.status, 3) << result.out;
      EXPECT_THAT(result.err, AllOf(StartsWith("error: "), HasSubstr(path), HasSubstr(says)));
      EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
    }
  }

  testing::TempDir folder_;
};

TEST_F(GgufCommands, RunWritesTheTextOfTheFolder) {
  const auto text = [](const std::string& model) {
    return say({"run", model, "-p", "The then there", "-n", "12", "--temperature", "0",
                "--ignore-eos", "--activations", "bf16", "--threads", "1"})["text"];
  };
  const json folder = text(kFolder);
  ASSERT_TRUE(folder.is_string() && !folder.get<std::string>().empty());
  EXPECT_EQ(text(kFile), folder);
}

TEST_F(GgufCommands, EvalGivesThePerplexityOfTheFolder) {
  const std::string text = write("text", "The then there other another the other of the there.");
  const auto perplexity = [&](const std::string& model) {
    return say(
        {"eval", model, "--text", text, "--activations", "bf16", "--threads", "1"})["perplexity"];
  };
  const json folder = perplexity(kFolder);
  ASSERT_TRUE(folder.is_number());
  EXPECT_EQ(perplexity(kFile), folder);
}

TEST_F(GgufCommands, PlanAndInspectSayTheFormatOfTheExperts) {
  const ProgramResult plan = run_program({"plan", kFile});
  EXPECT_EQ(plan.status, 0) << plan.err;
  EXPECT_THAT(plan.out, HasSubstr("nvfp4"));
  const ProgramResult inspect = run_program({"inspect", kFile});
  EXPECT_EQ(inspect.status, 0) << inspect.err;
  EXPECT_THAT(inspect.out, HasSubstr("nvfp4"));
}

TEST_F(GgufCommands, PlanAndInspectSayWhichLinearsStayAsTheyAre) {
  const std::string quantised = std::string(MOE4_TEST_DATA) + "/gguf/qwen3_moe_quantised.gguf";
  EXPECT_THAT(run_program({"plan", quantised}).out,
              HasSubstr("linears and embeddings of Q8_0 stay so on a CPU"));
  EXPECT_THAT(run_program({"inspect", quantised}).out, HasSubstr("Q8_0"));
  // q and k of 256 x 48 in float32, v of 256 x 16 in blocks.
  for (const json& group : say({"plan", quantised})["ops"]) {
    for (const json& op : group["ops"]) {
      if (op["role"] != "qkv_proj") continue;
      EXPECT_EQ(op["weight_bytes"], 256 * 48 * 4 + 256 * 16 / 32 * 34);
    }
  }
}

TEST_F(GgufCommands, PlanSaysWhichTensorsBecomeFloat32) {
  const std::string quantised = std::string(MOE4_TEST_DATA) + "/gguf/qwen3_moe_quantised.gguf";
  const ProgramResult plan = run_program({"plan", quantised});
  EXPECT_EQ(plan.status, 0) << plan.err;
  EXPECT_THAT(plan.out, HasSubstr("tensors of Q4_K, Q6_K, Q8_0 become float32"));
  EXPECT_THAT(run_program({"plan", kFile}).out, Not(HasSubstr("become float32")));
}

TEST_F(GgufCommands, PlanAndInspectSayThatExpertsAreFloat32) {
  const std::string quantised = std::string(MOE4_TEST_DATA) + "/gguf/qwen3_moe_quantised.gguf";
  const json plan = say({"plan", quantised});
  EXPECT_EQ(plan["groups"][0]["scheme"], "F32");
  EXPECT_THAT(run_program({"plan", quantised}).out, HasSubstr("layer 0: F32 -> "));
  EXPECT_THAT(run_program({"inspect", quantised}).out,
              AllOf(HasSubstr("top 2, F32"), Not(HasSubstr("top 2, BF16"))));
}

TEST_F(GgufCommands, TemplateRendersTheFilesOwn) {
  const std::string messages = write("m.json", R"([{"role": "user", "content": "Hi"}])");
  const ProgramResult result = run_program({"template", kFile, "--messages", messages});
  EXPECT_EQ(result.status, 0) << result.err;
  EXPECT_EQ(result.out, run_program({"template", kFolder, "--messages", messages}).out);
  EXPECT_THAT(result.out, StartsWith("<|im_start|>user\nHi<|im_end|>\n"));
}

TEST_F(GgufCommands, HeadersSufficeForPlanAndNotForRun) {
  const std::string bytes = bytes_of(kFile);
  const std::string cut = write("cut.gguf", bytes.substr(0, bytes.size() - 40000));
  const ProgramResult plan = run_program({"plan", cut});
  EXPECT_EQ(plan.status, 0) << plan.err;
  const ProgramResult run = run_program({"run", cut, "-p", "a", "-n", "1"});
  EXPECT_EQ(run.status, 3) << run.out;
  EXPECT_THAT(run.err, AllOf(StartsWith("error: "), HasSubstr(cut), HasSubstr("tensor ")));
}

TEST_F(GgufCommands, FilesThatEndWithinTheirHeaderAreRefused) {
  const std::string bytes = bytes_of(kFile);
  for (const size_t size : {24, 1000}) {
    SCOPED_TRACE(size);
    expect_refused(write("cut.gguf", bytes.substr(0, size)), "ends inside its header");
  }
}

TEST_F(GgufCommands, ACountBeyondTheFileIsRefused) {
  std::string bytes = bytes_of(kFile);
  constexpr size_t kCountOfKeys = 16;
  bytes.replace(kCountOfKeys, 8, std::string(8, '\x7f'));
  expect_refused(write("count.gguf", bytes), "too many tensors or keys");
}

TEST_F(GgufCommands, AnUnknownArchitectureIsNamedWithItsKey) {
  std::string bytes = bytes_of(kFile);
  bytes.replace(bytes.find("qwen3moe"), 8, "qwen9moe");
  expect_refused(write("other.gguf", bytes), "general.architecture");
}

TEST_F(GgufCommands, AKeyThatNobodyReadsIsNamed) {
  std::string bytes = bytes_of(kFile);
  const std::string known = "qwen3moe.rope.freq_base", other = "qwen3moe.rope.freq_basE";
  bytes.replace(bytes.find(known), known.size(), other);
  expect_refused(write("key.gguf", bytes), other);
}

}  // namespace
}  // namespace moe4
